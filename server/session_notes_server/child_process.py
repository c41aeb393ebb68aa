"""Programs of ours that run beside this one: started, listened to, given a job, and surely stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self, cast

from session_notes_server.embedded.valkey import die_with_parent

STOP_SECONDS = 15.0
_LONGEST_LINE_BYTES = 64 * 1024 * 1024


class ProgramError(Exception):
    """A program of ours ended as it must not. Its text says which, and the end of what it wrote to stderr."""


class Program:
    """A program as its parent sees it: running while the `with` block does, and not longer.

    Args:
        name: What people call it.
        arguments: For the Python interpreter: what to run.
    """

    def __init__(self, name: str, arguments: Iterable[str], env: dict[str, str] | None = None) -> None:
        self.name = name
        self._arguments = tuple(arguments)
        self._env = env
        self._complaints: deque[str] = deque(maxlen=20)
        self._listener: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # A module in the current directory is none of ours.
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE_BYTES,
            env=self._env,
            # Ctrl-C in a terminal goes to the whole process group; we say when it is over.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener

    async def complaint(self) -> str | None:
        """The next line it writes to stderr; None: it has ended."""
        stderr = cast(asyncio.StreamReader, self.process.stderr)
        line = (await stderr.readline()).decode(errors="replace")
        if line.strip():
            self._complaints.append(line.rstrip())
        return line or None

    def listen_on(self) -> None:
        """Goes on reading stderr in the background: a full pipe would hold the program up."""

        async def listen() -> None:
            while await self.complaint() is not None:
                pass

        self._listener = asyncio.create_task(listen())

    async def give(self, job: dict[str, Any], sessions: Iterable[dict[str, Any]]) -> None:
        """Hands it its job."""
        stdin = cast(asyncio.StreamWriter, self.process.stdin)
        # One that is gone already is told apart by how it ended.
        with contextlib.suppress(ConnectionError):
            for part in (job, *sessions):
                stdin.write(json.dumps(part).encode() + b"\n")
                await stdin.drain()
            stdin.write(b"\n")
            await stdin.drain()

    def stop(self) -> None:
        """Tells it to finish what it is at."""
        cast(asyncio.StreamWriter, self.process.stdin).close()

    async def lines(self) -> AsyncIterator[bytes]:
        """What it writes to stdout, line by line, until it ends.

        Raises:
            ProgramError: It did not end well.
        """
        async for line in cast(asyncio.StreamReader, self.process.stdout):
            yield line
        await self.ended_well()

    async def ended_well(self) -> None:
        """Waits for its end.

        Raises:
            ProgramError: It did not end well.
        """
        if code := await self.process.wait():
            raise self.error(f"ended with exit code {code}")

    def error(self, what: str) -> ProgramError:
        """The error that says what became of it."""
        # The frames that Python draws around a traceback are no news.
        said = [line for line in self._complaints if any(map(str.isalnum, line))]
        return ProgramError(": ".join([f"the {self.name} {what}", *said[-1:]]))
