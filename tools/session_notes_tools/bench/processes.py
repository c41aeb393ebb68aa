"""Server processes that listen on loopback ports and end with the bench."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from session_notes_server.child_process import ChildProcess

from session_notes_tools.bench.errors import BenchError

START_SECONDS = 10.0


@contextlib.asynccontextmanager
async def server_process(*command: str, port: int, output: int | None = None) -> AsyncIterator[int]:
    """Run a server, and yield its process id once it listens on its port.

    Args:
        command: The program and its arguments.
        port: Its loopback port.
        output: A file descriptor for stdout and stderr, such as `subprocess.DEVNULL`; None: those of the bench.

    Raises:
        BenchError: If it does not listen in time.
    """
    process = ChildProcess(command[0], command)
    await process.spawn(stdout=output, stderr=output)
    try:
        yield await _wait_for_listener(port, process)
    finally:
        await process.kill()


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are free at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


async def _wait_for_listener(port: int, process: ChildProcess) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while loop.time() < deadline and (pid := process.pid) is not None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return pid
        await asyncio.sleep(0.01)
    raise BenchError(f"{process.name} did not start to listen on 127.0.0.1:{port}")
