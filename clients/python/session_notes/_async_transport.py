"""Asyncio transport: one connection to a sidecar, on which calls are sent and retried.

The counterpart of `_transport`, which explains why there are two.
"""
# ruff: noqa: ASYNC109 - the deadline is sent with the call; asyncio.timeout would not reach the sidecar.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import grpc.aio

from session_notes import _forks, _spans
from session_notes._calls import Call
from session_notes._channel import open_async_channel
from session_notes._credentials import TLS, Credentials, TLSFiles, Token
from session_notes._errors import InvalidArgument, Unavailable, UsageError, translate
from session_notes._retries import Attempts
from session_notes._targets import target_or_default
from session_notes._transport import CLOSED_DURING_CALL

T = TypeVar("T")

_OTHER_LOOP = (
    "this client belongs to the event loop in which it was opened: create one per loop, and open it with `async with`"
)

_INHERITED: list[object] = []
"""Channels of asyncio clients that were open at a fork, in the child. Kept so that they are never finalized."""


class AsyncTransport:
    """An asyncio connection to a sidecar. It belongs to the event loop in which it is opened."""

    def __init__(self, target: str | None, token: Token | None = None, tls: TLS | None = None) -> None:
        self.target = target_or_default(target)
        self._credentials = Credentials(self.target, token, tls)
        self._channel: grpc.aio.Channel | None = None
        self._previous_channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = asyncio.Event()
        self._files: TLSFiles | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        _forks.register(self)

    def _forked(self) -> None:
        # Finalizing the parent's channels would wait for a thread that only the parent has.
        _INHERITED.append((self._channel, self._previous_channel, self._methods))
        self._channel = self._previous_channel = None
        self._loop, self._files, self._methods = None, None, {}
        self._closed = asyncio.Event()

    def open(self) -> None:
        """Open the channel in the running event loop, to which it belongs from then on."""
        _forks.check()
        loop = _running_loop()
        # A closed loop has closed its connections.
        if self._channel is not None and self._loop is not None and not self._loop.is_closed():
            raise UsageError("this client is open already" if self._loop is loop else _OTHER_LOOP)
        self._loop = loop
        self._previous_channel = None
        # Each call waits on the event with which it began. Reopening the client does not revive old calls.
        self._closed = asyncio.Event()
        self._connect()

    async def close(self) -> None:
        """Close the connection. Calls in flight end as Unavailable."""
        if self._channel is None:
            return
        if self._loop is not None and not self._loop.is_closed() and self._loop is not _running_loop():
            raise UsageError(_OTHER_LOOP)
        self._closed.set()
        channels = (self._channel, self._previous_channel)
        self._channel = self._previous_channel = None
        # Methods hold a reference to the channel, and gRPC's thread lives as long as any channel.
        self._methods.clear()
        if self._loop is _running_loop():
            for channel in channels:
                if channel is not None:
                    await _close(channel)

    async def send(
        self, call: Call[T], timeout: timedelta | None, default: timedelta, stop: asyncio.Event | None = None
    ) -> T:
        """Send a call, retry it if that is safe, and return its result.

        Args:
            call: The call.
            timeout: Time for all attempts together. None: the default.
            default: The default timeout.
            stop: Once set, there is no further attempt.
        """
        attempts = Attempts(call, timeout, default, self.target)
        _forks.check()
        if self._channel is None:
            raise UsageError("this client is not open: use it in `async with`")
        if self._loop is not _running_loop():
            raise UsageError(_OTHER_LOOP)
        try:
            return await self._send(call, attempts, stop)
        except Unavailable as error:
            if call.fallback is None:
                raise
            return call.fallback(error)

    async def _send(self, call: Call[T], attempts: Attempts, stop: asyncio.Event | None) -> T:
        closed = self._closed
        with _spans.call_span(call.method, self.target) as span:
            while True:
                metadata = (*self._credentials.metadata(), *span.metadata)
                if self._files is not None and self._files.replaced():
                    await self._follow_files()
                try:
                    sent = self._method(call)(call.request, timeout=attempts.remaining(), metadata=metadata)
                    response = await _response(sent, closed)
                except grpc.RpcError as rpc_error:
                    code, error = rpc_error.code(), translate(rpc_error)
                except grpc.aio.UsageError as usage_error:
                    raise Unavailable(CLOSED_DURING_CALL) from usage_error
                except asyncio.CancelledError:
                    span.record_status(grpc.StatusCode.CANCELLED)
                    raise
                else:
                    span.record_status(grpc.StatusCode.OK)
                    return call.read(response)
                span.record_status(code)
                if self._files is not None and code is grpc.StatusCode.UNAVAILABLE:
                    self._files.check_soon()
                pause = attempts.pause_after(code, error)
                span.record_retry()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await (stop or closed).wait()
                if closed.is_set() or (stop is not None and stop.is_set()):
                    raise Unavailable(CLOSED_DURING_CALL)

    def _connect(self) -> None:
        """Open a channel with the current content of the TLS files."""
        tls = self._credentials.tls
        files = None if tls is None else TLSFiles(tls)
        self._channel = open_async_channel(self.target, tls)
        _forks.asyncio_channels.add(self._channel)
        self._files, self._methods = files, {}

    def _method(self, call: Call[Any]) -> Callable[..., Any]:
        if self._channel is None:
            raise Unavailable(CLOSED_DURING_CALL)
        method = self._methods.get(call.method)
        if method is None:
            method = self._methods[call.method] = self._channel.unary_unary(
                call.method, type(call.request).SerializeToString, call.response_type.FromString
            )
        return method

    async def _follow_files(self) -> None:
        """Reconnect, because the TLS files have been replaced."""
        channel, previous = self._channel, self._previous_channel
        with suppress(InvalidArgument):  # Replaced again, and unreadable now: the next check finds the new files.
            self._connect()
            # Calls in flight finish on their channel, unless the files are replaced twice in the meantime.
            self._previous_channel = channel
            if previous is not None:
                await _close(previous)


async def _close(channel: grpc.aio.Channel) -> None:
    await channel.close()
    _forks.asyncio_channels.discard(channel)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError("an asyncio client needs a running asyncio event loop") from None


async def _response(sent: Awaitable[Any], closed: asyncio.Event) -> Any:
    """Await a response, and pass on the caller's own cancellation.

    gRPC replaces its caller's cancellation with a different CancelledError, which an anyio cancel scope does not
    recognize and lets escape. Behind a shield, the caller gets the original one.
    """
    caller = asyncio.current_task()
    cancellations = 0 if caller is None else caller.cancelling()
    sending = asyncio.ensure_future(sent)
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        # gRPC also cancels the calls of a closed channel. Without this check, the caller would appear to be cancelled.
        if closed.is_set() and sending.cancelled() and (caller is None or caller.cancelling() <= cancellations):
            raise Unavailable(CLOSED_DURING_CALL) from None
        sending.cancel()
        raise
