"""`bench --full`: how cost grows, what a sidecar takes to start and to keep, workers, a cluster, and the bars."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc.aio
import psutil
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub

from session_notes_server.bench.contenders import BATCH, Sessions, notes_of
from session_notes_server.bench.load import Callers, LoadError, Slice, Target, h2load, saturated
from session_notes_server.bench.rounds import FIRST_CALLS, MANY, PYTHON, Load, Row, Tell, measured
from session_notes_server.bench.stores import cluster, free_ports, store
from session_notes_server.throwaway import Throwaway, throwaway_sidecar

SESSIONS = (100, 10_000, 100_000)
NOTES_KIB = (1, 16, 256)
TURNS = (0, 200, 2000)
RUNS = (1, 20)
# What is only about the size of a session needs few of them.
GROUP = 20
STARTS = 7
# Enough for the kernel to spread them over the workers.
SPREAD_CONNECTIONS = 16

_IMPORT = """
import time
{before}
began = time.perf_counter()
import session_notes
print(time.perf_counter() - began)
"""
_NOT_OURS = """
import grpc, grpc.aio
from google.protobuf import descriptor_pool, json_format, message_factory, runtime_version, symbol_database
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2, any_pb2
"""

Rows = list[dict[str, Any]]


async def growth(*, rounds: int, seconds: float, seed: int, step: Tell) -> tuple[Rows, Rows]:
    """Cost a call as sessions get more, and larger → that, and the memory that sessions take."""
    async with contextlib.AsyncExitStack() as stack:
        groups: list[tuple[str, int, list[Target]]] = []
        memory: Rows = []
        for count in SESSIONS:
            step(f"making {count} sessions")
            shared = await stack.enter_async_context(store())
            sidecar = await stack.enter_async_context(throwaway_sidecar("--redis-url", shared.url))
            processes = {"servers": (sidecar.pid,), "store": shared.pid}
            sessions = Sessions(sidecar.target, count, notes_of())
            await sessions.fill()
            memory.append(
                {
                    "sessions": count,
                    "sidecar_mib": _mib(sidecar.pid),
                    "store_mib": _mib(shared.pid),
                    "store_bytes_per_session": _bytes_each(memory, count, shared.pid),
                }
            )
            groups.append(("sessions", count, _only(sessions.targets("", sidecar.target, **processes), "Notes")))
            if count == SESSIONS[0]:
                for dimension, size, group, fill in _larger(sidecar):
                    step(f"making sessions of {size} {dimension}")
                    await group.fill(**fill)
                    wanted = "Notes" if dimension != "turns" else ""
                    groups.append((dimension, size, _only(group.targets("", sidecar.target, **processes), wanted)))
        wanted_calls = [
            (target, Load(PYTHON, 1))
            for _, _, targets in groups
            for target in targets
            if target.name != "BatchGetNotes"
        ]
        async with Callers([target for target, _ in wanted_calls]).running() as callers:
            rows = iter(await measured(callers, wanted_calls, rounds=rounds, seconds=seconds, seed=seed, step=step))
        told: Rows = []
        smallest: dict[tuple[str, str], Row] = {}
        for dimension, size, targets in groups:
            for _ in targets:
                row = next(rows)
                first = smallest.setdefault((dimension, row.target.name), row)
                told.append(
                    {
                        "of": dimension,
                        "size": size,
                        "call": row.target.name,
                        "median_us": round(row.median_us, 1),
                        "server_cpu_us": _rounded(row.median_of("server_cpu_us")),
                        "store_cpu_us": _rounded(row.median_of("store_cpu_us")),
                        "median_to_smallest": _rounded(row.ratio(first, "median_us"), 3),
                    }
                )
        return told, memory


def _larger(sidecar: Throwaway) -> list[tuple[str, int, Sessions, dict[str, int]]]:
    """Groups of sessions that are larger in one way each."""
    at = sidecar.target
    return [
        *(("KiB of notes", kib, Sessions(at, GROUP, notes_of(kib * 1024)), {}) for kib in NOTES_KIB),
        *(("turns", turns, Sessions(at, GROUP, notes_of()), {"turns": turns}) for turns in TURNS),
        *(("runs", runs, Sessions(at, GROUP, notes_of()), {"runs": runs}) for runs in RUNS),
    ]


def _only(targets: Sequence[Target], word: str) -> list[Target]:
    """Those with a word in their name, but for the batches: these cost what their sessions do."""
    return [target for target in targets if word in target.name and target.name != "BatchGetNotes"]


def _bytes_each(memory: Rows, count: int, pid: int) -> int | None:
    """What each session beyond those of the first row takes in the store."""
    if not memory:
        return None
    more: float = (_mib(pid) - memory[0]["store_mib"]) * 1024 * 1024
    each: float = more / (count - memory[0]["sessions"])
    return round(each)


async def footprint(step: Tell) -> Rows:
    """What it takes to start the sidecar and to import the client."""
    rows = []
    for what, once in (
        ("serve to first answer, embedded store included", _start),
        ("import session_notes", lambda: _import("")),
        ("import session_notes, gRPC and protobuf being there", lambda: _import(_NOT_OURS)),
    ):
        step(what)
        taken = [await once() for _ in range(STARTS)]
        rows.append(
            {"what": what, "median_seconds": round(statistics.median(taken), 4), "worst_seconds": round(max(taken), 4)}
        )
    return rows


async def _start() -> float:
    """Seconds from the start of the program to the first answer."""
    port = free_ports(1)[0]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "session_notes_server", "serve"),
            *("--listen", f"127.0.0.1:{port}", "--data-dir", folder),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]
            async with asyncio.timeout(30):
                while process.returncode is None:
                    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            await SessionNotesStub(channel).GetNotes(GetNotesRequest(session_id="bench"), timeout=1)
                            return time.perf_counter() - began
                    await asyncio.sleep(0.005)
            raise LoadError("the sidecar does not start")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _import(before: str) -> float:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _IMPORT.format(before=before)), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return float(said)


async def workers(step: Tell, *, rounds: int, seconds: float) -> Rows:
    """One sidecar with one worker, and one with two, on the same store."""
    async with contextlib.AsyncExitStack() as stack:
        shared = await stack.enter_async_context(store())
        targets = []
        for number in (1, 2):
            sidecar = await stack.enter_async_context(
                throwaway_sidecar("--redis-url", shared.url, "--workers", str(number))
            )
            sessions = Sessions(sidecar.target, BATCH, notes_of())
            await sessions.fill()
            pids = (sidecar.pid, *(child.pid for child in psutil.Process(sidecar.pid).children()))
            targets.append(sessions.targets(f"workers {number}", sidecar.target, servers=pids, store=shared.pid)[0])
        slices = await _saturated_in_turn([[one] for one in targets], rounds=rounds, seconds=seconds, step=step)
    return [
        {
            "workers": number,
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
    """Two sidecars on a cluster of three nodes: do they agree, and what do they carry, alone and together?"""
    async with contextlib.AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(cluster())
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        first, second = [await stack.enter_async_context(throwaway_sidecar("--redis-url", url)) for _ in range(2)]
        sessions = Sessions(first.target, BATCH, notes_of())
        await sessions.fill()
        differing = await _differing(sessions.ids, first, second)
        one, other = (sessions.targets("", sidecar.target, servers=(sidecar.pid,))[0] for sidecar in (first, second))
        slices = await _saturated_in_turn([[one], [other], [one, other]], rounds=rounds, seconds=seconds, step=step)
    return [
        {
            "sidecars": name,
            "calls_per_second": _median(some, _rate),
            "server_cpu_us": _median(some, _server_cpu),
            "answers_that_differ": f"{differing} of {len(sessions.ids)}",
        }
        for name, some in zip(("the first", "the second", "both"), slices, strict=True)
    ]


async def _differing(ids: Sequence[str], first: Throwaway, second: Throwaway) -> int:
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
    groups: Sequence[Sequence[Target]], *, rounds: int, seconds: float, step: Tell
) -> list[list[Slice]]:
    """Each group in turn, its targets at once, as fast as they answer → for each group a slice a round."""
    program = h2load()
    if program is None:
        raise LoadError("workers and sidecars are measured with h2load, which is not on PATH (Debian: nghttp2-client)")
    slices: list[list[Slice]] = [[] for _ in groups]
    counts = [FIRST_CALLS] * len(groups)
    for number in range(rounds + 1):
        for at, group in enumerate(groups):
            step(f"round {number} of {rounds}")
            together = await asyncio.gather(
                *(saturated(program, one, MANY, counts[at], connections=SPREAD_CONNECTIONS) for one in group)
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


def _mib(pid: int) -> float:
    rss: int = psutil.Process(pid).memory_info().rss
    return round(rss / 1024 / 1024, 1)


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def bars(told: Mapping[str, Any]) -> Rows:
    """What the sidecar is held to, and what it came to."""
    rows: Rows = []

    def bar(what: str, at_most: float, figure: float | None) -> None:
        met = None if figure is None else "yes" if figure <= at_most else "no"
        rows.append({"bar": what, "at_most": at_most, "measured": figure, "met": met})

    def call(name: str, caller: str, in_flight: int, place: str = "session-notes (tcp)") -> Mapping[str, Any]:
        found = [
            row
            for row in told["calls"]
            if (row["call"], row["place"], row["caller"], row["in_flight"]) == (name, place, caller, in_flight)
        ]
        return found[0] if found else {}

    busiest = "h2load" if call("GetNotes", "h2load", MANY) else PYTHON
    get, write = call("GetNotes", busiest, MANY), call("WriteNotes", busiest, MANY)
    batch = call("BatchGetNotes", busiest, MANY)
    bar("server CPU of GetNotes ÷ floor, 64 in flight", 1.25, get.get("server_cpu_us_to_floor"))
    bar("median GetNotes ÷ floor, 1 in flight", 1.30, call("GetNotes", PYTHON, 1).get("median_us_to_floor"))
    bar("server CPU of WriteNotes ÷ floor, 64 in flight", 1.6, write.get("server_cpu_us_to_floor"))
    each = batch["server_cpu_us"] / BATCH / get["server_cpu_us"] if batch and get else None
    bar("BatchGetNotes of 100, per session ÷ one GetNotes", 0.10, _rounded(each, 3))
    grown = [
        row["median_to_smallest"]
        for row in told["growth"]
        if (row["of"], row["size"], row["call"]) == ("sessions", SESSIONS[-1], "GetNotes")
    ]
    bar("median GetNotes at 100,000 sessions ÷ at 100", 1.10, grown[0])
    bar("sidecar memory under load, MiB", 80 * 1e6 / 1024 / 1024, told["memory_under_load_mib"])
    start, whole, ours = (row["median_seconds"] for row in told["footprint"])
    bar("serve to first answered RPC, s", 0.8, start)
    bar("import of the client package, s", 0.25, whole)
    bar("import of the client package, of which ours, s", 0.010, ours)
    bar("server CPU of GetNotes, 2 workers ÷ 1", 1.10, told["workers"][1]["cpu_to_one_worker"])
    return rows


async def sections(step: Tell, *, rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    """All that `--full` adds, but for the bars."""
    grown, memory = await growth(rounds=rounds, seconds=seconds, seed=seed, step=step)
    return {
        "growth": grown,
        "memory": memory,
        "footprint": await footprint(step),
        "workers": await workers(step, rounds=rounds, seconds=seconds),
        "cluster": await two_on_a_cluster(step, rounds=rounds, seconds=seconds),
    }
