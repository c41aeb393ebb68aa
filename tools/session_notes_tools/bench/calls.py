"""The `calls` section: every call to every server under every load, compared with a bare gRPC server and daprd."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from session_notes_tools.bench import documents, echo
from session_notes_tools.bench.caller import PRIMARY_CLIENT
from session_notes_tools.bench.callers import Callers
from session_notes_tools.bench.contenders import Contenders, JSONSessions, bare_echo
from session_notes_tools.bench.dapr import dapr_client, run_daprd
from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.h2load import find_h2load
from session_notes_tools.bench.measurements import PYTHON
from session_notes_tools.bench.rounds import Progress, base_rows, loads_for, measure
from session_notes_tools.bench.sessions import BATCH_SIZE, Sessions, make_notes
from session_notes_tools.bench.stores import Store, run_store, sidecar_on
from session_notes_tools.bench.targets import Target
from session_notes_tools.temporary_sidecar import REACH_TIMEOUT, TemporarySidecar, wait_until_reachable

ENGINES = ("native", "grpcio")
SESSIONS = 100
MAIN_CALLS = {"GetNotes", "WriteNotes"}


@dataclass(frozen=True)
class _Sidecar:
    """A temporary sidecar on one engine.

    Attributes:
        engine: Its engine.
        process: The sidecar.
        idle_mb: Its memory before the measurement.
    """

    engine: str
    process: TemporarySidecar
    idle_mb: float

    def targets(self, sessions: Sessions, store: Store) -> list[Target]:
        """Return every call on the native engine over TCP, and the main ones on the other engine and over unix."""
        processes: dict[str, Any] = {"servers": (self.process.pid,), "store": store.pid}
        tcp, unix = (f"session-notes, {self.engine} ({transport})" for transport in ("tcp", "unix"))
        ids = tuple(session_id.encode() for session_id in sessions.ids)
        over_tcp = sessions.targets(tcp, self.process.target, **processes)
        over_unix = sessions.targets(unix, self.process.unix, **processes)
        client = Target(tcp, PRIMARY_CLIENT, self.process.target, PRIMARY_CLIENT, ids, protocol="client", **processes)
        if self.engine != "native":
            return [*(target for target in over_tcp if target.name in MAIN_CALLS), client]
        return [*over_tcp, *(target for target in over_unix if target.name == "GetNotes"), client]

    def memory(self) -> dict[str, Any]:
        """Return its memory before and after the measurement."""
        return {"engine": self.engine, "idle_mb": self.idle_mb, "under_load_mb": _memory_mb(self.process.pid)}


async def measure_temporary_sidecars(*, rounds: int, seconds: float, seed: int, progress: Progress) -> dict[str, Any]:
    """Measure a temporary sidecar on each engine, and every contender available.

    Raises:
        BenchError: If no sidecar starts, or a call fails.
    """
    notes = make_notes()
    async with contextlib.AsyncExitStack() as stack:
        contenders = Contenders(stack)
        store = await stack.enter_async_context(run_store())
        started = [await contenders.start(f"session-notes, {engine}", _sidecar(store, engine)) for engine in ENGINES]
        sidecars = [sidecar for sidecar in started if sidecar is not None]
        if not sidecars:
            raise BenchError("\n".join(contenders.left_out))
        sessions = Sessions(sidecars[0].process.target, SESSIONS, notes)
        await sessions.fill()
        targets = await _echoes(contenders, await sessions.response_bytes(), "tcp")
        for sidecar in sidecars:
            targets += sidecar.targets(sessions, store)
        json_sessions = JSONSessions(store, notes, SESSIONS)
        await json_sessions.fill()
        if daprd := await contenders.start("daprd", run_daprd(store, json_sessions)):
            targets += daprd.targets
            targets += await contenders.targets("DaprClient", dapr_client(daprd, json_sessions))
        for kind in (documents.GRPC_AIO, documents.FASTAPI):
            targets += await contenders.targets(f"{kind} and redis-py", json_sessions.server(kind))
        targets += json_sessions.targets()
        calls = await _measure(targets, rounds=rounds, seconds=seconds, seed=seed, progress=progress)
        memory = [sidecar.memory() for sidecar in sidecars]
        return {"calls": calls, "engines": memory, "left_out": _left_out(contenders)}


async def measure_sidecar_at(
    address: str, pids: Sequence[int], *, rounds: int, seconds: float, seed: int, progress: Progress
) -> dict[str, Any]:
    """Measure a running sidecar and bare gRPC servers on this machine, and delete the bench's sessions afterwards.

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
        async with contextlib.AsyncExitStack() as stack:
            contenders = Contenders(stack)
            own = sessions.targets(f"session-notes at {address}", address, servers=tuple(pids))
            targets = [*await _echoes(contenders, await sessions.response_bytes(), own[0].transport), *own]
            calls = await _measure(targets, rounds=rounds, seconds=seconds, seed=seed, progress=progress)
            return {"calls": calls, "left_out": _left_out(contenders)}
    finally:
        await sessions.delete()


@contextlib.asynccontextmanager
async def _sidecar(store: Store, engine: str) -> AsyncIterator[_Sidecar]:
    async with sidecar_on(store.url, "--engine", engine) as process:
        await wait_until_reachable(process.target, REACH_TIMEOUT)
        yield _Sidecar(engine, process, _memory_mb(process.pid))


async def _echoes(contenders: Contenders, response_bytes: int, transport: str) -> list[Target]:
    """Run a bare gRPC server on each engine, and return their targets over a transport."""
    targets: list[Target] = []
    for engine in (echo.GRPC_AIO, echo.NATIVE):
        targets += await contenders.targets(f"bare {engine}", bare_echo(engine, response_bytes))
    return [target for target in targets if target.transport == transport]


async def _measure(
    targets: Sequence[Target], *, rounds: int, seconds: float, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    pairs = loads_for(targets)
    async with Callers([target for target, load in pairs if load.caller == PYTHON]).running() as callers:
        rows = await measure(callers, pairs, rounds=rounds, seconds=seconds, seed=seed, progress=progress)
    return [
        row.as_json(base_rows(rows, row))
        | {"sessions_per_call": BATCH_SIZE if row.target.name == "BatchGetNotes" else 1}
        for row in rows
    ]


def _left_out(contenders: Contenders) -> list[str]:
    h2load = "h2load: not on PATH (Debian package nghttp2-client); Python callers replace it"
    return [*contenders.left_out, *([] if find_h2load() else [h2load])]


def _memory_mb(pid: int) -> float:
    rss: int = psutil.Process(pid).memory_info().rss
    return round(rss / 1e6, 1)
