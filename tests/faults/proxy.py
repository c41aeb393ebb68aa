"""A TCP proxy in front of a real store that injects faults on command."""

import asyncio
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from tests.stores import free_port

T = TypeVar("T")

_CHUNK = 1 << 16
_MAX_EXCHANGES = 10_000


@dataclass(eq=False)
class _Connection:
    """A connection of the sidecar, and its counterpart at the store."""

    client: asyncio.StreamWriter
    store: asyncio.StreamWriter
    request: bytes = b""
    lose_reply: str = ""
    """The way to lose the next reply: `swallow` or `reset`."""
    before_reply: bytes = b""
    held: bool = False
    """Whether requests no longer reach the store."""
    deaf: bool = False
    """Whether replies no longer reach the sidecar."""


@dataclass
class Exchange:
    """A request, the time of its arrival, and its reply."""

    request: bytes
    at: float
    reply: bytes = field(default=b"")


class Proxy:
    """A proxy that forwards everything until a fault is injected. Runs in its own thread; thread-safe.

    Args:
        store_port: The store's port on the loopback interface.
    """

    def __init__(self, store_port: int) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.delay_seconds = 0.0
        """The delay of each reply."""
        self.black_hole = False
        """Whether to accept connections but forward nothing. A connection that lost data stays dead, as in TCP."""
        self.lost = 0
        """The number of replies that were lost or came after an injected one."""
        self.exchanges: deque[Exchange] = deque(maxlen=_MAX_EXCHANGES)
        self._store_port = store_port
        self._hold = b""
        self._lose: tuple[bytes, str] | None = None
        self._before: tuple[bytes, bytes] | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def accept(self) -> None:
        """Accept connections, also after `refuse`."""
        self._do(self._listen())

    def refuse(self) -> None:
        """Reset all connections and refuse new ones, until `accept`."""
        self._do(self._close())

    def switch(self, store_port: int) -> None:
        """Forward new connections to another store. Open ones keep their store."""
        self._store_port = store_port

    def hold(self, part: bytes) -> None:
        """Hold back requests that contain `part`, and everything after them. An empty `part` matches none."""
        self._hold = part

    def lose_reply(self, part: bytes, how: str = "swallow") -> None:
        """Swallow the reply to the next request that contains `part`, or reset the connection instead."""
        assert how in ("swallow", "reset")
        self._lose = (part, how)

    def inject_before_reply(self, part: bytes, stray: bytes) -> None:
        """Send `stray` before the reply to the next request that contains `part`."""
        self._before = (part, stray)

    def inject_at_rest(self, stray: bytes) -> None:
        """Send `stray` on every open connection now, whether a reply is awaited or not."""

        async def send() -> None:
            for connection in self._connections:
                connection.client.write(stray)

        self._do(send())

    def replies_to(self, part: bytes) -> list[bytes]:
        """Return the replies to all requests that contain `part`, oldest first."""
        return [exchange.reply for exchange in list(self.exchanges) if part in exchange.request and exchange.reply]

    def times_of(self, part: bytes) -> list[float]:
        """Return the monotonic times of all requests that contain `part`."""
        return [exchange.at for exchange in list(self.exchanges) if part in exchange.request]

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)

    async def _close(self) -> None:
        if self._server is not None:
            await close(self._server)
            self._server = None
        for connection in list(self._connections):
            _reset(connection.client)

    async def _end(self) -> None:
        await self._close()
        # Connections that were just accepted get their tasks only now.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(others, timeout=0.05)
        await asyncio.sleep(0.01)  # Let the transports close.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self._store_port)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
            self._tasks.discard(task)
            return
        connection = _Connection(writer, store_writer)
        self._connections.add(connection)
        back = asyncio.create_task(self._replies(connection, store_reader))
        try:
            with suppress(OSError):
                await self._requests(connection, reader)
        except asyncio.CancelledError:
            pass  # The streams' own callback would report a cancelled handler as an error.
        finally:
            back.cancel()
            self._connections.discard(connection)
            self._tasks.discard(task)
            for end in (connection.client, connection.store):
                end.close()

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            connection.request = data
            self.exchanges.append(Exchange(data, time.monotonic()))
            if self.black_hole or (self._hold and self._hold in data):
                connection.held = True
            if self._lose and self._lose[0] in data:
                connection.lose_reply, self._lose = self._lose[1], None
            if self._before and self._before[0] in data:
                connection.before_reply, self._before = self._before[1], None
            if not connection.held:
                connection.store.write(data)
                await connection.store.drain()

    async def _replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                for exchange in reversed(self.exchanges):
                    if exchange.request is connection.request:
                        exchange.reply += data
                        break
                if self.black_hole or connection.deaf:
                    connection.held = connection.deaf = True
                    continue
                if connection.lose_reply:
                    self.lost += 1
                    if connection.lose_reply == "reset":
                        _reset(connection.client)
                        return
                    connection.lose_reply = ""
                    continue
                if connection.before_reply:
                    self.lost += 1
                    data, connection.before_reply = connection.before_reply + data, b""
                connection.client.write(data)
                await connection.client.drain()
        # The store has closed the connection.
        if not self.black_hole:
            _reset(connection.client)


async def close(server: asyncio.Server) -> None:
    """Close a server. CPython 3.11 leaves sockets open that are being accepted meanwhile."""
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener)
    while any("_accept_connection2" in repr(task) for task in asyncio.all_tasks()):  # noqa: ASYNC110
        await asyncio.sleep(0)
    server.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
