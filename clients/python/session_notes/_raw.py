"""Blocking client for raw calls. `_async_raw` is generated from it: see clients/python/async_clients.py."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from session_notes import _calls
from session_notes._credentials import TLS, Token
from session_notes._limits import DEFAULT_STATE_TIMEOUT
from session_notes._transport import Transport

if TYPE_CHECKING:
    from google.protobuf.message import Message


class RawClient:
    """Client that sends the request messages of `session_notes.v1` and returns the response messages.

    It supports features that the other clients omit: page tokens, batches over several observers, and the size of a
    response. `from_message` of `Reading`, `Run`, `Session` and `SessionSummary` converts a message into a result of the
    other clients.

        >>> from session_notes.v1.session_state_pb2 import ListSessionsRequest
        >>> with RawClient() as raw:
        ...     page = raw.call(ListSessionsRequest(page_size=50, page_token=token))
        ...     summaries = [SessionSummary.from_message(session) for session in page.sessions]

    Safe to use from several threads. Create one per process, and close it or use it in `with`.

    Args:
        target: Address of the sidecar, as for `PrimaryClient`.
        token: Token of this client, as for `PrimaryClient`.
        tls: TLS for the connection, as for `PrimaryClient`.
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
        self._transport = Transport(target, token, tls)
        self.target = self._transport.target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls in flight in other threads raise Unavailable. Later calls raise UsageError."""
        self._transport.close()

    def call(self, request: Message, *, timeout: timedelta | None = None) -> Any:
        """Send a request message and return the response message. Never retried.

        Args:
            request: A request message of `session_notes.v1`. Its type determines the RPC.
            timeout: Timeout of this call. None: the client's `timeout`.

        Raises:
            InvalidArgument: If it is not a request message of `session_notes.v1`, or the sidecar rejects it.
            SessionNotesError: If the call fails for another reason.
        """
        return self._transport.send(_calls.raw(request), timeout, self._timeout)
