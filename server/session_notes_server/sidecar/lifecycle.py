"""What each of the sidecar's processes does as a process: its loop, its end, what goes on beside its work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence

from session_notes_server.settings import Settings
from session_notes_server.sidecar.systemd import STOPPING, notify

log = logging.getLogger(__name__)

AGAIN_SECONDS = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(sidecar: Coroutine[None, None, None]) -> None:
    """Run one of the sidecar's processes to its end, on uvloop where it is there."""
    with contextlib.closing(sidecar):  # Ctrl-C may come before it runs.
        try:
            import uvloop
        except ModuleNotFoundError:
            factory = None
        else:
            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(sidecar)
    # The loop no longer handles them, and what is left to do is done at once.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Shutdown:
    """The request to stop: SIGTERM, SIGINT or SIGHUP, from the construction on.

    A second signal makes haste: calls in flight are not waited for. One within AGAIN_SECONDS of the first is the same
    request: `timeout`, service managers and terminals send a signal to a process and to its group.
    """

    def __init__(self) -> None:
        self._asked, self.haste = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._at = 0.0
        for number in _SIGNALS:
            # nohup has it ignored, so that the process outlives its terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if not self._asked.is_set():
            self._at = self._loop.time()
            self._asked.set()
        elif self._loop.time() - self._at > AGAIN_SECONDS and not self.haste.is_set():
            log.warning("told to stop again: calls in flight are not waited for")
            self.haste.set()

    async def wait(self) -> None:
        """Wait for the request."""
        await self._asked.wait()

    async def unless_hasty(self, work: Coroutine[None, None, None]) -> None:
        """Run work that a stop can skip, until it ends or a second signal comes."""
        task, haste = asyncio.create_task(work), asyncio.create_task(self.haste.wait())
        try:
            await asyncio.wait((task, haste), return_when=asyncio.FIRST_COMPLETED)
        finally:
            haste.cancel()
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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
