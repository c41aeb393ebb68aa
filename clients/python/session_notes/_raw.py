"""Calls with the contract's own messages, over the clients' transport."""
# ruff: noqa: ASYNC109 - the deadline travels with the call; asyncio.timeout would not tell the sidecar.

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from session_notes import _calls
from session_notes._credentials import TLS, Token
from session_notes._primary import DEFAULT_STATE_TIMEOUT
from session_notes._transport import AsyncTransport, Transport

if TYPE_CHECKING:
    from google.protobuf.message import Message


class RawClient:
    """Calls with the request messages of `session_notes.v1`, for what the other clients leave out.

    Page tokens, batches over several observers and the size of a response are examples. `from_message` of `Reading`,
    `Run`, `Session` and `SessionSummary` turns a response into the values that the other clients return.

        >>> from session_notes.v1.session_state_pb2 import ListSessionsRequest
        >>> with RawClient() as raw:
        ...     page = raw.call(ListSessionsRequest(page_size=50, page_token=token))
        ...     summaries = [SessionSummary.from_message(session) for session in page.sessions]

    Arguments and errors are those of `PrimaryClient`.

    Attributes:
        target: The sidecar's address.
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
        self._transport = Transport(target, token, tls)
        self.target = self._transport.target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls in flight in other threads end as Unavailable, later ones as UsageError."""
        self._transport.close()

    def call(self, request: "Message", *, timeout: timedelta | None = None) -> Any:
        """Send a request once, without retries, and return its response message.

        Raises:
            InvalidArgument: It is not a request message of `session_notes.v1`, or the sidecar rejects it.
            SessionNotesError: The call failed.
        """
        return self._transport.send(_calls.raw(request), timeout, self._timeout)


class AsyncRawClient:
    """`RawClient` for asyncio. Opened by `async with`, and then only for the loop it was opened in.

    >>> async with AsyncRawClient() as raw:
    ...     page = await raw.call(ListSessionsRequest(page_size=50))
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
        """Close the connection. Calls in flight in other tasks end as Unavailable, later ones as UsageError."""
        await self._transport.close()

    async def call(self, request: "Message", *, timeout: timedelta | None = None) -> Any:
        """Send a request once and return its response message: as `RawClient.call`."""
        return await self._transport.send(_calls.raw(request), timeout, self._timeout)
