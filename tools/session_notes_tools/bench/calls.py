"""The `calls` section: every call to every server under every load, compared with the floor."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import psutil
from session_notes_server.sidecar.grpc_poller import POLLER

from session_notes_tools.bench.callers import Callers
from session_notes_tools.bench.contenders import bare_server, json_session, redis_documents
from session_notes_tools.bench.dapr import dapr_targets
from session_notes_tools.bench.rounds import Progress, floor_rows, loads_for, measure
from session_notes_tools.bench.sessions import BATCH_SIZE, Sessions, make_notes
from session_notes_tools.bench.stores import run_store, sidecar_on
from session_notes_tools.bench.targets import Target
from session_notes_tools.temporary_sidecar import REACH_TIMEOUT, wait_until_reachable

SESSIONS = 100


async def measure_temporary_sidecar(*, rounds: int, seconds: float, seed: int, progress: Progress) -> dict[str, Any]:
    """Measure a temporary sidecar over TCP and a unix socket, and every contender available."""
    notes = make_notes()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(run_store())
        sidecar = await stack.enter_async_context(sidecar_on(store.url))
        sessions = Sessions(sidecar.target, SESSIONS, notes)
        await sessions.fill()
        response_bytes = await sessions.response_bytes()
        targets = await stack.enter_async_context(bare_server(response_bytes))
        same_poller = bare_server(response_bytes, name="floor, sidecar's poller", poller=POLLER)
        targets += (await stack.enter_async_context(same_poller))[:1]
        for place, address in (("session-notes (tcp)", sidecar.target), ("session-notes (unix)", sidecar.unix)):
            targets += sessions.targets(place, address, servers=(sidecar.pid,), store=store.pid)
        targets += await stack.enter_async_context(redis_documents(store, json_session(notes), SESSIONS))
        targets += await stack.enter_async_context(dapr_targets(store, json_session(notes), SESSIONS))
        calls = await _measure(targets, rounds=rounds, seconds=seconds, seed=seed, progress=progress)
        memory = psutil.Process(sidecar.pid).memory_info().rss / 1024 / 1024
        return {"calls": calls, "memory_under_load_mib": round(memory, 1)}


async def measure_sidecar_at(
    address: str, pids: Sequence[int], *, rounds: int, seconds: float, seed: int, progress: Progress
) -> dict[str, Any]:
    """Measure a running sidecar and this machine's floor, and delete the bench's sessions afterwards.

    Args:
        address: The sidecar's address.
        pids: Its processes, whose CPU time is measured.
        rounds: The number of rounds after the warm-up.
        seconds: The length of a slice.
        seed: The seed of the order within the rounds.
        progress: Called before every slice.

    Raises:
        Unavailable: If the sidecar does not respond.
        PermissionDenied: If the caller may not delete sessions.
    """
    await wait_until_reachable(address, REACH_TIMEOUT)
    sessions = Sessions(address, SESSIONS, make_notes())
    # Without permission to delete sessions, fail before any is created.
    await sessions.delete()
    try:
        await sessions.fill()
        async with bare_server(await sessions.response_bytes()) as floor:
            place = f"session-notes at {address}"
            targets = [*floor, *sessions.targets(place, address, servers=tuple(pids))]
            return {"calls": await _measure(targets, rounds=rounds, seconds=seconds, seed=seed, progress=progress)}
    finally:
        await sessions.delete()


async def _measure(
    targets: list[Target], *, rounds: int, seconds: float, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    pairs = [(target, load) for target in targets for load in loads_for(target)]
    async with Callers(targets).running() as callers:
        rows = await measure(callers, pairs, rounds=rounds, seconds=seconds, seed=seed, progress=progress)
    floors = floor_rows(rows)
    return [
        row.as_json(floors.get((row.target.transport, row.load)))
        | {"sessions_per_call": BATCH_SIZE if row.target.name == "BatchGetNotes" else 1}
        for row in rows
    ]
