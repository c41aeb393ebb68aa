"""A fake Redis server with scripted replies, which a real server does not send on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

from tests.faults.proxy import close

Answer = Callable[[list[bytes], int], bytes | None]
"""Returns the encoded reply to a command, given the server's own port; None for no reply."""


@asynccontextmanager
async def fake_redis(answer: Answer) -> AsyncIterator[int]:
    """Run a server on a free port, and yield the port.

    Args:
        answer: Returns the reply to any command except HELLO and CLIENT, which the server rejects as unknown.
    """
    connections: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(connections, lambda command: answer(command, port)), "127.0.0.1"
    )
    port = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        await close(server)
        for connection in connections:
            connection.abort()
        while connections:  # noqa: ASYNC110 - no event marks the condition
            await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """A connection of the fake server, in `connections` while it is open."""

    def __init__(self, connections: set[asyncio.Transport], answer: Callable[[list[bytes]], bytes | None]) -> None:
        self._connections = connections
        self._answer = answer
        self._commands = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._commands.feed(data)
        while command := self._commands.gets():
            unknown = command[0] in (b"HELLO", b"CLIENT")
            if reply := b"-ERR unknown command\r\n" if unknown else self._answer(command):
                self._transport.write(reply)


def bulk(*words: object) -> bytes:
    """Encode an array of strings."""
    return array(*(text(str(word)) for word in words))


def array(*items: bytes) -> bytes:
    """Encode an array of replies."""
    return b"*%d\r\n" % len(items) + b"".join(items)


def slots(*ranges: tuple[int, int, bytes, int]) -> bytes:
    """Encode a reply to CLUSTER SLOTS from first slots, last slots, encoded hosts and ports."""
    return array(
        *(
            array(b":%d\r\n" % first, b":%d\r\n" % last, array(host, b":%d\r\n" % port, text("id")))
            for first, last, host, port in ranges
        )
    )


def text(content: str) -> bytes:
    """Encode a string."""
    return b"$%d\r\n%s\r\n" % (len(content), content.encode())


def tagged(command: list[bytes], _: int = 0) -> bytes:
    """Encode the reply of a script that returns only its tag."""
    tag = command[3 + int(command[2])]
    return array(text(tag.decode()))
