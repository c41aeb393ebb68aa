"""One RPC: what gRPC asks of its request, the task of its handler, its deadline, and its response.

Handlers of gRPC run unchanged: a call is the context that they get, and the iterator of the requests that they read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn, Self

import grpc
from grpc.aio import EOF, AbortError
from ngh2 import NGH2Error

from session_notes_server.rpc import errors
from session_notes_server.rpc.connections import METADATA_BYTES
from session_notes_server.rpc.engines.native import wire
from session_notes_server.rpc.engines.native.request import Request

if TYPE_CHECKING:
    from session_notes_server.rpc.engines.native.connection import Connection

USUAL_METADATA_BYTES = 1024
"""Metadata up to this size is part of what a call costs. More of it counts as waiting until the call has ended."""

FRAME_BYTES = 16 * 1024
"""Messages up to this size are copied behind their prefix, so that both take one frame."""

STREAM_BYTES = 64 * 1024
"""A stream of responses waits while this many bytes of it are unread."""


# Before Python 3.12, to look up a member of an enumeration takes half a microsecond.
_OK, _EXPIRED = grpc.StatusCode.OK, (grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")


class Call:
    """A call in flight. Implements what handlers use of `grpc.aio.ServicerContext`.

    Attributes:
        connection: Its connection.
        request: Its request.
        on_closed: Called once its stream is closed and its handler has ended.
    """

    def __init__(self, connection: Connection, stream: int, headers: Sequence[wire.Header], *, ended: bool) -> None:
        self.connection = connection
        self.request = Request(connection, stream, ended=ended)
        self.on_closed: Callable[[object], None] | None = None
        self._stream, self._headers = stream, headers
        self._handler: Any
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._started = self._ended = False
        self._trailing_metadata: wire.Metadata = ()
        self._code: grpc.StatusCode | None = None

    def begin(self) -> None:
        """Run the handler in a task, until the deadline, or reject the call."""
        headers, engine = self._headers, self.connection.engine
        fields = dict(headers)
        encoding = fields.get(b"grpc-encoding", b"identity")
        timeout = fields.get(b"grpc-timeout")
        seconds = wire.timeout_seconds(timeout) if timeout is not None else None
        metadata_bytes = len(b"".join(chain.from_iterable(headers))) + 32 * len(headers)
        if fields.get(b":method") != b"POST":
            self._reject([(b":status", b"405"), (b"allow", b"POST")])
        elif not wire.is_grpc(fields.get(b"content-type", b"")):
            self._reject([(b":status", b"415")])
        elif metadata_bytes > METADATA_BYTES:
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the metadata is larger than {METADATA_BYTES} bytes")
        elif (handler := engine.handler(fields.get(b":path", b""))) is None:
            self.end(grpc.StatusCode.UNIMPLEMENTED, "the method does not exist")
        elif encoding != b"identity" and encoding not in wire.ENCODINGS:
            status = wire.status(grpc.StatusCode.UNIMPLEMENTED, "the encoding of the request is not supported")
            self._reject([*wire.RESPONSE, wire.ACCEPT_ENCODING, *status])
        elif timeout is not None and seconds is None:
            self.end(grpc.StatusCode.INTERNAL, "malformed grpc-timeout")
        elif metadata_bytes > USUAL_METADATA_BYTES and not self.request.may_wait(metadata_bytes):
            self._fail(errors.overloaded())
        else:
            self._handler, self.request.encoding = handler, encoding
            self._task = engine.loop.create_task(self._run())
            if seconds is not None:
                self._deadline = engine.loop.call_later(seconds, self.cancel, *_EXPIRED)

    def end(self, code: grpc.StatusCode, message: str = "", trailing_metadata: wire.Metadata = ()) -> None:
        """Queue a status, unless the call has one."""
        if self._ended:
            return
        self._code = code
        is_plain = code is _OK and not trailing_metadata
        trailers = wire.OK if is_plain else wire.status(code, message, trailing_metadata)
        if self._started:
            self.connection.http2.send_trailers(self._stream, trailers)
            self._finish()
        else:
            self._reject([*wire.RESPONSE, *trailers])

    def cancel(self, code: grpc.StatusCode, message: str) -> None:
        """End the call with a status, and cancel its handler."""
        self.end(code, message)
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Release the call once its stream is closed: the response was sent, or either side has reset the stream."""
        self._release()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            # The handler still holds what it has read, and still counts it.
            self._task.add_done_callback(self._leave)
        else:
            self._leave(self)

    def _leave(self, _: object) -> None:
        if self.on_closed is not None:
            self.on_closed(self)
            self.on_closed = None

    async def _run(self) -> None:
        handler = self._handler
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        try:
            result = behaviour(self if handler.request_streaming else await self._only_message(), self)
            if hasattr(result, "__aiter__"):
                async for response in result:
                    await self.write(response)
            elif handler.response_streaming:
                await result
            else:
                self._send(await result)
            self.end(_OK, "", self._trailing_metadata)
        except AbortError:
            pass
        except errors.StatusError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self.end(grpc.StatusCode.UNAVAILABLE, "the sidecar is shutting down")
        except Exception as error:
            self._fail(errors.bug(error, "a handler"))

    async def _only_message(self) -> Any:
        message = await self.read()
        if message is EOF or await self.read() is not EOF:
            await self.abort(grpc.StatusCode.UNIMPLEMENTED, "the method takes exactly one message")
        return message

    def _fail(self, error: errors.StatusError) -> None:
        self.end(error.code, error.message, error.trailing_metadata())

    def _reject(self, headers: Sequence[wire.Header]) -> None:
        """Queue a response of headers alone."""
        # The caller may have reset the stream directly after its request.
        with contextlib.suppress(NGH2Error):
            self.connection.http2.send_response(self._stream, headers, end_stream=True)
        self._finish()

    def _finish(self) -> None:
        """Send the response, which is complete, and close the stream."""
        self._release()
        if self._code is _OK:
            self.connection.succeeded += 1
            self.connection.engine.succeeded += 1
        if self.request.ended:
            self.connection.flush_soon()
        else:
            self.connection.reset_when_sent([self._stream])

    def _release(self) -> None:
        """Free what the response does not need. The caller may take 20 s to read it."""
        self._ended = True
        self._headers = ()
        self.request.close()
        if self._deadline is not None:
            self._deadline.cancel()

    def _send(self, response: Any) -> None:
        serialize = self._handler.response_serializer
        message = serialize(response) if serialize else response
        if self._ended:
            return
        if not self._started:
            self._start()
        prefix = b"\0" + len(message).to_bytes(4, "big")
        for part in (prefix + message,) if len(message) <= FRAME_BYTES else (prefix, message):
            self.connection.http2.send_data(self._stream, part)

    def _start(self, metadata: wire.Metadata = ()) -> None:
        self._started = True
        headers = [*wire.RESPONSE, *wire.headers(metadata)] if metadata else wire.RESPONSE
        self.connection.http2.send_response(self._stream, headers)

    # The interface of grpc.aio.ServicerContext, and of the iterator of requests.

    async def read(self) -> Any:
        """Receive the next message, deserialized. At the end of the request: `grpc.aio.EOF`."""
        message = await self.request.read()
        if message is None:
            return EOF
        deserialize = self._handler.request_deserializer
        try:
            return deserialize(message) if deserialize else message
        except Exception:
            raise errors.malformed_message() from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is EOF:
            raise StopAsyncIteration
        return message

    async def write(self, response: Any) -> None:
        """Queue a response, once the caller has read most of the previous ones."""
        while not self._ended and self.connection.http2.queued_body_size(self._stream) > STREAM_BYTES:
            await self.connection.flushed.wait()
        self._send(response)
        self.connection.flush_soon()

    async def send_initial_metadata(self, metadata: wire.Metadata) -> None:
        """Send metadata before the first response."""
        if not self._ended:
            self._start(metadata)
            self.connection.flush_soon()

    def set_trailing_metadata(self, metadata: wire.Metadata) -> None:
        """Set the metadata that follows the responses."""
        self._trailing_metadata = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: wire.Metadata = ()) -> NoReturn:
        """End the call with a status, and the handler with an exception."""
        self.end(code, details, trailing_metadata or self._trailing_metadata)
        raise AbortError

    def code(self) -> grpc.StatusCode | None:
        """Return the status code, once the call has one."""
        return self._code

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the caller's metadata."""
        return wire.metadata(self._headers)

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return the names in the caller's certificate."""
        return self.connection.names

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, or None without one."""
        return None if self._deadline is None else max(self._deadline.when() - self.connection.loop.time(), 0.0)
