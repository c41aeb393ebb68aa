"""Lifecycle of all the sidecar's processes: event loop, stop signals, background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence

from session_notes_server.rpc.engines import INSTALL_NATIVE
from session_notes_server.settings import EngineName, Settings
from session_notes_server.sidecar.systemd import STOPPING, notify

log = logging.getLogger(__name__)

SAME_REQUEST_SECONDS = 0.5
"""Signals within this time of the first count as one request to stop, because `timeout`, service managers and terminals
signal both a process and its process group."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(main: Coroutine[None, None, None]) -> None:
    """Run the main coroutine of a process, on uvloop if it is installed."""
    with contextlib.closing(main):  # Ctrl-C may arrive before it runs.
        try:
            import uvloop
        except ModuleNotFoundError:
            factory = None
        else:
            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main)
    # The loop no longer handles signals, and the process is about to end.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Shutdown:
    """The request to stop, made by SIGTERM, SIGINT or SIGHUP. The constructor installs the signal handlers.

    A second signal makes the shutdown urgent: it no longer waits for calls in flight.

    Attributes:
        urgent: Set by the second signal.
    """

    def __init__(self) -> None:
        self._requested, self.urgent = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._requested_at = 0.0
        for number in _SIGNALS:
            # Under nohup, SIGHUP stays ignored, so that the process outlives its terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._handle_signal)

    def _handle_signal(self) -> None:
        if not self._requested.is_set():
            self._requested_at = self._loop.time()
            self._requested.set()
        elif self._loop.time() - self._requested_at > SAME_REQUEST_SECONDS and not self.urgent.is_set():
            log.warning("second stop signal: not waiting for calls in flight")
            self.urgent.set()

    async def wait(self) -> None:
        """Wait for the request to stop."""
        await self._requested.wait()

    async def unless_requested(self, work: Coroutine[None, None, object]) -> None:
        """Run work until it ends, or until the request to stop."""
        await _unless(self._requested, work)

    async def unless_urgent(self, work: Coroutine[None, None, object]) -> None:
        """Run work until it ends, or until the shutdown is urgent."""
        await _unless(self.urgent, work)


async def _unless(event: asyncio.Event, work: Coroutine[None, None, object]) -> None:
    task, occurred = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait((task, occurred), return_when=asyncio.FIRST_COMPLETED)
    finally:
        occurred.cancel()
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def announce_shutdown(settings: Settings) -> None:
    """Notify the service manager of the shutdown, and log it."""
    notify(STOPPING)
    log.info("stopping: no new calls, at most %.0f s for those in flight", settings.grace.total_seconds())


def log_engine(setting: EngineName, engine: EngineName) -> None:
    """Log the engine that serves calls and, if `auto` lacks the package of the native one, how to install it."""
    if setting is EngineName.AUTO and engine is EngineName.GRPCIO:
        log.warning(
            "engine: grpcio, because the package ngh2 is missing or cannot be imported. With it, calls "
            "take a fraction of the CPU: %s",
            INSTALL_NATIVE,
        )
    else:
        log.info("engine: %s", engine)


def log_addresses(addresses: Sequence[str]) -> None:
    """Log the addresses on which calls are served."""
    for address in addresses:
        log.info("listening on %s", address)


def disable_core_files() -> None:
    """Prevent core files of this process and its children, which would contain user data.

    The embedded store would write its core file to the data directory.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@contextlib.asynccontextmanager
async def background(*coroutines: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run coroutines as tasks during the block, and cancel them at its end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
