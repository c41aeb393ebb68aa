"""Sends calls: deadline, retries, and gRPC's errors turned into ours.

Retries are our own, not gRPC's: its retry policy stops after five tries, which was measured to be 1.5 s; a sidecar may
take longer to restart. Here the deadline alone is the limit, and what the sidecar says about when to come back counts.
"""
# ruff: noqa: ASYNC109 - the deadline travels with the call; asyncio.timeout would not tell the sidecar.

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import grpc.aio

from session_notes import _forks, _spans
from session_notes._calls import Call
from session_notes._channel import open_async_channel, open_channel
from session_notes._credentials import TLS, Credentials, TLSFiles, Token
from session_notes._errors import (
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    SessionNotesError,
    Unavailable,
    UsageError,
    refusal,
    translate,
)
from session_notes._targets import target_or_default

T = TypeVar("T")

_CLOSED_MEANWHILE = "the client was closed during the call"
_OTHER_LOOP = "this client belongs to the event loop it was opened in: use another in each loop, within `async with`"
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0

# gRPC takes a deadline that is much farther away for one that has passed.
_LONGEST_TIMEOUT = timedelta(days=36_500)

_INHERITED: list[object] = []
"""Channels of asyncio clients that were open at a fork, in the child."""


class _Tries:
    """The tries of one call: how long the next one may take, and whether there is one."""

    def __init__(self, call: Call[Any], timeout: timedelta, target: str) -> None:
        if not isinstance(timeout, timedelta):
            raise refusal("timeout", f"must be a datetime.timedelta, not {type(timeout).__name__}")
        self._call = call
        self._target = target
        self._timeout = min(max(timeout, timedelta()), _LONGEST_TIMEOUT).total_seconds()
        self._deadline = time.monotonic() + self._timeout
        self._pause = _FIRST_PAUSE_SECONDS
        self._earlier: SessionNotesError | None = None

    def remaining(self) -> float:
        """Return the seconds until the deadline."""
        left = self._deadline - time.monotonic()
        # Well before now: for gRPC, a deadline within the current millisecond has not passed yet.
        return left if left > 0 else -1.0

    def pause_after(self, code: grpc.StatusCode, error: SessionNotesError) -> float:
        """Return the seconds to wait before the next try.

        Raises:
            SessionNotesError: The error, where there is no next try.
        """
        passing = code is grpc.StatusCode.UNAVAILABLE or isinstance(error, Overloaded)
        if not self._call.repeatable or not passing:
            raise self._last(error) from self._earlier
        import random  # a tenth of this package's import time, for those who never need it

        # Jitter, so that many clients of one sidecar do not come back all at once.
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - no secret in it
        if error.retry_after is not None:
            pause = max(pause, error.retry_after.total_seconds())
        if pause >= self.remaining():
            raise self._last(error) from self._earlier
        self._earlier = error
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        return pause

    def _last(self, error: SessionNotesError) -> SessionNotesError:
        """Return the error of the last try; where no sidecar answered, with the call, its target and its timeout."""
        if not isinstance(error, Unavailable) or error.reason:
            return error
        said = str(error)
        if isinstance(error, DeadlineExceeded):
            # gRPC says that the deadline has passed, and nothing else.
            said = f"no answer within {self._timeout:g} s"
            if self._earlier is not None:
                # The time ran out in the middle of a try. The one before says what takes so long.
                said += f"; before that: {self._earlier}"
        error.args = (f"{self._call.method.rpartition('/')[2]} on {self._target}: {said}",)
        return error


class Transport:
    """A blocking connection to a sidecar. Safe to use from many threads."""

    def __init__(self, target: str | None, token: Token | None = None, tls: TLS | None = None) -> None:
        self.target = target_or_default(target)
        self._credentials = Credentials(self.target, token, tls)
        self._closed = threading.Event()
        self._connecting = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._earlier_channel: grpc.Channel | None = None
        self._files: TLSFiles | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        _forks.register(self)
        self._connect()

    def _forked(self) -> None:
        # Dropped, not closed: the connections are the parent's. The next call makes a channel.
        closed, self._closed = self._closed.is_set(), threading.Event()
        if closed:
            self._closed.set()
        self._connecting = threading.Lock()
        self._channel = self._earlier_channel = None
        self._files, self._methods = None, {}

    def close(self) -> None:
        """End the connection; calls in flight end as Unavailable."""
        self._closed.set()
        with self._connecting, _forks.calls:
            for channel in (self._channel, self._earlier_channel):
                if channel is not None:
                    channel.close()

    def send(
        self, call: Call[T], timeout: timedelta | None, default: timedelta, stop: threading.Event | None = None
    ) -> T:
        """Send a call and read its answer, within `timeout` or the default.

        Args:
            call: What to send.
            timeout: How long to try; None: the default.
            default: How long to try where no timeout is given.
            stop: Once set, there is no further try.
        """
        tries = _Tries(call, default if timeout is None else timeout, self.target)
        if self._closed.is_set():
            raise UsageError("this client is closed")
        _forks.check()
        with _spans.of_call(call.method, self.target) as span:
            while True:
                metadata = (*self._credentials.metadata(), *span.metadata)
                try:
                    method = self._method(call)
                    with _forks.calls:
                        answer = method(call.request, timeout=tries.remaining(), metadata=metadata)
                except grpc.RpcError as error:
                    code, ours = error.code(), translate(error)
                except ValueError as error:
                    # All that gRPC says of a channel that another thread has closed meanwhile.
                    raise Unavailable(_CLOSED_MEANWHILE) from error
                else:
                    span.answered(grpc.StatusCode.OK)
                    return call.read(answer)
                span.answered(code)
                if self._files is not None and code is grpc.StatusCode.UNAVAILABLE:
                    self._files.look_soon()
                pause = tries.pause_after(code, ours)
                span.retried()
                if (stop or self._closed).wait(pause):
                    raise Unavailable(_CLOSED_MEANWHILE)

    def _connect(self) -> grpc.Channel:
        """Make a channel, with what the files of its TLS hold now."""
        tls = self._credentials.tls
        files = None if tls is None else TLSFiles(tls)
        with _forks.calls:
            self._channel = channel = open_channel(self.target, tls)
        self._files = files
        # After the channel: a thread that finds these methods finds their channel too.
        self._methods = {}
        return channel

    def _method(self, call: Call[Any]) -> Callable[..., Any]:
        if self._files is not None:
            self._follow_files()
        methods = self._methods
        method = methods.get(call.method)
        if method is None:
            method = methods[call.method] = self._connected().unary_unary(
                call.method, type(call.request).SerializeToString, call.answer.FromString
            )
        return method

    def _connected(self) -> grpc.Channel:
        with self._connecting:
            return self._channel or self._connect()

    def _follow_files(self) -> None:
        with self._connecting:
            if self._files is None or not self._files.replaced() or self._closed.is_set():
                return
            channel = self._channel
            with suppress(InvalidArgument):  # Replaced once more, and not readable now: the next look finds them.
                self._connect()
                # Calls in flight end on the channel they began on, unless the files are replaced twice meanwhile.
                if self._earlier_channel is not None:
                    self._earlier_channel.close()
                self._earlier_channel = channel


class AsyncTransport:
    """An asyncio connection to a sidecar, within the loop it is opened in."""

    def __init__(self, target: str | None, token: Token | None = None, tls: TLS | None = None) -> None:
        self.target = target_or_default(target)
        self._credentials = Credentials(self.target, token, tls)
        self._channel: grpc.aio.Channel | None = None
        self._earlier_channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = asyncio.Event()
        self._files: TLSFiles | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        _forks.register(self)

    def _forked(self) -> None:
        # To end the parent's channels would wait for a thread that only the parent has.
        _INHERITED.append((self._channel, self._earlier_channel, self._methods))
        self._channel = self._earlier_channel = None
        self._loop, self._files, self._methods = None, None, {}
        self._closed = asyncio.Event()

    def open(self) -> None:
        """Start the connection. Not earlier: an asyncio channel belongs to the loop it is made in."""
        _forks.check()
        loop = _running_loop()
        # A loop that is closed has taken its connections with it.
        if self._channel is not None and self._loop is not None and not self._loop.is_closed():
            raise UsageError("this client is open already" if self._loop is loop else _OTHER_LOOP)
        self._loop = loop
        self._earlier_channel = None
        # Calls keep to the one they began with: none goes on because the client is opened again.
        self._closed = asyncio.Event()
        self._connect()

    async def close(self) -> None:
        """End the connection; calls in flight end as Unavailable."""
        if self._channel is None:
            return
        if self._loop is not None and not self._loop.is_closed() and self._loop is not _running_loop():
            raise UsageError(_OTHER_LOOP)
        self._closed.set()
        channels = (self._channel, self._earlier_channel)
        self._channel = self._earlier_channel = None
        # They hold the channel, and gRPC's thread lives as long as a channel does.
        self._methods.clear()
        if self._loop is _running_loop():
            for channel in channels:
                if channel is not None:
                    await _end(channel)

    async def send(
        self, call: Call[T], timeout: timedelta | None, default: timedelta, stop: asyncio.Event | None = None
    ) -> T:
        """Send a call and read its answer, within `timeout` or the default: as `Transport.send`."""
        tries = _Tries(call, default if timeout is None else timeout, self.target)
        _forks.check()
        if self._channel is None:
            raise UsageError("this client is not open: use it in `async with`")
        if self._loop is not _running_loop():
            raise UsageError(_OTHER_LOOP)
        closed = self._closed
        with _spans.of_call(call.method, self.target) as span:
            while True:
                metadata = (*self._credentials.metadata(), *span.metadata)
                if self._files is not None and self._files.replaced():
                    await self._follow_files()
                try:
                    sent = self._method(call)(call.request, timeout=tries.remaining(), metadata=metadata)
                    answer = await _answer(sent, closed)
                except grpc.RpcError as error:
                    code, ours = error.code(), translate(error)
                except grpc.aio.UsageError as error:
                    raise Unavailable(_CLOSED_MEANWHILE) from error
                except asyncio.CancelledError:
                    span.answered(grpc.StatusCode.CANCELLED)
                    raise
                else:
                    span.answered(grpc.StatusCode.OK)
                    return call.read(answer)
                span.answered(code)
                if self._files is not None and code is grpc.StatusCode.UNAVAILABLE:
                    self._files.look_soon()
                pause = tries.pause_after(code, ours)
                span.retried()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await (stop or closed).wait()
                if closed.is_set() or (stop is not None and stop.is_set()):
                    raise Unavailable(_CLOSED_MEANWHILE)

    def _connect(self) -> None:
        """Make a channel, with what the files of its TLS hold now."""
        tls = self._credentials.tls
        files = None if tls is None else TLSFiles(tls)
        self._channel = open_async_channel(self.target, tls)
        _forks.asyncio_channels.add(self._channel)
        self._files, self._methods = files, {}

    def _method(self, call: Call[Any]) -> Callable[..., Any]:
        if self._channel is None:
            raise Unavailable(_CLOSED_MEANWHILE)
        method = self._methods.get(call.method)
        if method is None:
            method = self._methods[call.method] = self._channel.unary_unary(
                call.method, type(call.request).SerializeToString, call.answer.FromString
            )
        return method

    async def _follow_files(self) -> None:
        channel, earlier = self._channel, self._earlier_channel
        with suppress(InvalidArgument):  # Replaced once more, and not readable now: the next look finds them.
            self._connect()
            # Calls in flight end on the channel they began on, unless the files are replaced twice meanwhile.
            self._earlier_channel = channel
            if earlier is not None:
                await _end(earlier)


async def _end(channel: grpc.aio.Channel) -> None:
    await channel.close()
    _forks.asyncio_channels.discard(channel)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError("an asyncio client needs a running asyncio event loop") from None


async def _answer(sent: Awaitable[Any], closed: asyncio.Event) -> Any:
    """Wait for an answer.

    gRPC turns a cancellation of its caller into a CancelledError of its own. A scope of anyio does not know that one
    for its own, and lets it out. Behind a shield the caller gets the very cancellation that it was sent.
    """
    caller = asyncio.current_task()
    cancellations = 0 if caller is None else caller.cancelling()
    sending = asyncio.ensure_future(sent)
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        # gRPC ends the calls of a closed channel like this, which would pass for a cancellation of the caller.
        if closed.is_set() and sending.cancelled() and (caller is None or caller.cancelling() <= cancellations):
            raise Unavailable(_CLOSED_MEANWHILE) from None
        sending.cancel()
        raise
