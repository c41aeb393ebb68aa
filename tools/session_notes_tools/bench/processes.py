"""Server processes that listen on loopback ports and end with the bench."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from session_notes_server.child_process import ChildProcess

from session_notes_tools.bench.errors import BenchError

START_SECONDS = 10.0


class Server(ChildProcess):
    """A running server.

    Args:
        command: The program and its arguments.
        log: The file for its output.
    """

    def __init__(self, command: tuple[str, ...], log: IO[bytes]) -> None:
        super().__init__(command[0], command)
        self._log = log

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process id; empty once it has ended."""
        return () if self.pid is None else (self.pid,)

    def failure(self, text: str) -> BenchError:
        """Return an error with the last line of the server's output, and with all of it as the log."""
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")
        return BenchError(": ".join([text, *log.split("\n")[-2:-1]]), log)


@contextlib.asynccontextmanager
async def server_process(*command: str, port: int) -> AsyncIterator[Server]:
    """Run a server, and yield it once it listens on its port.

    Args:
        command: The program and its arguments.
        port: Its loopback port.

    Raises:
        BenchError: If it does not listen in time.
    """
    with tempfile.TemporaryFile() as log:
        server = Server(command, log)
        await server.spawn(stdout=log, stderr=log)
        try:
            await _wait_for_listener(port, server)
            yield server
        finally:
            await server.kill()


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module of the bench."""
    # -P: modules in the current directory must not shadow installed ones.
    return (sys.executable, "-P", "-m", f"session_notes_tools.bench.{module}", *arguments)


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are free at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


async def _wait_for_listener(port: int, server: Server) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while loop.time() < deadline and server.pid is not None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise server.failure("exited during startup" if server.pid is None else f"silent for {START_SECONDS:.0f} s")
