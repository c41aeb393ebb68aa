"""The `growth` and `memory` sections: cost per call and memory, by number and size of sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from session_notes_tools.bench.callers import Callers
from session_notes_tools.bench.measurements import PYTHON, Load, Row, rounded
from session_notes_tools.bench.rounds import Progress, measure
from session_notes_tools.bench.sessions import Sessions, make_notes
from session_notes_tools.bench.stores import run_store, sidecar_on
from session_notes_tools.bench.targets import Target

SESSIONS = (100, 10_000, 100_000)
NOTES_KIB = (1, 16, 256)
TURNS = (0, 200, 2000)
RUNS = (1, 20)
GROUP_SIZE = 20
"""The number of sessions of each size."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class _Group:
    """Targets on sessions of one size in one dimension."""

    dimension: str
    size: int
    targets: Sequence[Target]


async def measure_growth(*, rounds: int, seconds: float, seed: int, progress: Progress) -> tuple[Rows, Rows]:
    """Return the rows of the sections `growth` and `memory`."""
    async with contextlib.AsyncExitStack() as stack:
        groups: list[_Group] = []
        memory: Rows = []
        for count in SESSIONS:
            progress(f"creating {count} sessions")
            store = await stack.enter_async_context(run_store())
            sidecar = await stack.enter_async_context(sidecar_on(store.url))
            processes = {"servers": (sidecar.pid,), "store": store.pid}
            sessions = Sessions(sidecar.target, count, make_notes())
            await sessions.fill()
            memory.append(
                {
                    "sessions": count,
                    "sidecar_mib": _memory_mib(sidecar.pid),
                    "store_mib": _memory_mib(store.pid),
                    "store_bytes_per_session": _bytes_per_session(memory, count, store.pid),
                }
            )
            groups.append(_Group("sessions", count, _notes_calls(sessions.targets("", sidecar.target, **processes))))
            if count == SESSIONS[0]:
                for dimension, size, sessions, contents in _larger_sessions(sidecar.target):
                    progress(f"creating sessions of {size} {dimension}")
                    await sessions.fill(**contents)
                    targets = _without_batches(sessions.targets("", sidecar.target, **processes))
                    groups.append(_Group(dimension, size, targets if dimension == "turns" else _notes_calls(targets)))
        pairs = [(target, Load(PYTHON, 1)) for group in groups for target in group.targets]
        async with Callers([target for target, _ in pairs]).running() as callers:
            rows = await measure(callers, pairs, rounds=rounds, seconds=seconds, seed=seed, progress=progress)
        return _compare_with_smallest(groups, iter(rows)), memory


def _larger_sessions(address: str) -> Iterator[tuple[str, int, Sessions, dict[str, int]]]:
    """Yield dimension, size, sessions and the arguments of `fill`, for each size in each dimension."""
    for kib in NOTES_KIB:
        yield "KiB of notes", kib, Sessions(address, GROUP_SIZE, make_notes(kib * 1024)), {}
    for turns in TURNS:
        yield "turns", turns, Sessions(address, GROUP_SIZE, make_notes()), {"turns": turns}
    for runs in RUNS:
        yield "runs", runs, Sessions(address, GROUP_SIZE, make_notes()), {"runs": runs}


def _without_batches(targets: Sequence[Target]) -> list[Target]:
    """Return the targets without batches, which grow as their sessions do."""
    return [target for target in targets if target.name != "BatchGetNotes"]


def _notes_calls(targets: Sequence[Target]) -> list[Target]:
    return [target for target in _without_batches(targets) if target.name.endswith("Notes")]


def _compare_with_smallest(groups: Sequence[_Group], rows: Iterator[Row]) -> Rows:
    """Return each row as JSON, compared with the same call at the dimension's smallest size."""
    documents: Rows = []
    smallest: dict[tuple[str, str], Row] = {}
    for group in groups:
        for target in group.targets:
            row = next(rows)
            base = smallest.setdefault((group.dimension, target.name), row)
            documents.append(
                {
                    "of": group.dimension,
                    "size": group.size,
                    "call": target.name,
                    "median_us": round(row.median_us, 1),
                    "server_cpu_us": rounded(row.median_of("server_cpu_us"), 1),
                    "store_cpu_us": rounded(row.median_of("store_cpu_us"), 1),
                    "median_to_smallest": rounded(row.ratio(base, "median_us"), 3),
                }
            )
    return documents


def _bytes_per_session(memory: Rows, count: int, pid: int) -> int | None:
    """Return the store's memory per session added since the first row, or None for the first row itself."""
    if not memory:
        return None
    growth_bytes: float = (_memory_mib(pid) - memory[0]["store_mib"]) * 1024 * 1024
    sessions: int = count - memory[0]["sessions"]
    return round(growth_bytes / sessions)


def _memory_mib(pid: int) -> float:
    rss: int = psutil.Process(pid).memory_info().rss
    return round(rss / 1024 / 1024, 1)
