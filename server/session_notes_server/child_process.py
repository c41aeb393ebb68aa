"""Child processes: start, restart with backoff, stop with escalation, and death with the parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from session_notes_server.settings import StartupError

log = logging.getLogger(__name__)

# The pause before a restart doubles each time, unless the process ran for longer than STABLE_SECONDS.
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.2, 30.0
STABLE_SECONDS = 10.0
STOP_SECONDS = 10.0

_LIBC = ctypes.CDLL(None)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent dies. Has an effect on Linux only."""
    if sys.platform == "linux":
        _LIBC.prctl(1, number)  # PR_SET_PDEATHSIG, see prctl(2)


class ChildProcess:
    """A child process that can be restarted.

    It runs in a new session, because Ctrl-C in a terminal signals the whole process group, but the parent decides when
    its children stop. The embedded store, for example, must outlive the calls in flight.

    Args:
        name: Its name in log lines.
        command: The program and its arguments.
        stop_seconds: The time between SIGTERM and SIGKILL in `stop`.

    Attributes:
        process: The current or last process, if any was started.
        backoff_seconds: The pause before the next restart.
    """

    def __init__(
        self, name: str, command: Sequence[str | os.PathLike[str]], *, stop_seconds: float = STOP_SECONDS
    ) -> None:
        self.name = name
        self._command = command
        self._stop_seconds = stop_seconds
        self.process: asyncio.subprocess.Process | None = None
        self.backoff_seconds = FIRST_BACKOFF_SECONDS

    @property
    def pid(self) -> int | None:
        """The process id, or None if no process is running."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    async def start(self) -> None:
        """Start the process. A subclass overrides this to pass options to `spawn`.

        Raises:
            OSError: If the program cannot be executed.
            StartupError: If a subclass cannot prepare the start.
        """
        await self.spawn()

    async def spawn(
        self, *, preexec_fn: Callable[[], None] = die_with_parent, **options: Any
    ) -> asyncio.subprocess.Process:
        """Execute the command with options of `asyncio.create_subprocess_exec`, and return the process."""
        self.process = await asyncio.create_subprocess_exec(
            *self._command, start_new_session=True, preexec_fn=preexec_fn, **options
        )
        return self.process

    async def wait(self) -> int:
        """Wait until the process ends, and return its exit code: -N if signal N ended it."""
        return 0 if self.process is None else await self.process.wait()

    def handle_exit(self, code: int) -> str:
        """React to an exit that `stop` did not cause, and return its description for the log."""
        return f"exit code {code}"

    async def keep_running(self) -> None:
        """Start the process unless it is running, and restart it whenever it ends. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                if self.pid is None:
                    await self.start()
                code = await self.wait()
            except (OSError, StartupError) as error:
                text = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
                outcome = f"cannot be started ({text})"
            else:
                if loop.time() - began > STABLE_SECONDS:
                    self.backoff_seconds = FIRST_BACKOFF_SECONDS
                outcome = f"ended by itself ({self.handle_exit(code)})"
            log.error("%s %s; restarting it in %.1f s", self.name, outcome, self.backoff_seconds)
            await asyncio.sleep(self.backoff_seconds)
            self.backoff_seconds = min(self.backoff_seconds * 2, LAST_BACKOFF_SECONDS)

    async def stop(self) -> None:
        """Terminate the process if it is running, and kill it if it has not ended in time."""
        if self.pid is None:
            return
        self.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_seconds):
                await self.wait()
        except TimeoutError:
            log.warning("%s did not stop within %.0f s; killing it", self.name, self._stop_seconds)
            await self.kill()

    async def kill(self) -> None:
        """Kill the process if it is running, and wait until it has ended."""
        self.send_signal(signal.SIGKILL)
        await self.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if it is running."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
