"""Stores to measure over: Valkeys of our own, alone or as a cluster, on a unix socket and a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from urllib.parse import quote

from session_notes_server.embedded.valkey import die_with_parent, valkey_server

from session_notes_tools.bench.load import LoadError
from session_notes_tools.temporary_sidecar import TemporarySidecar, temporary_sidecar

START_SECONDS = 10.0
CLUSTER_SECONDS = 30.0


@dataclass(frozen=True)
class Store:
    """A running Valkey.

    Attributes:
        url: Where it listens, on a unix socket.
        port: Where else, on loopback.
        pid: Its process.
    """

    url: str
    port: int
    pid: int


@contextlib.asynccontextmanager
async def store(*flags: str) -> AsyncIterator[Store]:
    """A Valkey with the embedded store's durability: an append-only file, fsync once a second."""
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(str(valkey_server()), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
            *("--unixsocket", f"{folder}/store.sock", "--logfile", "log", "--loglevel", "warning"),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", *flags),
            # Ctrl-C in a terminal goes to the whole process group; we say when it is over.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            await listening(port, process)
            yield Store(f"unix://{quote(folder)}/store.sock", port, process.pid)
        finally:
            await ended(process)


def sidecar_over(url: str, *flags: str) -> AbstractAsyncContextManager[TemporarySidecar]:
    """A sidecar of ours over a store, and patient: where load takes all cores, a store that waits is no outage."""
    return temporary_sidecar("--redis-url", url, "--notes-timeout", "5s", "--store-timeout", "5s", *flags)


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[list[Store]]:
    """Three primaries that share the slots."""
    async with contextlib.AsyncExitStack() as stack:
        nodes, buses = [], free_ports(3)
        for bus in buses:
            flags = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            nodes.append(await stack.enter_async_context(store(*flags)))
        for node, (first, last) in zip(nodes, ((0, 5461), (5462, 10922), (10923, 16383)), strict=True):
            await said(node, f"CLUSTER ADDSLOTSRANGE {first} {last}")
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            await said(nodes[0], f"CLUSTER MEET 127.0.0.1 {node.port} {bus}")
        async with asyncio.timeout(CLUSTER_SECONDS):
            while not all([_is_whole(await said(node, "CLUSTER INFO")) for node in nodes]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield nodes


def _is_whole(info: str) -> bool:
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info


async def said(node: Store, command: str) -> str:
    """What a store answers to a command, as it is on the wire."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    with contextlib.closing(writer):
        writer.write(f"{command}\r\n".encode())
        head = (await reader.readline()).decode()
        return head + (await reader.readexactly(int(head[1:]) + 2)).decode() if head.startswith("$") else head


async def listening(port: int, process: asyncio.subprocess.Process) -> None:
    """Return as soon as somebody takes connections on a loopback port.

    Raises:
        LoadError: the process has ended, or takes too long.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while loop.time() < deadline and process.returncode is None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise LoadError(f"what was to listen on 127.0.0.1:{port} does not")


async def ended(process: asyncio.subprocess.Process) -> None:
    """End a process at once."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody has just now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
