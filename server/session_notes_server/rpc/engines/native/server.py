"""The native engine: its methods, its connections, and their limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from session_notes_server.identity.callers import Certificates
from session_notes_server.rpc.budgets import Budget
from session_notes_server.rpc.connections import connections_per_address
from session_notes_server.rpc.engines.native.call import Call, Method
from session_notes_server.rpc.engines.native.connection import Connection
from session_notes_server.rpc.engines.native.listener import Listener
from session_notes_server.rpc.listening import sockets
from session_notes_server.rpc.transfers import RESPONSE_SECONDS, ThrottledWarning, Transfer
from session_notes_server.settings import EngineName, Settings

CHECK_SECONDS = 0.25
"""Interval of the checks of connections' time limits."""

WAITING_BYTES, WAITING_BYTES_PER_CONNECTION, LITTLE_BYTES = 32 * 1024**2, 8 * 1024**2, 64 * 1024
"""Bounds on the bytes of requests that no handler reads yet. Beyond them, requests are refused as OVERLOADED."""

CLOSE_SECONDS = 1.0
"""Time for a connection to send its last bytes when the engine stops."""


class NativeEngine:
    """The native engine. Implements `engines.Engine`.

    Attributes:
        loop: The event loop.
        connections: The open connections.
        started: The number of calls so far.
        succeeded: The number of calls that ended with a response.
        waiting: The bytes of requests that no handler reads yet.
        max_message_bytes: The largest message to receive.
        max_age_seconds: The age at which a connection is closed, give or take a tenth.
        max_streams: The most calls in flight that a connection may have. Admission control refuses calls earlier, with
            a reason.
    """

    name = EngineName.NATIVE

    def __init__(self, settings: Settings, certificates: Certificates | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.waiting = Budget(WAITING_BYTES, each=WAITING_BYTES_PER_CONNECTION, little=LITTLE_BYTES)
        self.started = self.succeeded = 0
        self.max_message_bytes = settings.limits.message_bytes
        self.max_streams = 2 * settings.limits.concurrent_calls
        self._certificates = certificates
        self._held = settings.workers > 1
        self.max_age_seconds = settings.max_connection_age.total_seconds()
        self._max_connections = connections_per_address(settings)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._methods: dict[bytes, Method] = {}
        self._listeners: list[Listener] = []
        self._checks: asyncio.Task[None] | None = None
        self._unread = ThrottledWarning(
            f"closed %d connections whose callers did not read for {RESPONSE_SECONDS:.0f} s"
        )

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve these handlers. The first handler that knows a method serves it."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Ignore what generated code registers in addition to generic handlers."""

    @contextlib.contextmanager
    def listening(self, address: str) -> Iterator[str]:
        """Bind an address: TCP with TLS if there are certificates, a unix socket without."""
        with sockets(address, held=self._held) as (opened, bound):
            context = None if address.startswith("unix:") or self._certificates is None else self._certificates.context

            def connection(on_lost: Callable[[], None]) -> Connection:
                return Connection(self, on_lost, encrypted=context is not None)

            listener = Listener(opened, connection, context, self._max_connections)
            self._listeners.append(listener)
            try:
                yield bound
            finally:
                listener.stop()

    async def start(self) -> None:
        """Accept connections on all addresses."""
        for listener in self._listeners:
            listener.start()
        self._checks = asyncio.create_task(self._check())

    async def stop(self, grace: float | None) -> None:
        """Close the addresses, wait up to `grace` seconds for calls in flight and their responses, and end the rest."""
        for listener in self._listeners:
            listener.stop()
        for connection in list(self.connections):
            connection.leave(now=True)
        await self._wait_for(lambda: not self.connections, grace or 0.0)
        for connection in list(self.connections):
            connection.end_calls()
        await self._wait_for(lambda: not self.connections, CLOSE_SECONDS)
        for connection in list(self.connections):
            connection.abort()
        if self._checks is not None:
            self._checks.cancel()

    def method(self, path: bytes) -> Method | None:
        """Return the method with this path."""
        method = self._methods.get(path)
        return method if method is not None else self._find(path)

    def _find(self, path: bytes) -> Method | None:
        details = _Details(path.decode("latin-1"))
        for handlers in self._handlers:
            handler = handlers.service(details)
            if handler is not None:
                method = self._methods[path] = Method.of(handler)
                return method
        return None

    def channelz_servicer(self) -> object:
        """Return the servicer of channelz."""
        from session_notes_server.rpc.engines.native.channelz import ChannelzServicer

        return ChannelzServicer(self)

    def log_unread(self) -> None:
        """Log, throttled, that a connection is closed because its caller does not read."""
        self._unread.add(1, self.loop.time())

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._check_connections()

    def _check_connections(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.check(now)

    async def _wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 - connections end in callbacks
                    await asyncio.sleep(0.005)

    # For admission control.

    def connection(self, context: Call) -> Connection:
        """Return the connection of a call."""
        return context.connection

    def arrived(self, context: Call, reserve: Callable[[int], None]) -> bytes | None:
        """Return the message of a call if it is already complete."""
        return context.request.arrived(reserve)

    async def read(self, context: Call, reserve: Callable[[int], None]) -> bytes | None:
        """Receive the message of a call. Its size is known at its prefix."""
        return await context.request.read(reserve)

    def on_end(self, context: Call, task: asyncio.Task[Any], callback: Callable[[object], None]) -> None:
        """Call `callback` when the stream of the call is closed and its handler has ended."""
        context.on_closed = callback

    def drop_unread(self, calls: Iterable[Transfer]) -> None:
        """Close the connections of the calls: their callers do not read."""
        for connection in {call.context.connection for call in calls}:
            connection.drop_unread()


@dataclass
class _Details:
    """What a handler is asked for. Implements grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()
