"""The native engine: its methods, its connections, and their limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from session_notes_server.identity.callers import Certificates
from session_notes_server.rpc.budgets import Budget
from session_notes_server.rpc.connections import connections_per_address
from session_notes_server.rpc.engines.native.call import Call
from session_notes_server.rpc.engines.native.connection import Connection
from session_notes_server.rpc.engines.native.listener import Listener
from session_notes_server.rpc.listening import sockets
from session_notes_server.rpc.transfers import RESPONSE_SECONDS, ThrottledWarning, Transfer
from session_notes_server.settings import EngineName, Settings

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
        succeeded: The number of calls that ended with OK.
        waiting: The bytes of requests that no handler reads yet.
        unread: The warning about connections whose callers do not read.
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
        self._generic_handlers: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[bytes, Any] = {}
        self._listeners: list[Listener] = []
        self.unread = ThrottledWarning(f"closed %d connections whose callers did not read for {RESPONSE_SECONDS:.0f} s")

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve these handlers. The first handler that knows a method serves it."""
        self._generic_handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Ignore what generated code registers in addition to generic handlers."""

    @contextlib.contextmanager
    def listening(self, address: str) -> Iterator[str]:
        """Bind an address: TCP with TLS if there are certificates, a unix socket without."""
        with sockets(address, held=self._held) as (opened, bound):
            context = None if address.startswith("unix:") or self._certificates is None else self._certificates.context
            listener = Listener(opened, partial(Connection, self), context, self._max_connections)
            self._listeners.append(listener)
            try:
                yield bound
            finally:
                listener.stop()

    async def start(self) -> None:
        """Accept connections on all addresses."""
        for listener in self._listeners:
            listener.start()

    async def stop(self, grace: float | None) -> None:
        """Close the addresses, wait up to `grace` seconds for calls in flight and their responses, and end the rest."""
        for listener in self._listeners:
            listener.stop()
        steps = {Connection.accept_no_more: grace or 0.0, Connection.end_calls: CLOSE_SECONDS, Connection.abort: 0.0}
        for step, seconds in steps.items():
            for connection in list(self.connections):
                step(connection)
            end = self.loop.time() + seconds
            while self.connections and self.loop.time() < end:  # noqa: ASYNC110 - connections end in callbacks
                await asyncio.sleep(0.005)

    def handler(self, path: bytes) -> Any:
        """Return the handler of the method with this path, or None."""
        handler = self._handlers.get(path)
        if handler is None:
            details = _Details(path.decode("latin-1"))
            handler = next(filter(None, (generic.service(details) for generic in self._generic_handlers)), None)
            if handler is not None:
                self._handlers[path] = handler
        return handler

    def channelz_servicer(self) -> object:
        """Return the servicer of channelz."""
        from session_notes_server.rpc.engines.native.channelz import ChannelzServicer

        return ChannelzServicer(self)

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
