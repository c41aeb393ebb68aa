"""How the cost of a call grows with what there is, and what memory that takes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import psutil

from session_notes_tools.bench.contenders import Sessions, notes_of
from session_notes_tools.bench.load import Callers, Target
from session_notes_tools.bench.rounds import PYTHON, Load, Row, Tell, measured
from session_notes_tools.bench.stores import sidecar_over, store
from session_notes_tools.temporary_sidecar import TemporarySidecar

SESSIONS = (100, 10_000, 100_000)
NOTES_KIB = (1, 16, 256)
TURNS = (0, 200, 2000)
RUNS = (1, 20)
# What is only about the size of a session needs few of them.
GROUP = 20

Rows = list[dict[str, Any]]


async def growth(*, rounds: int, seconds: float, seed: int, step: Tell) -> tuple[Rows, Rows]:
    """Cost a call as sessions get more, and larger → that, and the memory that sessions take."""
    async with contextlib.AsyncExitStack() as stack:
        groups: list[tuple[str, int, list[Target]]] = []
        memory: Rows = []
        for count in SESSIONS:
            step(f"making {count} sessions")
            shared = await stack.enter_async_context(store())
            sidecar = await stack.enter_async_context(sidecar_over(shared.url))
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


def _larger(sidecar: TemporarySidecar) -> list[tuple[str, int, Sessions, dict[str, int]]]:
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


def _mib(pid: int) -> float:
    rss: int = psutil.Process(pid).memory_info().rss
    return round(rss / 1024 / 1024, 1)


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
