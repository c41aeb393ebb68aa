"""The seam to the engines, which serve handlers over the network: `native` on libnghttp2, and `grpcio` on grpc.aio.

Both serve the handlers of grpc.aio, so every servicer runs on either. An engine also tells admission control what only
it knows: which connection a call belongs to, when its message has arrived, and when its response has been read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from session_notes_server.identity.callers import Certificates
from session_notes_server.settings import EngineName, InvalidSetting, Settings

if TYPE_CHECKING:
    from session_notes_server.rpc.transfers import Transfer


class Engine(Protocol):
    """A server of handlers. It must be created and used inside one event loop.

    Attributes:
        name: The engine's name.
    """

    name: EngineName

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve these handlers. The first handler that knows a method serves it."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Accept what generated code registers in addition to generic handlers."""

    def listening(self, address: str) -> AbstractContextManager[str]:
        """Bind an address, accept connections after `start`, and release it at the end of the block.

        Yields:
            The address with the actual port.

        Raises:
            AddressError: If the address is in use.
        """

    async def start(self) -> None:
        """Accept connections on all addresses."""

    async def stop(self, grace: float | None) -> None:
        """Close the addresses, wait up to `grace` seconds for calls in flight and their responses, and end the rest."""

    def connection(self, context: Any) -> Hashable | None:
        """Return the identity of a call's connection. None: unknown, so that the call counts as its own connection."""

    def arrived(self, context: Any, reserve: Callable[[int], None]) -> bytes | None:
        """Return the message of a call if it is already complete; see `read`."""

    async def read(self, context: Any, reserve: Callable[[int], None]) -> bytes | None:
        """Receive the message of a call.

        Args:
            context: The call.
            reserve: Called once with the size of the message, as early as the engine knows it. It raises an error if
                the message must not be received.

        Returns:
            The message, or None if the caller ended its side without one.
        """

    def on_end(self, context: Any, task: asyncio.Task[Any], callback: Callable[[object], None]) -> None:
        """Call `callback` once a call has ended and its response has been read or dropped."""

    def channelz_servicer(self) -> object:
        """Return the servicer of `grpc.channelz.v1` for this engine's connections."""

    def drop_unread(self, calls: Iterable[Transfer]) -> None:
        """End calls whose responses have been unread for too long, and free their memory."""


INSTALL_NATIVE = "pip install '.[server]' in the checkout of session-notes"
"""How to install the package of the native engine."""


def resolve(name: EngineName) -> EngineName:
    """Return the engine that serves: for `auto` the native one, if its package can be imported.

    Raises:
        InvalidSetting: If the native engine is required and its package cannot be imported.
    """
    if name is EngineName.GRPCIO:
        return name
    try:
        import ngh2  # noqa: F401
    except ImportError as error:
        if name is EngineName.AUTO:
            return EngineName.GRPCIO
        raise InvalidSetting(
            f"--engine native needs the package ngh2 ({error}): {INSTALL_NATIVE}, or give --engine grpcio"
        ) from None
    return EngineName.NATIVE


def open_engine(settings: Settings, certificates: Certificates | None) -> Engine:
    """Create the engine that the settings name, which is not `auto`: see `resolve`."""
    # Imported only if used: each engine imports a network stack.
    if settings.engine is EngineName.NATIVE:
        from session_notes_server.rpc.engines.native.server import NativeEngine

        return NativeEngine(settings, certificates)
    from session_notes_server.rpc.engines.grpcio.server import GrpcioEngine

    return GrpcioEngine(settings, certificates)
