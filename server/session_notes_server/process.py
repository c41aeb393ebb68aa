"""What each of the sidecar's processes does as a process: its loop, its end, what goes on beside its work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence

from session_notes_server.notify import STOPPING, notify
from session_notes_server.settings import Settings

log = logging.getLogger(__name__)


def run(sidecar: Coroutine[None, None, None]) -> None:
    """Run one of the sidecar's processes to its end, on uvloop where it is there."""
    try:
        import uvloop
    except ModuleNotFoundError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(sidecar)


def stopping() -> asyncio.Event:
    """What SIGTERM and SIGINT set from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def tell_stopping(settings: Settings) -> None:
    """Say that the end has begun."""
    notify(STOPPING)
    log.info("stopping: no new calls, at most %.0f s for those in flight", settings.grace.total_seconds())


def forbid_core_files() -> None:
    """None of ours, nor of the embedded store, whose would be in its data directory: they hold what users said."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def log_addresses(addresses: Sequence[str]) -> None:
    """Say where calls are answered."""
    for address in addresses:
        log.info("listening on %s", address)


@contextlib.asynccontextmanager
async def background(*works: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """What goes on beside the calls, and ends with them."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
