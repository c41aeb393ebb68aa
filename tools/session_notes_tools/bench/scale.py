"""The `workers` and `cluster` sections: several workers, and several sidecars on one cluster."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Sequence
from typing import Any

import grpc.aio
import psutil
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub

from session_notes_tools.bench.h2load import call_with_h2load, require_h2load
from session_notes_tools.bench.measurements import Slice
from session_notes_tools.bench.rounds import FIRST_CALLS, MANY_IN_FLIGHT, Progress
from session_notes_tools.bench.sessions import BATCH_SIZE, Sessions, make_notes
from session_notes_tools.bench.stores import run_cluster, run_store, sidecar_on
from session_notes_tools.bench.targets import Target
from session_notes_tools.temporary_sidecar import TemporarySidecar

CONNECTIONS = 16
"""Enough for the kernel to spread them over the workers."""

Rows = list[dict[str, Any]]
Group = tuple[Sequence[Target], int]
"""Targets to call at the same time, and the calls in flight to each."""


async def measure_workers(progress: Progress, *, rounds: int, seconds: float) -> Rows:
    """Return a row for one worker, and one for two workers with twice the load, on the same store.

    With the same load, each of two workers would handle fewer calls per wake-up, and so use more CPU per call.

    Raises:
        BenchError: If h2load is not on PATH.
    """
    counts = (1, 2)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(run_store())
        targets = []
        for workers in counts:
            sidecar = await stack.enter_async_context(sidecar_on(store.url, "--workers", str(workers)))
            sessions = Sessions(sidecar.target, BATCH_SIZE, make_notes())
            await sessions.fill()
            pids = (sidecar.pid, *(child.pid for child in psutil.Process(sidecar.pid).children()))
            targets.append(sessions.targets(f"workers {workers}", sidecar.target, servers=pids, store=store.pid)[0])
        groups = [([target], MANY_IN_FLIGHT * workers) for workers, target in zip(counts, targets, strict=True)]
        slices = await _measure_in_turn(groups, rounds=rounds, seconds=seconds, progress=progress)
    single = slices[0]
    return [
        {
            "workers": workers,
            "in_flight": MANY_IN_FLIGHT * workers,
            "call": "GetNotes",
            **_medians(group),
            "cpu_to_one_worker": round(
                statistics.median(_server_cpu(a) / _server_cpu(b) for a, b in zip(group, single, strict=True)), 3
            ),
        }
        for workers, group in zip(counts, slices, strict=True)
    ]


async def measure_cluster(progress: Progress, *, rounds: int, seconds: float) -> Rows:
    """Return rows for two sidecars on a cluster of three nodes, one alone and both together.

    Each case runs with one call in flight, which leaves both sidecars room on a machine with few cores, and with many.

    Raises:
        BenchError: If h2load is not on PATH.
    """
    async with contextlib.AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(run_cluster())
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        sidecars = [await stack.enter_async_context(sidecar_on(url)) for _ in range(2)]
        sessions = Sessions(sidecars[0].target, BATCH_SIZE, make_notes())
        await sessions.fill()
        differences = await _count_differences(sessions.ids, sidecars)
        first, second = (sessions.targets("", sidecar.target, servers=(sidecar.pid,))[0] for sidecar in sidecars)
        named = {"one": [first], "both": [first, second]}
        cases = [(name, in_flight) for in_flight in (1, MANY_IN_FLIGHT) for name in named]
        groups = [(named[name], in_flight) for name, in_flight in cases]
        slices = await _measure_in_turn(groups, rounds=rounds, seconds=seconds, progress=progress)
    return [
        {
            "sidecars": name,
            "in_flight_to_each": in_flight,
            **_medians(group),
            "answers_that_differ": f"{differences} of {len(sessions.ids)}",
        }
        for (name, in_flight), group in zip(cases, slices, strict=True)
    ]


async def _count_differences(ids: Sequence[str], sidecars: Sequence[TemporarySidecar]) -> int:
    """Return the number of sessions whose notes, run or write time differ between two sidecars."""
    responses: list[list[bytes]] = []
    for sidecar in sidecars:
        async with grpc.aio.insecure_channel(sidecar.target) as channel:
            stub = SessionNotesStub(channel)
            messages = [await stub.GetNotes(GetNotesRequest(session_id=session_id)) for session_id in ids]
        responses.append(
            [
                b"".join(part.SerializeToString(deterministic=True) for part in (msg.notes, msg.run, msg.write_time))
                for msg in messages
            ]
        )
    return sum(a != b for a, b in zip(*responses, strict=True))


async def _measure_in_turn(
    groups: Sequence[Group], *, rounds: int, seconds: float, progress: Progress
) -> list[list[Slice]]:
    """Call the groups in turn, the targets of a group concurrently, and return one slice per group and round."""
    program = require_h2load()
    slices: list[list[Slice]] = [[] for _ in groups]
    calls = [FIRST_CALLS] * len(groups)
    for number in range(rounds + 1):
        for index, (targets, in_flight) in enumerate(groups):
            progress(f"round {number} of {rounds}")
            merged = _merge(
                await asyncio.gather(
                    *(
                        call_with_h2load(program, target, in_flight, calls[index], connections=CONNECTIONS)
                        for target in targets
                    )
                )
            )
            calls[index] = max(FIRST_CALLS, int(merged.calls_per_second / len(targets) * seconds))
            if number:
                slices[index].append(merged)
    return slices


def _merge(slices: Sequence[Slice]) -> Slice:
    """Merge concurrent slices into one."""
    calls = sum(slice_.calls for slice_ in slices)
    return Slice(
        [latency for slice_ in slices for latency in slice_.latencies_us],
        max(slice_.seconds for slice_ in slices),
        sum(_server_cpu(slice_) * slice_.calls for slice_ in slices) / calls,
        None,
        None,
    )


def _medians(slices: Sequence[Slice]) -> dict[str, float]:
    return {
        "calls_per_second": round(statistics.median(slice_.calls_per_second for slice_ in slices), 1),
        "server_cpu_us": round(statistics.median(map(_server_cpu, slices)), 1),
    }


def _server_cpu(slice_: Slice) -> float:
    assert slice_.server_cpu_us is not None  # noqa: S101 - for the type checker: the targets name their processes
    return slice_.server_cpu_us
