"""Valkey servers for the bench, standalone or as a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from urllib.parse import quote

from session_notes_server.embedded.valkey import valkey_server

from session_notes_tools.bench.processes import free_ports, server_process
from session_notes_tools.temporary_sidecar import TemporarySidecar, temporary_sidecar

CLUSTER_SECONDS = 30.0
_SLOT_RANGES = ((0, 5461), (5462, 10922), (10923, 16383))


@dataclass(frozen=True)
class Store:
    """A running Valkey server.

    Attributes:
        url: The URL of its unix socket.
        port: Its loopback port.
        pid: Its process id.
    """

    url: str
    port: int
    pid: int

    async def command(self, command: str) -> str:
        """Send an inline command and return the reply as it arrives on the wire."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.closing(writer):
            writer.write(f"{command}\r\n".encode())
            head = (await reader.readline()).decode()
            return head + (await reader.readexactly(int(head[1:]) + 2)).decode() if head.startswith("$") else head


@contextlib.asynccontextmanager
async def run_store(*flags: str) -> AsyncIterator[Store]:
    """Run a Valkey server with the embedded store's durability: an append-only file, fsync once a second."""
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-", ignore_cleanup_errors=True) as folder:
        async with server_process(
            *(str(valkey_server()), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
            *("--unixsocket", f"{folder}/store.sock", "--logfile", "log", "--loglevel", "warning"),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", *flags),
            port=port,
        ) as server:
            yield Store(f"unix://{quote(folder)}/store.sock", port, server.pids[0])


def sidecar_on(url: str, *flags: str) -> AbstractAsyncContextManager[TemporarySidecar]:
    """Run a temporary sidecar on a store. Timeouts are long, since a slow reply under full load is not an outage."""
    return temporary_sidecar("--redis-url", url, "--notes-timeout", "5s", "--store-timeout", "5s", *flags)


@contextlib.asynccontextmanager
async def run_cluster() -> AsyncIterator[list[Store]]:
    """Run a Valkey Cluster of three primaries."""
    async with contextlib.AsyncExitStack() as stack:
        nodes, bus_ports = [], free_ports(3)
        for bus_port in bus_ports:
            flags = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port))
            nodes.append(await stack.enter_async_context(run_store(*flags)))
        for node, (first, last) in zip(nodes, _SLOT_RANGES, strict=True):
            await node.command(f"CLUSTER ADDSLOTSRANGE {first} {last}")
        for node, bus_port in zip(nodes[1:], bus_ports[1:], strict=True):
            await nodes[0].command(f"CLUSTER MEET 127.0.0.1 {node.port} {bus_port}")
        async with asyncio.timeout(CLUSTER_SECONDS):
            while not all([_is_complete(await node.command("CLUSTER INFO")) for node in nodes]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield nodes


def _is_complete(cluster_info: str) -> bool:
    return "cluster_state:ok" in cluster_info and "cluster_known_nodes:3" in cluster_info
