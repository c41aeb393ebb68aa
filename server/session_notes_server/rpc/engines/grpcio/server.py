"""The engine on grpc.aio: its server, its addresses, and what admission control needs to know about its calls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import grpc

from session_notes_server.identity.callers import Certificates
from session_notes_server.rpc.engines.grpcio.options import options
from session_notes_server.rpc.engines.grpcio.reset import reset
from session_notes_server.rpc.listening import bind_error, exclusive_socket, socket_path
from session_notes_server.rpc.transfers import Transfer
from session_notes_server.settings import EngineName, Settings


class GrpcioEngine:
    """The engine on grpc.aio. Implements `engines.Engine`."""

    name = EngineName.GRPCIO

    def __init__(self, settings: Settings, certificates: Certificates | None) -> None:
        self._server = grpc.aio.server(options=options(settings))
        self._certificates = certificates
        self._held = settings.workers > 1
        self.add_generic_rpc_handlers = self._server.add_generic_rpc_handlers
        self.add_registered_method_handlers = self._server.add_registered_method_handlers
        self.start = self._server.start
        self.stop = self._server.stop

    @contextlib.contextmanager
    def listening(self, address: str) -> Iterator[str]:
        """Bind an address: TCP with TLS if there are certificates, a unix socket without."""
        with contextlib.ExitStack() as stack:
            if address.startswith("unix:") and not self._held:
                stack.enter_context(exclusive_socket(socket_path(address)))
            mask = os.umask(0o177)  # Only its owner may use a unix socket.
            try:
                if address.startswith("unix:"):
                    # gRPC expects a URI.
                    port = self._server.add_insecure_port(f"unix:{quote(os.fsencode(socket_path(address)))}")
                elif self._certificates is None:
                    port = self._server.add_insecure_port(address)
                else:
                    port = self._server.add_secure_port(address, self._certificates.grpc_credentials())
            except RuntimeError:
                # Another process has bound it in the meantime.
                raise bind_error(address, errno.EADDRINUSE) from None
            finally:
                os.umask(mask)
            yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def connection(self, context: Any) -> str | None:
        """Return the name of the caller. gRPC gives all callers on a unix socket the same name."""
        name: str = context.peer()
        return None if name.startswith("unix:") else name

    def arrived(self, context: Any, reserve: Callable[[int], None]) -> None:
        """Return None: gRPC does not tell whether a message has arrived."""

    async def read(self, context: Any, reserve: Callable[[int], None]) -> bytes | None:
        """Receive the message of a call. gRPC knows its size only once it is complete."""
        message = await context.read()
        if not isinstance(message, bytes):
            return None
        reserve(len(message))
        return message

    def on_end(self, context: Any, task: asyncio.Task[Any], callback: Callable[[object], None]) -> None:
        """Call `callback` when the task of the call's handler ends, which is after its response has been read."""
        # Not a callback of the context, which gRPC keeps in a reference cycle until the garbage collector runs.
        task.add_done_callback(callback)

    def drop_unread(self, calls: Iterable[Transfer]) -> None:
        """Reset the calls."""
        reset({call.task for call in calls})

    def channelz_servicer(self) -> object:
        """Return the servicer of channelz, which reports what gRPC counts."""
        from session_notes_server.rpc.engines.grpcio.channelz import ChannelzServicer

        return ChannelzServicer()
