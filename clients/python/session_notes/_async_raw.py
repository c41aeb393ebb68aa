"""Asyncio client for raw calls. Generated from `_raw` by clients/python/async_clients.py: do not edit."""
# ruff: noqa: ASYNC109 - the deadline is sent with the call; asyncio.timeout would not reach the sidecar.

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from session_notes import _calls
from session_notes._async_transport import AsyncTransport
from session_notes._credentials import TLS, Token
from session_notes._limits import DEFAULT_STATE_TIMEOUT

if TYPE_CHECKING:
    from google.protobuf.message import Message


class AsyncRawClient:
    """Client that sends the request messages of `session_notes.v1` and returns the response messages.

    It supports features that the other clients omit: page tokens, batches over several observers, and the size of a
    response. `from_message` of `Reading`, `Run`, `Session` and `SessionSummary` converts a message into a result of the
    other clients.

        >>> from session_notes.v1.session_state_pb2 import ListSessionsRequest
        >>> async with AsyncRawClient() as raw:
        ...     page = await raw.call(ListSessionsRequest(page_size=50, page_token=token))
        ...     summaries = [SessionSummary.from_message(session) for session in page.sessions]

    Open it with `async with`. It belongs to that event loop, and raises UsageError in any other.

    Args:
        target: Address of the sidecar, as for `AsyncPrimaryClient`.
        token: Token of this client, as for `AsyncPrimaryClient`.
        tls: TLS for the connection, as for `AsyncPrimaryClient`.
        timeout: Default timeout of a call.

    Attributes:
        target: Address of the sidecar.

    Raises:
        InvalidArgument: If an argument is invalid, such as a target that is not an address.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        token: Token | None = None,
        tls: TLS | None = None,
        timeout: timedelta = DEFAULT_STATE_TIMEOUT,
    ) -> None:
        _calls.check_options(timeout=timeout)
        self._timeout = timeout
        self._transport = AsyncTransport(target, token, tls)
        self.target = self._transport.target

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls in flight in other tasks raise Unavailable. Later calls raise UsageError."""
        await self._transport.close()

    async def call(self, request: Message, *, timeout: timedelta | None = None) -> Any:
        """Send a request message and return the response message. Never retried.

        Args:
            request: A request message of `session_notes.v1`. Its type determines the RPC.
            timeout: Timeout of this call. None: the client's `timeout`.

        Raises:
            InvalidArgument: If it is not a request message of `session_notes.v1`, or the sidecar rejects it.
            SessionNotesError: If the call fails for another reason.
        """
        return await self._transport.send(_calls.raw(request), timeout, self._timeout)
