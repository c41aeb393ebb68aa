"""Sends calls: deadline, retries, and gRPC's errors turned into ours.

Retries are our own, not gRPC's: its retry policy stops after five tries, which was measured to be 1.5 s; a sidecar may
take longer to restart. Here the deadline alone is the limit, and what the sidecar says about when to come back counts.
"""
# ruff: noqa: ASYNC109 - the deadline travels with the call; asyncio.timeout would not tell the sidecar.

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import grpc.aio

from session_notes import _forks, _spans
from session_notes._calls import Call
from session_notes._channel import open_async_channel, open_channel, target_or_default
from session_notes._credentials import TLS, Credentials, Token
from session_notes._errors import (
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    SessionNotesError,
    Unavailable,
    UsageError,
    translate,
)

T = TypeVar("T")

_CLOSED_MEANWHILE = "the client was closed during the call"
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0

_INHERITED: list[grpc.aio.Channel] = []
"""Channels that were open at a fork, in the child."""


class _Tries:
    """How long the next try of one call may take, and whether there is to be one."""

    def __init__(self, call: Call[Any], timeout: timedelta) -> None:
        if not isinstance(timeout, timedelta):
            raise InvalidArgument(f"timeout must be a datetime.timedelta, not {type(timeout).__name__}")
        self._repeatable = call.repeatable
        self._deadline = time.monotonic() + timeout.total_seconds()
        self._pause = _FIRST_PAUSE_SECONDS
        self._earlier: SessionNotesError | None = None

    def remaining(self) -> float:
        """Seconds until the deadline; for gRPC, which takes 0 and less as passed."""
        return self._deadline - time.monotonic()

    def pause_after(self, code: grpc.StatusCode, error: SessionNotesError) -> float:
        """Seconds to wait before the next try; raises the error where there is to be none."""
        passing = code is grpc.StatusCode.UNAVAILABLE or isinstance(error, Overloaded)
        if not self._repeatable or not passing:
            if self._earlier is not None and isinstance(error, DeadlineExceeded):
                # Its time ran out in the middle of a try. What takes so long, the one before has said.
                error.args = (f"{error}; before that: {self._earlier}",)
            raise error from self._earlier
        import random  # a tenth of this package's import time, for those who never need it

        # Jitter, so that many clients of one sidecar do not come back all at once.
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - no secret in it
        if error.retry_after is not None:
            pause = max(pause, error.retry_after.total_seconds())
        if pause >= self.remaining():
            raise error from self._earlier
        self._earlier = error
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        return pause


class Transport:
    """A blocking connection to a sidecar. Safe to use from many threads."""

    def __init__(self, target: str | None, token: Token | None = None, tls: TLS | None = None) -> None:
        self.target = target_or_default(target)
        self._credentials = Credentials(self.target, token, tls)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        _forks.register(self)
        self._opened()

    def _forked(self) -> None:
        # The parent's channel is of no use here, and closing it could end the parent's connection: drop it.
        closed, self._closed = self._closed.is_set(), threading.Event()
        if closed:
            self._closed.set()
        self._lock = threading.Lock()
        self._channel = None
        self._methods = {}

    def close(self) -> None:
        """Ends the connection; calls under way end as Unavailable."""
        self._closed.set()
        with self._lock, _forks.calls:
            if self._channel is not None:
                self._channel.close()

    def send(
        self, call: Call[T], timeout: timedelta | None, default: timedelta, stop: threading.Event | None = None
    ) -> T:
        """Sends a call and reads its answer, within `timeout` or the default.

        Args:
            call: What to send.
            timeout: How long to try; None: the default.
            default: How long to try where no timeout is given.
            stop: Once set, there is no further try.
        """
        tries = _Tries(call, default if timeout is None else timeout)
        with _spans.of_call(call.method, self.target) as span:
            method = self._method(call)
            while True:
                metadata = (*self._credentials.metadata(), *span.metadata)
                try:
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
                pause = tries.pause_after(code, ours)
                span.retried()
                if (stop or self._closed).wait(pause):
                    raise Unavailable(_CLOSED_MEANWHILE)

    def _method(self, call: Call[Any]) -> Callable[..., Any]:
        if self._closed.is_set():
            raise UsageError("this client is closed")
        _forks.check()
        method = self._methods.get(call.method)
        if method is None:
            method = self._methods[call.method] = self._opened().unary_unary(
                call.method, type(call.request).SerializeToString, call.answer.FromString
            )
        return method

    def _opened(self) -> grpc.Channel:
        with self._lock, _forks.calls:
            if self._channel is None:
                self._channel = open_channel(self.target, self._credentials.tls)
            return self._channel


class AsyncTransport:
    """An asyncio connection to a sidecar, within the loop it is opened in."""

    def __init__(self, target: str | None, token: Token | None = None, tls: TLS | None = None) -> None:
        self.target = target_or_default(target)
        self._credentials = Credentials(self.target, token, tls)
        self._channel: grpc.aio.Channel | None = None
        self._closed = asyncio.Event()
        self._methods: dict[str, Callable[..., Any]] = {}
        _forks.register(self)

    def _forked(self) -> None:
        if self._channel is not None:
            # To end it would wait for a thread that only the parent has.
            _INHERITED.append(self._channel)
        self._channel = None
        self._methods = {}

    def open(self) -> None:
        """Starts the connection. Not earlier: an asyncio channel belongs to the loop it is made in."""
        if self._channel is not None:
            raise UsageError("this client is open already")
        _forks.check()
        self._methods.clear()
        # Calls keep to the one they began with: none goes on because the client is opened again.
        self._closed = asyncio.Event()
        self._channel = open_async_channel(self.target, self._credentials.tls)
        _forks.asyncio_channels.add(self._channel)

    async def close(self) -> None:
        """Ends the connection; calls under way end as Unavailable."""
        self._closed.set()
        channel, self._channel = self._channel, None
        if channel is not None:
            # They hold the channel, and gRPC's thread lives as long as a channel does.
            self._methods.clear()
            await channel.close()
            _forks.asyncio_channels.discard(channel)

    async def send(
        self, call: Call[T], timeout: timedelta | None, default: timedelta, stop: asyncio.Event | None = None
    ) -> T:
        """Sends a call and reads its answer, within `timeout` or the default: as `Transport.send`."""
        tries = _Tries(call, default if timeout is None else timeout)
        with _spans.of_call(call.method, self.target) as span:
            method, closed = self._method(call), self._closed
            while True:
                metadata = (*self._credentials.metadata(), *span.metadata)
                try:
                    answer = await method(call.request, timeout=tries.remaining(), metadata=metadata)
                except grpc.RpcError as error:
                    code, ours = error.code(), translate(error)
                except grpc.aio.UsageError as error:
                    raise Unavailable(_CLOSED_MEANWHILE) from error
                except asyncio.CancelledError:
                    # gRPC ends calls of a closed channel like this, which would pass for a cancellation of the task.
                    task = asyncio.current_task()
                    if not closed.is_set() or (task is not None and task.cancelling()):
                        span.answered(grpc.StatusCode.CANCELLED)
                        raise
                    raise Unavailable(_CLOSED_MEANWHILE) from None
                else:
                    span.answered(grpc.StatusCode.OK)
                    return call.read(answer)
                span.answered(code)
                pause = tries.pause_after(code, ours)
                span.retried()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await (stop or closed).wait()
                if closed.is_set() or (stop and stop.is_set()):
                    raise Unavailable(_CLOSED_MEANWHILE)

    def _method(self, call: Call[Any]) -> Callable[..., Any]:
        _forks.check()
        channel = self._channel
        if channel is None:
            raise UsageError("this client is not open: use it in `async with`")
        method = self._methods.get(call.method)
        if method is None:
            method = self._methods[call.method] = channel.unary_unary(
                call.method, type(call.request).SerializeToString, call.answer.FromString
            )
        return method
