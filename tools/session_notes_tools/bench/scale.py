"""More than one core, and more than one sidecar: does a call cost what it costs with one, and do all answer alike?"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
import psutil
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub

from session_notes_tools.bench.contenders import BATCH, Sessions, notes_of
from session_notes_tools.bench.load import LoadError, Slice, Target, h2load, saturated
from session_notes_tools.bench.rounds import FIRST_CALLS, MANY, Tell
from session_notes_tools.bench.stores import cluster, sidecar_over, store
from session_notes_tools.temporary_sidecar import TemporarySidecar

# Enough for the kernel to spread them over the workers.
SPREAD_CONNECTIONS = 16

Rows = list[dict[str, Any]]


async def workers(step: Tell, *, rounds: int, seconds: float) -> Rows:
    """One sidecar with one worker, and one with two and twice the load, on the same store.

    With the same load, each of two would have fewer calls in its hands, wake up for fewer, and so pay more for each.
    """
    async with contextlib.AsyncExitStack() as stack:
        shared = await stack.enter_async_context(store())
        targets = []
        for number in (1, 2):
            sidecar = await stack.enter_async_context(sidecar_over(shared.url, "--workers", str(number)))
            sessions = Sessions(sidecar.target, BATCH, notes_of())
            await sessions.fill()
            pids = (sidecar.pid, *(child.pid for child in psutil.Process(sidecar.pid).children()))
            targets.append(sessions.targets(f"workers {number}", sidecar.target, servers=pids, store=shared.pid)[0])
        slices = await _saturated_in_turn(
            [([one], MANY * number) for number, one in enumerate(targets, 1)], rounds=rounds, seconds=seconds, step=step
        )
    return [
        {
            "workers": number,
            "in_flight": MANY * number,
            "call": "GetNotes",
            "calls_per_second": _median(slices[at], _rate),
            "server_cpu_us": _median(slices[at], _server_cpu),
            "cpu_to_one_worker": round(
                statistics.median(
                    _server_cpu(mine) / _server_cpu(one) for mine, one in zip(slices[at], slices[0], strict=True)
                ),
                3,
            ),
        }
        for at, number in enumerate((1, 2))
    ]


async def two_on_a_cluster(step: Tell, *, rounds: int, seconds: float) -> Rows:
    """Two sidecars on a cluster of three nodes: do they agree, and what do they carry, alone and together?

    With one call in flight to each, so that a machine with few cores has room for both, and with many.
    """
    async with contextlib.AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(cluster())
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        first, second = [await stack.enter_async_context(sidecar_over(url)) for _ in range(2)]
        sessions = Sessions(first.target, BATCH, notes_of())
        await sessions.fill()
        differing = await _differing(sessions.ids, first, second)
        one, other = (sessions.targets("", sidecar.target, servers=(sidecar.pid,))[0] for sidecar in (first, second))
        groups = {"the first": [one], "the second": [other], "both": [one, other]}
        asked = [(name, in_flight) for in_flight in (1, MANY) for name in groups]
        slices = await _saturated_in_turn(
            [(groups[name], in_flight) for name, in_flight in asked], rounds=rounds, seconds=seconds, step=step
        )
    return [
        {
            "sidecars": name,
            "in_flight_to_each": in_flight,
            "calls_per_second": _median(some, _rate),
            "server_cpu_us": _median(some, _server_cpu),
            "answers_that_differ": f"{differing} of {len(sessions.ids)}",
        }
        for (name, in_flight), some in zip(asked, slices, strict=True)
    ]


async def _differing(ids: Sequence[str], first: TemporarySidecar, second: TemporarySidecar) -> int:
    """How many sessions have other notes, or another run, at one than at the other."""
    answers: list[list[bytes]] = []
    for sidecar in (first, second):
        async with grpc.aio.insecure_channel(sidecar.target) as channel:
            stub = SessionNotesStub(channel)
            read = [await stub.GetNotes(GetNotesRequest(session_id=one)) for one in ids]
        answers.append(
            [
                b"".join(part.SerializeToString(deterministic=True) for part in (one.notes, one.run, one.write_time))
                for one in read
            ]
        )
    return sum(mine != theirs for mine, theirs in zip(*answers, strict=True))


async def _saturated_in_turn(
    groups: Sequence[tuple[Sequence[Target], int]], *, rounds: int, seconds: float, step: Tell
) -> list[list[Slice]]:
    """Each group in turn, its targets at once with so many calls in flight to each → for each group a slice a round."""
    program = h2load()
    if program is None:
        raise LoadError("workers and sidecars are measured with h2load, which is not on PATH (Debian: nghttp2-client)")
    slices: list[list[Slice]] = [[] for _ in groups]
    counts = [FIRST_CALLS] * len(groups)
    for number in range(rounds + 1):
        for at, (group, in_flight) in enumerate(groups):
            step(f"round {number} of {rounds}")
            together = await asyncio.gather(
                *(saturated(program, one, in_flight, counts[at], connections=SPREAD_CONNECTIONS) for one in group)
            )
            merged = _merged(together)
            counts[at] = max(FIRST_CALLS, int(merged.calls / merged.seconds / len(group) * seconds))
            if number:
                slices[at].append(merged)
    return slices


def _merged(slices: Sequence[Slice]) -> Slice:
    """What came of several at once, as one."""
    calls = sum(one.calls for one in slices)
    return Slice(
        [us for one in slices for us in one.taken_us],
        max(one.seconds for one in slices),
        sum(_server_cpu(one) * one.calls for one in slices) / calls,
        None,
        None,
    )


def _rate(one: Slice) -> float:
    return one.calls / one.seconds


def _server_cpu(one: Slice) -> float:
    assert one.server_cpu_us is not None  # noqa: S101 - for the type checker: the processes are ours
    return one.server_cpu_us


def _median(slices: Sequence[Slice], figure: Callable[[Slice], float]) -> float:
    return round(statistics.median(map(figure, slices)), 1)
