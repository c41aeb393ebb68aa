"""The sidecar as several processes: a supervisor that serves no calls, and workers that do.

The supervisor checks the settings, runs the embedded store and holds the addresses. A problem is therefore reported
once, at the start, and no other program can take a port while no worker listens on it. Workers are new interpreters,
not forks, because gRPC's threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from session_notes_server.rpc.connections import connections_per_address
from session_notes_server.rpc.engines import resolve
from session_notes_server.rpc.listening import check_addresses, hold
from session_notes_server.settings import InvalidSetting, Settings
from session_notes_server.sidecar.lifecycle import (
    Shutdown,
    announce_shutdown,
    background,
    disable_core_files,
    log_addresses,
    log_engine,
)
from session_notes_server.sidecar.resources import Resources, run_embedded_store
from session_notes_server.sidecar.systemd import READY, notify, ping_watchdog
from session_notes_server.sidecar.worker_process import WorkerProcess
from session_notes_server.telemetry.metrics import cells

log = logging.getLogger(__name__)


async def supervise(settings: Settings, on_ready: Callable[[Sequence[str]], None] = log_addresses) -> None:
    """Run the sidecar in `settings.workers` processes until SIGTERM, SIGINT or SIGHUP.

    For arguments and errors see `sidecar.serve`.
    """
    shutdown = Shutdown()
    _check_shareable(settings)
    check_addresses(settings)
    connections_per_address(settings)
    engine = resolve(settings.engine)
    resources = Resources.open(settings)
    disable_core_files()
    with contextlib.ExitStack() as held:
        addresses = tuple(held.enter_context(hold(address, shared=True)) for address in settings.listen)
        async with contextlib.AsyncExitStack() as stack:
            on_deletion = await stack.enter_async_context(run_embedded_store(resources.embedded, shutdown))
            bound_settings = replace(settings, listen=addresses, engine=engine)
            workers = [
                WorkerProcess(number, bound_settings, shutdown, on_deletion)
                for number in range(1, settings.workers + 1)
            ]
            await stack.enter_async_context(_expose_metrics(settings, workers))
            log_engine(settings.engine, engine)
            await stack.enter_async_context(background(ping_watchdog(lambda: _are_alive(workers))))
            await stack.enter_async_context(
                background(_report_ready(workers, addresses, on_ready), *(worker.keep_running() for worker in workers))
            )
            await shutdown.wait()
            announce_shutdown(settings)
    log.info("stopped")


def _check_shareable(settings: Settings) -> None:
    if sys.platform != "linux":
        raise InvalidSetting("only Linux shares a port's connections among processes: leave --workers at 1")
    if all(address.startswith("unix:") for address in settings.listen):
        raise InvalidSetting("a unix socket has one listener: leave --workers at 1, or --listen on a TCP address too")


def _are_alive(workers: Sequence[WorkerProcess]) -> bool:
    # Not in `all()`, which would stop at the first dead worker: `is_alive` must ping each one.
    alive = [worker.is_alive() for worker in workers]
    return all(alive)


async def _report_ready(
    workers: Sequence[WorkerProcess], addresses: Sequence[str], on_ready: Callable[[Sequence[str]], None]
) -> None:
    for worker in workers:
        await worker.serving.wait()
    on_ready(addresses)
    notify(READY)


@contextlib.asynccontextmanager
async def _expose_metrics(settings: Settings, workers: Sequence[WorkerProcess]) -> AsyncIterator[None]:
    """Expose the sum of all workers' metrics during the block, if the settings enable them."""
    if settings.metrics_listen is None:
        yield
        return
    from session_notes_server.telemetry.metrics.exposition import exposed

    counts = {worker: cells.at(worker.counts) for worker in workers if worker.counts is not None}

    def serving() -> list[cells.Cells]:
        return [numbers for worker, numbers in counts.items() if worker.serving.is_set()]

    def processes() -> dict[str, int]:
        pids = {worker.name: worker.pid for worker in workers if worker.pid is not None}
        return {"supervisor": os.getpid(), **pids}

    async with exposed(settings.metrics_listen, [*counts.values()], serving, processes):
        yield
