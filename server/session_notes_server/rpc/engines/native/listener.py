"""An address that accepts connections, up to a limit, and survives a lack of file descriptors."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence

from session_notes_server.rpc.connections import HANDSHAKE_SECONDS
from session_notes_server.rpc.transfers import ThrottledWarning

PAUSE_SECONDS = 0.1
"""Pause after a failed accept: without descriptors, the next one would fail as well."""

ACCEPTED_AT_ONCE = 100
"""Connections accepted in one turn of the event loop."""


class Listener:
    """The sockets of one address. asyncio's own servers stop accepting, for long or for good, after some errors.

    Args:
        sockets: Listening sockets. Their owner closes them.
        protocol: Creates the protocol of a connection. Its argument is called when the connection is lost.
        context: Returns the TLS context for the next connection. None: no TLS.
        max_connections: The most connections to have open. More are closed at once.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocol: Callable[[Callable[[], None]], asyncio.BaseProtocol],
        context: Callable[[], ssl.SSLContext] | None,
        max_connections: int,
    ) -> None:
        self._sockets = list(sockets)
        self._protocol = protocol
        self._context = context
        self._max_connections = max_connections
        self._open = 0
        self._loop = asyncio.get_running_loop()
        self._handshakes = set[asyncio.Task[None]]()
        self._rejections = ThrottledWarning(f"closed %d connections beyond the limit of {max_connections}")
        self._failures = ThrottledWarning("could not accept connections, probably for lack of descriptors (%d times)")

    def start(self) -> None:
        """Accept connections."""
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def stop(self) -> None:
        """Accept no more connections. Idempotent."""
        for listening in self._sockets:
            self._loop.remove_reader(listening.fileno())
        self._sockets.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._failures.add()
                self._loop.remove_reader(listening.fileno())
                self._loop.call_later(PAUSE_SECONDS, self.start)
                return
            if self._open >= self._max_connections:
                self._rejections.add()
                accepted.close()
                continue
            self._open += 1
            handshake = self._loop.create_task(self._connect(accepted))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        """Hand a connection to its protocol, after the TLS handshake."""
        context = self._context() if self._context is not None else None
        try:
            accepted.setblocking(False)
            if accepted.family is not socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(self._release),
                accepted,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context is not None else None,
            )
        except OSError:  # Includes all errors of TLS.
            accepted.close()
            self._release()

    def _release(self) -> None:
        self._open -= 1
