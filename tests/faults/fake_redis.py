"""A peer that speaks the protocol of Redis and answers as it is told: what a real server does not say on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

Answer = Callable[[list[bytes], int], bytes | None]
"""Given a command and the peer's own port, returns the reply as it goes over the wire; None: silence."""


@asynccontextmanager
async def fake_redis(answer: Answer) -> AsyncIterator[int]:
    """A server on a free port, for as long as the block runs.

    Args:
        answer: Answers all commands but HELLO and CLIENT, which this server does not know.
    """
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        commands = hiredis.Reader()
        while data := await reader.read(1 << 16):
            commands.feed(data)
            while command := commands.gets():
                unknown = command[0] in (b"HELLO", b"CLIENT")
                if reply := b"-ERR unknown command\r\n" if unknown else answer(command, port):
                    writer.write(reply)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)


def bulk(*words: object) -> bytes:
    """An array of strings."""
    return array(*(text(str(word)) for word in words))


def array(*items: bytes) -> bytes:
    """An array of replies."""
    return b"*%d\r\n" % len(items) + b"".join(items)


def slots(*ranges: tuple[int, int, bytes, int]) -> bytes:
    """The answer to CLUSTER SLOTS: first slot, last slot, host as it goes over the wire, port."""
    return array(
        *(
            array(b":%d\r\n" % first, b":%d\r\n" % last, array(host, b":%d\r\n" % port, text("id")))
            for first, last, host, port in ranges
        )
    )


def text(content: str) -> bytes:
    """A string."""
    return b"$%d\r\n%s\r\n" % (len(content), content.encode())


def tagged(command: list[bytes], _: int = 0) -> bytes:
    """The reply of a script that returns nothing but its tag."""
    tag = command[3 + int(command[2])]
    return array(text(tag.decode()))
