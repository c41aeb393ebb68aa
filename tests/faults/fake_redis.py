"""A fake Redis server with scripted replies, which a real server does not send on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

Answer = Callable[[list[bytes], int], bytes | None]
"""Returns the encoded reply to a command, given the server's own port; None for no reply."""


@asynccontextmanager
async def fake_redis(answer: Answer) -> AsyncIterator[int]:
    """Run a server on a free port, and yield the port.

    Args:
        answer: Returns the reply to any command except HELLO and CLIENT, which the server rejects as unknown.
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
