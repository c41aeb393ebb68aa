"""Blocking transport: one connection to a sidecar, on which calls are sent and retried.

`_async_transport` is its counterpart for asyncio. The two are written separately because they have little in common:
locks and threads on one side, event loops and cancellation on the other. They share `_retries`, and
tests/clients/test_counterparts.py compares their signatures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import grpc

from session_notes import _forks, _spans
from session_notes._calls import Call
from session_notes._channel import open_channel
from session_notes._credentials import TLS, Credentials, TLSFiles, Token
from session_notes._errors import InvalidArgument, Unavailable, UsageError, translate
from session_notes._retries import Attempts
from session_notes._targets import target_or_default

T = TypeVar("T")

CLOSED_DURING_CALL = "the client was closed during the call"


class Transport:
    """A blocking connection to a sidecar. Safe to use from several threads."""

    def __init__(self, target: str | None, token: Token | None = None, tls: TLS | None = None) -> None:
        self.target = target_or_default(target)
        self._credentials = Credentials(self.target, token, tls)
        self._closed = threading.Event()
        self._connecting = threading.RLock()
        self._channel: grpc.Channel | None = None
        self._previous_channel: grpc.Channel | None = None
        self._files: TLSFiles | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        _forks.register(self)
        self._connect()

    def _forked(self) -> None:
        # Channels are dropped, not closed, because their connections are the parent's. The next call opens a new one.
        closed, self._closed = self._closed.is_set(), threading.Event()
        if closed:
            self._closed.set()
        self._connecting = threading.RLock()
        self._channel = self._previous_channel = None
        self._files, self._methods = None, {}

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._closed.is_set()

    def close(self) -> None:
        """Close the connection. Calls in flight end as Unavailable."""
        self._closed.set()
        with self._connecting, _forks.calls:
            for channel in (self._channel, self._previous_channel):
                if channel is not None:
                    channel.close()

    def send(
        self, call: Call[T], timeout: timedelta | None, default: timedelta, stop: threading.Event | None = None
    ) -> T:
        """Send a call, retry it if that is safe, and return its result.

        Args:
            call: The call.
            timeout: Time for all attempts together. None: the default.
            default: The default timeout.
            stop: Once set, there is no further attempt.
        """
        attempts = Attempts(call, timeout, default, self.target)
        if self._closed.is_set():
            raise UsageError("this client is closed")
        _forks.check()
        try:
            return self._send(call, attempts, stop or self._closed)
        except Unavailable as error:
            if call.fallback is None:
                raise
            return call.fallback(error)

    def _send(self, call: Call[T], attempts: Attempts, stop: threading.Event) -> T:
        with _spans.call_span(call.method, self.target) as span:
            while True:
                metadata = (*self._credentials.metadata(), *span.metadata)
                try:
                    method = self._method(call)
                    with _forks.calls:
                        response = method(call.request, timeout=attempts.remaining(), metadata=metadata)
                except grpc.RpcError as rpc_error:
                    code, error = rpc_error.code(), translate(rpc_error)
                except ValueError as closed:
                    # gRPC raises this, with no details, if another thread has closed the channel.
                    raise Unavailable(CLOSED_DURING_CALL) from closed
                else:
                    span.record_status(grpc.StatusCode.OK)
                    return call.read(response)
                span.record_status(code)
                if self._files is not None and code is grpc.StatusCode.UNAVAILABLE:
                    self._files.check_soon()
                pause = attempts.pause_after(code, error)
                span.record_retry()
                if stop.wait(pause):
                    raise Unavailable(CLOSED_DURING_CALL)

    def _connect(self) -> grpc.Channel:
        """Open a channel with the current content of the TLS files."""
        tls = self._credentials.tls
        files = None if tls is None else TLSFiles(tls)
        with _forks.calls:
            self._channel = channel = open_channel(self.target, tls)
        self._files = files
        # Set after the channel, so that a thread that sees these methods also sees their channel.
        self._methods = {}
        return channel

    def _method(self, call: Call[Any]) -> Callable[..., Any]:
        if self._files is not None:
            self._follow_files()
        methods = self._methods
        method = methods.get(call.method)
        if method is None:
            method = methods[call.method] = self._connected().unary_unary(
                call.method, type(call.request).SerializeToString, call.response_type.FromString
            )
        return method

    def _connected(self) -> grpc.Channel:
        with self._connecting:
            return self._channel or self._connect()

    def _follow_files(self) -> None:
        """Reconnect if the TLS files have been replaced."""
        with self._connecting:
            if self._files is None or not self._files.replaced() or self._closed.is_set():
                return
            channel = self._channel
            with suppress(InvalidArgument):  # Replaced again, and unreadable now: the next check finds the new files.
                self._connect()
                # Calls in flight finish on their channel, unless the files are replaced twice in the meantime.
                if self._previous_channel is not None:
                    self._previous_channel.close()
                self._previous_channel = channel
