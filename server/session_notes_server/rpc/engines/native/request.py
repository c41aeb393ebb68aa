"""The request of a call: its metadata, and its messages, as they arrive and as the handler reads them.

Until the handler reads, the caller may send one stream window (64 KiB). These bytes, and unusually large metadata,
count as waiting. Each byte is acknowledged, so that the caller may send another, once the handler reads or has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from grpc import StatusCode

from session_notes_server.rpc import errors
from session_notes_server.rpc.engines.native import wire

if TYPE_CHECKING:
    from session_notes_server.rpc.engines.native.connection import Connection


class Request:
    """The request of one call.

    Attributes:
        encoding: The encoding of compressed messages. Empty: none.
        ended: Whether the caller has ended its side.
    """

    def __init__(self, connection: Connection, stream: int, *, ended: bool) -> None:
        self._connection, self._engine = connection, connection.engine
        self._stream = stream
        self._body = bytearray()
        self._waiting = self._metadata_bytes = self._unacknowledged = 0
        self._is_counted = self._is_dropped = False
        self._waiter: asyncio.Future[None] | None = None
        self.encoding = b""
        self.ended = ended

    def may_wait(self, metadata_bytes: int = 0) -> bool:
        """Return whether the bytes that wait are within the bounds, with the metadata, which counts until `close`."""
        self._metadata_bytes += metadata_bytes
        self._count_waiting()
        return self._engine.waiting.fits(self._connection.waiting_bytes, 0)

    def receive(self, data: bytes, *, ended: bool) -> None:
        """Take bytes from the connection."""
        self.ended = ended
        self._unacknowledged += len(data)
        if not self._is_dropped:
            self._body += data
            if not self._is_counted and not self.may_wait():
                self._drop()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop(self) -> None:
        """Free the bytes of the request, including those still to come."""
        # Not `clear`: a buffer that shrinks in place keeps the memory around it from being used again.
        self._is_dropped, self._body = True, bytearray()
        self._count_waiting()

    def close(self) -> None:
        """Free the request. Its handler does not read any more."""
        self._metadata_bytes = 0
        self._drop()
        self._acknowledge()

    def arrived(self, reserve: Callable[[int], None]) -> bytes | None:
        """Return the next message, uncompressed, if it is complete and the request has no other; see `read`."""
        end = self._message_end()
        if not end or end != len(self._body) or not self.ended or self._body[0]:
            return None
        reserve(end - wire.PREFIX_BYTES)
        return self._take(end)

    async def read(self, reserve: Callable[[int], None] | None = None) -> bytes | None:
        """Receive the next message.

        Args:
            reserve: Called with the size of the message once its prefix has arrived, and again with the size of a
                decompressed message. It counts the bytes, or raises an error to refuse the message. None: the bytes
                count as waiting, and only the maximum size is checked.

        Returns:
            The message, or None if the caller ended its side before another one.

        Raises:
            StatusError: If the request is malformed, or there was no room for it.
        """
        check, end = reserve or self._check_size, 0
        while True:
            if self._is_dropped:
                raise errors.overloaded()
            if not end and (end := self._message_end()):
                check(end - wire.PREFIX_BYTES)
            if end and len(self._body) >= end:
                compressed, message = self._body[0], self._take(end)
                return self._decompressed(message, check) if compressed else message
            if self.ended:
                if self._body:
                    raise errors.malformed_message()
                return None
            await self._wait(counted=reserve is not None)

    def _message_end(self) -> int:
        """Return where the next message ends in the body, once its prefix has arrived, or 0."""
        body = self._body
        return wire.PREFIX_BYTES + int.from_bytes(body[1:5], "big") if len(body) >= wire.PREFIX_BYTES else 0

    def _take(self, end: int) -> bytes:
        message = bytes(memoryview(self._body)[wire.PREFIX_BYTES : end])
        del self._body[:end]
        self._count_waiting()
        self._acknowledge()
        return message

    def _check_size(self, size: int) -> None:
        if size > self._engine.max_message_bytes:
            raise errors.too_large("", limit=self._engine.max_message_bytes, actual=size)

    def _decompressed(self, message: bytes, reserve: Callable[[int], None]) -> bytes:
        if self.encoding not in wire.ENCODINGS:
            text = "the message is compressed, but the request names no encoding"
            raise errors.StatusError(StatusCode.INTERNAL, "MALFORMED_MESSAGE", text)
        decompressed = wire.decompress(message, self.encoding, self._engine.max_message_bytes)
        reserve(len(decompressed))
        return decompressed

    async def _wait(self, *, counted: bool) -> None:
        """Let the caller send more, and wait for it. The bytes wait for no handler if the reader has counted them."""
        self._is_counted = counted
        self._count_waiting()
        self._acknowledge()
        self._connection.flush_soon()
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter, self._is_counted = None, False

    def _count_waiting(self) -> None:
        """Count the metadata, and the bytes that no handler reads."""
        size = self._metadata_bytes + (0 if self._is_counted else len(self._body))
        if more := size - self._waiting:
            self._waiting = size
            self._connection.waiting_bytes += more
            self._engine.waiting.total += more

    def _acknowledge(self) -> None:
        if self._unacknowledged:
            self._connection.acknowledge(self._stream, self._unacknowledged)
            self._unacknowledged = 0
