"""Child processes that run this package's Python programs, connected by pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Self, cast

from session_notes_server.child_process import ChildProcess

# The sidecar takes up to 5 s for calls in flight, and then up to 10 s for its store.
STOP_SECONDS = 15.0
_LONGEST_LINE_BYTES = 64 * 1024 * 1024


class ProcessFailed(Exception):
    """A child process failed. The text contains its name and the last line of its stderr.

    Args:
        text: The text.
        log: The last lines of its stderr.
    """

    def __init__(self, text: str, log: str = "") -> None:
        super().__init__(text)
        self.log = log


class PythonProcess(ChildProcess):
    """A Python program that runs during a `with` block.

    Args:
        name: Its name in error texts.
        arguments: The interpreter's arguments, such as `-m` and a module.
        env: Its environment. None: the environment of this process.

    Attributes:
        stdin, stdout, stderr: Its standard streams, once started.
    """

    def __init__(self, name: str, arguments: Iterable[str], env: Mapping[str, str] | None = None) -> None:
        # -P: modules in the current directory must not shadow installed ones.
        super().__init__(name, (sys.executable, "-P", *arguments), stop_seconds=STOP_SECONDS)
        self._env = env
        self._stderr_tail: deque[str] = deque(maxlen=20)
        self._drain: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the program with its standard streams connected to pipes."""
        pipe = asyncio.subprocess.PIPE
        process = await self.spawn(stdin=pipe, stdout=pipe, stderr=pipe, limit=_LONGEST_LINE_BYTES, env=self._env)
        self.stdin = cast(asyncio.StreamWriter, process.stdin)
        self.stdout = cast(asyncio.StreamReader, process.stdout)
        self.stderr = cast(asyncio.StreamReader, process.stderr)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._drain is not None:
            self._drain.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._drain

    async def read_stderr_line(self) -> str | None:
        """Return the next line of stderr, or None at its end."""
        line = (await self.stderr.readline()).decode(errors="replace")
        if line.strip():
            self._stderr_tail.append(line.rstrip())
        return line or None

    def drain_stderr(self) -> None:
        """Read the rest of stderr in the background, because a full pipe would block the program."""

        async def drain() -> None:
            while await self.read_stderr_line() is not None:
                pass

        self._drain = asyncio.create_task(drain())

    async def send_job(self, job: dict[str, Any], sessions: Iterable[dict[str, Any]]) -> None:
        """Send a job and its sessions to stdin, one JSON document per line, with an empty line at the end."""
        with contextlib.suppress(ConnectionError):  # The program has exited. `check_exit` reports it.
            for part in (job, *sessions):
                self.stdin.write(json.dumps(part).encode() + b"\n")
                await self.stdin.drain()
            self.stdin.write(b"\n")
            await self.stdin.drain()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of stdout until the program ends.

        Raises:
            ProcessFailed: If it fails.
        """
        async for line in self.stdout:
            yield line
        await self.check_exit()

    async def check_exit(self) -> None:
        """Wait until the program ends.

        Raises:
            ProcessFailed: If its exit code is not 0.
        """
        if code := await self.wait():
            raise self.failure(f"exited with code {code}")

    def failure(self, text: str) -> ProcessFailed:
        """Return an error with this text and the last line of stderr."""
        # Without letters and digits, a line is only decoration, as around the traceback of an exception group.
        lines = [line for line in self._stderr_tail if any(map(str.isalnum, line))]
        return ProcessFailed(": ".join([f"the {self.name} {text}", *lines[-1:]]), "\n".join(self._stderr_tail))
