"""The table: every call, at every place, in every way of calling."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import psutil
from session_notes_server.rpc.grpc_poller import POLLER

from session_notes_tools.bench.contenders import BATCH, Sessions, bare_server, blobs, json_of, notes_of
from session_notes_tools.bench.load import Callers, Target
from session_notes_tools.bench.peers import peers
from session_notes_tools.bench.rounds import Tell, floors, how, loads_for, measured
from session_notes_tools.bench.stores import sidecar_over, store
from session_notes_tools.temporary_sidecar import REACH_TIMEOUT, wait_until_reachable

SESSIONS = 100


async def own_table(*, rounds: int, seconds: float, seed: int, step: Tell) -> dict[str, Any]:
    """A sidecar of our own, over TCP and a unix socket, and all it can be compared with here."""
    notes = notes_of()
    async with contextlib.AsyncExitStack() as stack:
        shared = await stack.enter_async_context(store())
        sidecar = await stack.enter_async_context(sidecar_over(shared.url))
        sessions = Sessions(sidecar.target, SESSIONS, notes)
        await sessions.fill()
        answer_bytes = await sessions.answer_bytes()
        targets = await stack.enter_async_context(bare_server(answer_bytes))
        ours = bare_server(answer_bytes, name="floor, our poller", poller=POLLER)
        targets += (await stack.enter_async_context(ours))[:1]
        for place, address in (("session-notes (tcp)", sidecar.target), ("session-notes (unix)", sidecar.unix)):
            targets += sessions.targets(place, address, servers=(sidecar.pid,), store=shared.pid)
        targets += await stack.enter_async_context(blobs(shared, json_of(notes), SESSIONS))
        targets += await stack.enter_async_context(peers(shared, json_of(notes), SESSIONS))
        calls = await _told(targets, rounds=rounds, seconds=seconds, seed=seed, step=step)
        memory = psutil.Process(sidecar.pid).memory_info().rss / 1024 / 1024
        return {"calls": calls, "memory_under_load_mib": round(memory, 1)}


async def table_of(
    address: str, pids: Sequence[int], *, rounds: int, seconds: float, seed: int, step: Tell
) -> dict[str, Any]:
    """Somebody's sidecar, and the floor of this machine. The sessions made there are removed in the end."""
    await wait_until_reachable(address, REACH_TIMEOUT)
    sessions = Sessions(address, SESSIONS, notes_of())
    # Who may not remove them is to hear so before they are there.
    await sessions.remove()
    try:
        await sessions.fill()
        async with bare_server(await sessions.answer_bytes()) as bare:
            place = f"session-notes at {address}"
            targets = [*bare, *sessions.targets(place, address, servers=tuple(pids))]
            return {"calls": await _told(targets, rounds=rounds, seconds=seconds, seed=seed, step=step)}
    finally:
        await sessions.remove()


async def _told(targets: list[Target], *, rounds: int, seconds: float, seed: int, step: Tell) -> list[dict[str, Any]]:
    wanted = [(target, load) for target in targets for load in loads_for(target)]
    async with Callers(targets).running() as callers:
        rows = await measured(callers, wanted, rounds=rounds, seconds=seconds, seed=seed, step=step)
    compared = floors(rows)
    return [
        row.document(compared.get((how(row.target), row.load)))
        | {"sessions_per_call": BATCH if row.target.name == "BatchGetNotes" else 1}
        for row in rows
    ]
