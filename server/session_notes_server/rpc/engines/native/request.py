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
        self._connection = connection
        self._stream = stream
        self._body: bytes | bytearray = b""
        self._waiting = self._metadata_bytes = self._unacknowledged = 0
        self._is_counted = self._is_closed = False
        self._failure: errors.StatusError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.encoding = b""
        self.ended = ended

    def may_wait(self, metadata_bytes: int) -> bool:
        """Count metadata as waiting until `close`, and return whether the bytes that wait are within the bounds."""
        self._metadata_bytes = metadata_bytes
        self._count_waiting(len(self._body))
        return self._connection.may_wait()

    def receive(self, data: bytes, *, ended: bool) -> None:
        """Take bytes from the connection."""
        self.ended = ended
        self._unacknowledged += len(data)
        if self._failure is None and not self._is_closed:
            if not self._body:
                self._body = data
            else:
                if isinstance(self._body, bytes):
                    self._body = bytearray(self._body)
                self._body += data
            if self._waiter is None or not self._is_counted:
                self._count_waiting(len(self._body))
                if not self._connection.may_wait():
                    self.drop(errors.overloaded())
            if self._waiter is not None and not ended:
                self._acknowledge()
        self._wake()

    def drop(self, status: errors.StatusError) -> None:
        """Free the bytes of the request, including those still to come. The handler gets `status` if it reads."""
        self._failure = status
        self._body = b""
        self._count_waiting(0)
        self._wake()

    def close(self) -> None:
        """Free the bytes of the request, including those still to come. Its handler does not read any more."""
        self._is_closed, self._metadata_bytes = True, 0
        self._body = b""
        self._count_waiting(0)
        self._acknowledge()

    def arrived(self, reserve: Callable[[int], None]) -> bytes | None:
        """Return the next message, uncompressed, if it is complete and the request has no other; see `read`."""
        body = self._body
        size = len(body) - wire.PREFIX_BYTES
        if not self.ended or size < 0 or body[0] or int.from_bytes(body[1:5], "big") != size:
            return None
        reserve(size)
        self._body = b""
        self._count_waiting(0)
        self._acknowledge()
        return bytes(body[wire.PREFIX_BYTES :])

    async def read(self, reserve: Callable[[int], None], *, counts: bool = True) -> bytes | None:
        """Receive the next message.

        Args:
            reserve: Called with the size of the message once its prefix has arrived, and again with the size of a
                decompressed message. It raises an error to refuse the message.
            counts: Whether `reserve` counts the bytes of the message. If not, they count as waiting.

        Returns:
            The message, or None if the caller ended its side before another one.

        Raises:
            StatusError: If the request is malformed, or was dropped.
        """
        self._is_counted, end = counts, 0
        while True:
            if self._failure is not None:
                raise self._failure
            if not end and len(self._body) >= wire.PREFIX_BYTES:
                end = wire.PREFIX_BYTES + int.from_bytes(self._body[1:5], "big")
                reserve(end - wire.PREFIX_BYTES)
            if end and len(self._body) >= end:
                compressed, message = self._body[0], bytes(memoryview(self._body)[wire.PREFIX_BYTES : end])
                self._body = self._body[end:]
                self._count_waiting(len(self._body))
                self._acknowledge()
                return self._decompressed(message, reserve) if compressed else message
            if self.ended:
                if self._body:
                    raise errors.malformed_message()
                return None
            await self._wait()

    def _decompressed(self, message: bytes, reserve: Callable[[int], None]) -> bytes:
        if self.encoding not in wire.ENCODINGS:
            text = "the message is compressed, but the request names no encoding"
            raise errors.StatusError(StatusCode.INTERNAL, "MALFORMED_MESSAGE", text)
        limit = self._connection.max_message_bytes
        try:
            decompressed = wire.decompress(message, self.encoding, limit)
        except wire.MessageTooLarge:
            raise errors.too_large("", limit=limit, actual=limit + 1) from None
        except wire.MalformedMessage:
            raise errors.malformed_message() from None
        reserve(len(decompressed))
        return decompressed

    async def _wait(self) -> None:
        """Let the caller send more, and wait for it."""
        self._count_waiting(0 if self._is_counted else len(self._body))
        self._acknowledge()
        self._connection.flush_soon()
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _count_waiting(self, size: int) -> None:
        """Set how many bytes of messages count as waiting, in addition to the metadata."""
        size += self._metadata_bytes
        if size != self._waiting:
            self._connection.count_waiting(size - self._waiting)
            self._waiting = size

    def _acknowledge(self) -> None:
        if self._unacknowledged:
            self._connection.acknowledge(self._stream, self._unacknowledged)
            self._unacknowledged = 0
