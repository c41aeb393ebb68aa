"""One RPC: the task of its handler, its deadline, and its response.

Handlers of gRPC run unchanged: a call is the context that they get, and the iterator of the requests that they read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import grpc
from grpc.aio import EOF, AbortError
from ngh2 import NGH2Error

from session_notes_server.rpc import errors
from session_notes_server.rpc.engines.native import wire
from session_notes_server.rpc.engines.native.request import Request

if TYPE_CHECKING:
    from session_notes_server.rpc.engines.native.connection import Connection

log = logging.getLogger(__name__)

FRAME_BYTES = 16 * 1024
"""Messages up to this size are copied behind their prefix, so that both take one frame."""

STREAM_BYTES = 64 * 1024
"""A stream of responses waits while this many bytes of it are unread."""


class Method(NamedTuple):
    """A method: its handler, and the conversion of messages from and to bytes."""

    behaviour: Callable[[Any, Any], Any]
    request_streaming: bool
    response_streaming: bool
    deserialize: Callable[[bytes], Any] | None
    serialize: Callable[[Any], bytes] | None

    @classmethod
    def of(cls, handler: Any) -> Self:
        """Convert a handler of gRPC."""
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        streaming = (handler.request_streaming, handler.response_streaming)
        return cls(behaviour, *streaming, handler.request_deserializer, handler.response_serializer)


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
        self._method: Method
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._started = self._ended = False
        self._initial_metadata: wire.Metadata = ()
        self._trailing_metadata: wire.Metadata = ()
        self._code: grpc.StatusCode | None = None
        self._message = ""

    def begin(self, method: Method, timeout_seconds: float | None) -> None:
        """Run the handler in a task, until the deadline."""
        loop = self.connection.loop
        self._method = method
        self._task = loop.create_task(self._run())
        if timeout_seconds is not None:
            self._deadline = loop.call_later(timeout_seconds, self._expire)

    def end(self, code: grpc.StatusCode, message: str, trailing_metadata: wire.Metadata = ()) -> None:
        """Queue a status, unless the call has one."""
        if self._ended:
            return
        self._code, self._message = code, message
        trailers = wire.status(code, message, trailing_metadata)
        if self._started:
            self.connection.http2.send_trailers(self._stream, trailers)
            self._finish()
        else:
            self.reject([*wire.RESPONSE, *wire.headers(self._initial_metadata), *trailers])

    def fail(self, error: errors.StatusError) -> None:
        """Queue the status of an error."""
        self.end(error.code, error.message, error.trailing_metadata())

    def reject(self, headers: Sequence[wire.Header]) -> None:
        """Queue a response of headers alone."""
        # The caller may have reset the stream directly after its request.
        with contextlib.suppress(NGH2Error):
            self.connection.http2.send_response(self._stream, headers, end_stream=True)
        self._finish()

    def cancel(self, code: grpc.StatusCode, message: str) -> None:
        """End the call with a status, and cancel its handler."""
        self.end(code, message)
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Release the call once its stream is closed: the response was sent, or either side has reset the stream."""
        self._ended = True
        self.request.close()
        if self._deadline is not None:
            self._deadline.cancel()
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
        method = self._method
        try:
            request = self if method.request_streaming else await self._only_message()
            if method.response_streaming:
                await self._respond_with_stream(method.behaviour(request, self))
            else:
                response = await method.behaviour(request, self)
                self._respond(response if method.serialize is None else method.serialize(response))
        except AbortError:
            pass
        except errors.StatusError as error:
            self.fail(error)
        except asyncio.CancelledError:
            self.end(grpc.StatusCode.UNAVAILABLE, "the sidecar is shutting down")
        except Exception as error:
            # Not the text of the exception, which may contain user data.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s in a handler\n%s", type(error).__qualname__, frames)
            self.end(grpc.StatusCode.UNKNOWN, "internal error")

    async def _only_message(self) -> Any:
        message = await self.read()
        if message is EOF or await self.read() is not EOF:
            await self.abort(grpc.StatusCode.UNIMPLEMENTED, "the method takes exactly one message")
        return message

    async def _respond_with_stream(self, responses: Any) -> None:
        if hasattr(responses, "__aiter__"):
            async for response in responses:
                await self.write(response)
        else:
            await responses
        self.end(self._code or grpc.StatusCode.OK, self._message, self._trailing_metadata)

    def _respond(self, message: bytes) -> None:
        """Queue the only response, with its status."""
        if self._ended:
            return
        if self._code is None or self._code is grpc.StatusCode.OK:
            self._send(message)
        if self._code is None and not self._trailing_metadata:
            self.connection.http2.send_trailers(self._stream, wire.OK)
            self._finish()
        else:
            self.end(self._code or grpc.StatusCode.OK, self._message, self._trailing_metadata)

    def _send(self, message: bytes) -> None:
        if not self._started:
            self._start()
        prefix = b"\0" + len(message).to_bytes(4, "big")
        http2 = self.connection.http2
        if len(message) <= FRAME_BYTES:
            http2.send_data(self._stream, prefix + message)
        else:
            http2.send_data(self._stream, prefix)
            http2.send_data(self._stream, message)

    def _start(self) -> None:
        self._started = True
        headers = [*wire.RESPONSE, *wire.headers(self._initial_metadata)] if self._initial_metadata else wire.RESPONSE
        self.connection.http2.send_response(self._stream, headers)

    def _finish(self) -> None:
        self._ended = True
        # Free what the response no longer needs. The caller may take 20 s to read it.
        self._headers = ()
        self.request.close()
        if self._deadline is not None:
            self._deadline.cancel()
        succeeded = self._started and (self._code is None or self._code is grpc.StatusCode.OK)
        self.connection.finish(self._stream, request_ended=self.request.ended, succeeded=succeeded)

    def _expire(self) -> None:
        self.cancel(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")

    # The interface of grpc.aio.ServicerContext, and of the iterator of requests.

    async def read(self) -> Any:
        """Receive the next message, deserialized. At the end of the request: `grpc.aio.EOF`."""
        message = await self.request.read(self.connection.check_size, counts=False)
        if message is None:
            return EOF
        try:
            return message if self._method.deserialize is None else self._method.deserialize(message)
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
        """Queue a response of a stream, once the caller has read most of the previous ones."""
        message = response if self._method.serialize is None else self._method.serialize(response)
        while not self._ended and self.connection.http2.queued_body_size(self._stream) > STREAM_BYTES:
            await self.connection.flushed.wait()
        if not self._ended:
            self._send(message)
            self.connection.flush_soon()

    async def send_initial_metadata(self, metadata: wire.Metadata) -> None:
        """Send metadata before the first response."""
        self._initial_metadata = metadata
        if not self._ended:
            self._start()
            self.connection.flush_soon()

    def set_trailing_metadata(self, metadata: wire.Metadata) -> None:
        """Set the metadata that follows the responses."""
        self._trailing_metadata = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: wire.Metadata = ()) -> NoReturn:
        """End the call with a status, and the handler with an exception."""
        self.end(code, details, trailing_metadata or self._trailing_metadata)
        raise AbortError

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status code that ends the call."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the message of the status that ends the call."""
        self._message = details

    def code(self) -> grpc.StatusCode | None:
        """Return the status code, if it is set."""
        return self._code

    def details(self) -> str:
        """Return the message of the status."""
        return self._message

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the caller's metadata."""
        return wire.metadata(self._headers)

    def peer(self) -> str:
        """Return the caller's address."""
        return self.connection.peer

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return the names in the caller's certificate."""
        return self.connection.auth_context()

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, or None without one."""
        return None if self._deadline is None else max(self._deadline.when() - self.connection.loop.time(), 0.0)
