"""A TCP proxy in front of a real store that breaks what passes through it, on purpose and on command."""

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
_REMEMBERED = 10_000


@dataclass(eq=False)
class _Link:
    """One connection of the sidecar, and its counterpart at the store."""

    client: asyncio.StreamWriter
    store: asyncio.StreamWriter
    request: bytes = b""
    lose_reply: str = ""
    """How the next reply is lost: `swallow` or `reset`."""
    before_reply: bytes = b""
    held: bool = False
    """Whether nothing reaches the store any more."""
    deaf: bool = False
    """Whether nothing comes back any more."""


@dataclass
class Exchange:
    """A request that passed, when, and what was answered."""

    request: bytes
    at: float
    reply: bytes = field(default=b"")


class Proxy:
    """Passes everything on, until told otherwise. Runs in a thread of its own; safe to use from any.

    Args:
        store_port: The store's port on the loopback interface.
    """

    def __init__(self, store_port: int) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.delay_seconds = 0.0
        """How long each reply is held back."""
        self.black_hole = False
        """Whether connections are accepted and nothing is passed on. What a connection loses in it takes the rest with
        it, as in TCP: nothing passes there later either."""
        self.lost = 0
        """How many replies were lost or came after an injected one."""
        self.exchanges: deque[Exchange] = deque(maxlen=_REMEMBERED)
        self._store_port = store_port
        self._hold = b""
        self._lose: tuple[bytes, str] | None = None
        self._before: tuple[bytes, bytes] | None = None
        self._links: set[_Link] = set()
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
        """Takes connections, again after `refuse`."""
        self._do(self._listen())

    def refuse(self) -> None:
        """Resets all connections and refuses new ones, until `accept`."""
        self._do(self._close())

    def switch(self, store_port: int) -> None:
        """Passes new connections on to another store; those that are open stay where they are."""
        self._store_port = store_port

    def hold(self, part: bytes) -> None:
        """From now on requests that hold `part` never reach the store, nor does anything after them; empty: none."""
        self._hold = part

    def lose_reply(self, part: bytes, how: str = "swallow") -> None:
        """The next request that holds `part` reaches the store; its reply is swallowed, or the connection is reset."""
        assert how in ("swallow", "reset")
        self._lose = (part, how)

    def inject_before_reply(self, part: bytes, stray: bytes) -> None:
        """Before the reply to the next request that holds `part`, `stray` comes over the wire."""
        self._before = (part, stray)

    def inject_at_rest(self, stray: bytes) -> None:
        """Sends `stray` on every open connection, now, whether a reply is awaited there or not."""

        async def send() -> None:
            for link in self._links:
                link.client.write(stray)

        self._do(send())

    def replies_to(self, part: bytes) -> list[bytes]:
        """The answered replies to all requests that hold `part`, oldest first."""
        return [exchange.reply for exchange in list(self.exchanges) if part in exchange.request and exchange.reply]

    def times_of(self, part: bytes) -> list[float]:
        """When each request that holds `part` passed, by the monotonic clock."""
        return [exchange.at for exchange in list(self.exchanges) if part in exchange.request]

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)

    async def _close(self) -> None:
        if self._server is not None:
            for listener in self._server.sockets:
                self._loop.remove_reader(listener)
            # Of those that are just being accepted, CPython 3.11 leaves the sockets open if their server is closed.
            while any("_accept_connection2" in repr(task) for task in asyncio.all_tasks()):  # noqa: ASYNC110
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        for link in list(self._links):
            _reset(link.client)

    async def _end(self) -> None:
        await self._close()
        # Those that were just accepted have no task of ours yet, and get one.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(others, timeout=0.05)
        await asyncio.sleep(0.01)  # For transports to close.

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
        link = _Link(writer, store_writer)
        self._links.add(link)
        back = asyncio.create_task(self._replies(link, store_reader))
        try:
            with suppress(OSError):
                await self._requests(link, reader)
        except asyncio.CancelledError:
            pass  # The proxy ends; the streams' own callback would report a cancelled handler as an error.
        finally:
            back.cancel()
            self._links.discard(link)
            self._tasks.discard(task)
            for end in (link.client, link.store):
                end.close()

    async def _requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            link.request = data
            self.exchanges.append(Exchange(data, time.monotonic()))
            if self.black_hole or (self._hold and self._hold in data):
                link.held = True
            if self._lose and self._lose[0] in data:
                link.lose_reply, self._lose = self._lose[1], None
            if self._before and self._before[0] in data:
                link.before_reply, self._before = self._before[1], None
            if not link.held:
                link.store.write(data)
                await link.store.drain()

    async def _replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                for exchange in reversed(self.exchanges):
                    if exchange.request is link.request:
                        exchange.reply += data
                        break
                if self.black_hole or link.deaf:
                    link.held = link.deaf = True
                    continue
                if link.lose_reply:
                    self.lost += 1
                    if link.lose_reply == "reset":
                        _reset(link.client)
                        return
                    link.lose_reply = ""
                    continue
                if link.before_reply:
                    self.lost += 1
                    data, link.before_reply = link.before_reply + data, b""
                link.client.write(data)
                await link.client.drain()
        # The store is gone: as it would be without us.
        if not self.black_hole:
            _reset(link.client)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
