"""Asyncio client for the primary. Generated from `_primary` by clients/python/async_clients.py: do not edit."""
# ruff: noqa: ASYNC109 - the deadline is sent with the call; asyncio.timeout would not reach the sidecar.

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from session_notes import _calls, _drift, _notes_calls, _pending, _state_calls
from session_notes._async_transport import AsyncTransport
from session_notes._credentials import TLS, Token
from session_notes._limits import DEFAULT_NOTES_TIMEOUT, DEFAULT_STATE_TIMEOUT
from session_notes._results import Reading, Session, SessionSummary, UpdateResult
from session_notes._types import Turn


class AsyncPrimaryClient:
    """Client for the process that talks to the user: reads notes, and maintains the session's fields and transcript.

        >>> async with AsyncPrimaryClient() as primary:
        ...     await primary.append_turns("session-1", [Turn("user", "Can we start in May?")])
        ...     reading = await primary.get_notes("session-1", max_age=timedelta(minutes=1))
        ...     reading.as_tool_result()
        {'ready': False, 'reason': 'never_run'}

    Open it with `async with`. It belongs to that event loop, and raises UsageError in any other.

    Args:
        target: Address of the sidecar, such as `127.0.0.1:50051` or `unix:/run/session-notes.sock`. None: the
            environment variable `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
        token: Token of this client, or a function that returns it for every call, such as `TokenFile`. None: the
            environment variable `SESSION_NOTES_TOKEN`, else the file named by `SESSION_NOTES_TOKEN_FILE`. A token
            requires TLS, unless the sidecar is on this machine.
        tls: TLS for the connection. None: the files named by `SESSION_NOTES_TLS_CA`, `SESSION_NOTES_TLS_CERT` and
            `SESSION_NOTES_TLS_KEY`, else no encryption.
        timeout: Default timeout of `get_notes`.
        state_timeout: Default timeout of every other call.

    Raises:
        InvalidArgument: If an argument is invalid, such as a target that is not an address.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        token: Token | None = None,
        tls: TLS | None = None,
        timeout: timedelta = DEFAULT_NOTES_TIMEOUT,
        state_timeout: timedelta = DEFAULT_STATE_TIMEOUT,
    ) -> None:
        _calls.check_options(timeout=timeout, state_timeout=state_timeout)
        self._timeout = timeout
        self._state_timeout = state_timeout
        self._recognizes_appends = False
        self._transport = AsyncTransport(target, token, tls)

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

    async def get_notes(
        self,
        session_id: str,
        *,
        observer: str = "",
        max_age: timedelta | None = None,
        max_snapshot_age: timedelta | None = None,
        current_turn: int | None = None,
        max_turns_behind: int | None = None,
        timeout: timedelta | None = None,
        unavailable_ok: bool = False,
    ) -> Reading:
        """Read the current notes of one observer, with their age and drift. Never retried, and never waits for a run.

            >>> reading = await primary.get_notes("session-1", max_turns_behind=3, unavailable_ok=True)
            >>> advice = reading.notes if reading.fresh else None

        Args:
            session_id: The session. Without data, the result is a reading that is not ready, never an error.
            observer: Name of the observer. Empty: `default`.
            max_age: Maximum age of fresh notes, counted from their write, inclusive. None: any age.
            max_snapshot_age: Maximum age of the snapshot that fresh notes are based on, inclusive. None: any age.
            current_turn: Number of turns in the conversation. None: the stored turns, plus those pending in recorders
                of this process.
            max_turns_behind: Maximum drift of fresh notes, inclusive. None: any drift.
            timeout: Timeout of this call. None: the client's `timeout`.
            unavailable_ok: Whether to return a reading with the readiness `unavailable` if there is no response.

        Raises:
            Unavailable: If there is no response in time and `unavailable_ok` is false.
            SessionNotesError: If the call fails for another reason.
        """
        call = _notes_calls.get_notes(
            session_id, observer, max_age, max_snapshot_age, current_turn, max_turns_behind, unavailable_ok
        )
        call = _drift.counting_pending(call, self._transport.target)
        return await self._transport.send(call, timeout, self._timeout)

    async def batch_get_notes(
        self,
        session_ids: Iterable[str],
        *,
        observer: str = "",
        max_age: timedelta | None = None,
        max_snapshot_age: timedelta | None = None,
        max_turns_behind: int | None = None,
        timeout: timedelta | None = None,
        unavailable_ok: bool = False,
    ) -> list[Reading]:
        """Read the current notes of up to 1,000 sessions in one call, in the given order.

            >>> readings = await primary.batch_get_notes(["session-1", "session-2"], max_turns_behind=5)
            >>> stale = [reading.session_id for reading in readings if not reading.fresh]

        Arguments and errors are those of `get_notes`, except that the default timeout is the client's `state_timeout`.
        """
        call = _notes_calls.batch_get_notes(
            session_ids, observer, max_age, max_snapshot_age, max_turns_behind, unavailable_ok
        )
        call = _drift.batch_counting_pending(call, self._transport.target)
        return await self._transport.send(call, timeout, self._state_timeout)

    async def get_session(
        self,
        session_id: str,
        *,
        include_turns: bool = False,
        timeout: timedelta | None = None,
    ) -> Session:
        """Read a whole session in one atomic step. Retried until the timeout while the sidecar is unavailable.

            >>> session = await primary.get_session("session-1", include_turns=True)
            >>> session.fields["language"], session.notes["default"].readiness

        Args:
            session_id: The session. Without data, the result is empty and has version 0.
            include_turns: Whether to return the transcript.
            timeout: Timeout of this call. None: the client's `state_timeout`.

        Raises:
            SessionNotesError: If the call fails.
        """
        call = _state_calls.get_session(session_id, include_turns)
        return await self._transport.send(call, timeout, self._state_timeout)

    async def update_session(
        self,
        session_id: str,
        set: Mapping[str, Any] | None = None,
        *,
        remove: Iterable[str] = (),
        expected_version: int | None = None,
        ttl: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> UpdateResult:
        """Set and remove fields atomically, and leave all other fields unchanged. Never retried.

            >>> await primary.update_session("session-1", {"language": "en", "goals": ["May"]}, remove=["draft"])

        Args:
            session_id: The session. Created if it does not exist.
            set: JSON values by field name. At most 256 KiB per field.
            remove: Fields to remove. Absent fields are ignored.
            expected_version: Change nothing unless the session has this version. None: any version.
            ttl: Time from the last change until the session expires. None: unchanged, initially 24 h.
            timeout: Timeout of this call. None: the client's `state_timeout`.

        Raises:
            VersionMismatch: If the session has another version.
            Unavailable: If there is no response in time. Whether the change took effect is unknown.
            SessionNotesError: If the call fails for another reason.
        """
        call = _state_calls.update_session(session_id, set, remove, expected_version, ttl)
        return await self._transport.send(call, timeout, self._state_timeout)

    async def append_turns(
        self,
        session_id: str,
        turns: Iterable[Turn],
        *,
        expected_turn_count: int | None = None,
        append_id: str | None = None,
        timeout: timedelta | None = None,
    ) -> int:
        """Append turns to the transcript and return the new turn count. A retry never appends them twice.

            >>> count = await primary.append_turns("session-1", [Turn("user", "Hello"), Turn("primary", "Hello!")])
            >>> count = await primary.append_turns("session-1", [Turn("user", "Bye")], expected_turn_count=count)

        The call waits for a response, up to its timeout. During a conversation, use a recorder, which does not wait.

        It is retried until the timeout while the sidecar is overloaded, and, if that is safe, while the sidecar is
        unavailable: after an earlier response has shown that this sidecar recognizes repeated appends, or with
        `expected_turn_count`.

        Args:
            session_id: The session. Created if it does not exist.
            turns: The turns, in order.
            expected_turn_count: Append nothing unless the transcript has this length. None: any length.
            append_id: Id of this append, by which a repeated call is recognized: unique within the session, in the
                form of a run id. It is then answered with the first call's turn count, and appends nothing. None: a new
                id. Pass one to repeat the call yourself, for example after a restart of this process. A sidecar of the
                contract's first version ignores it.
            timeout: Timeout of this call. None: the client's `state_timeout`.

        Raises:
            TurnCountMismatch: If the transcript does not have `expected_turn_count` turns.
            TurnsAlreadyAppended: If an earlier call with this `append_id` appended other turns.
            SessionDeleted: If the session was deleted after an earlier call with this `append_id`.
            Unavailable: If there is no response in time. Whether the turns were appended is unknown. With the same
                `append_id`, or with `expected_turn_count`, a retry is safe.
            SessionNotesError: If the call fails for another reason.
        """
        call = _state_calls.append_turns(session_id, turns, expected_turn_count, append_id)
        call.retryable = True
        call.repeatable = self._recognizes_appends or expected_turn_count is not None
        appended = await self._transport.send(call, timeout, self._state_timeout)
        # A sidecar of the contract's first version would append the turns again.
        self._recognizes_appends = appended.duplicate is not None
        return appended.turn_count

    async def delete_session(self, session_id: str, *, timeout: timedelta | None = None) -> bool:
        """Delete every trace of a session, and return whether it existed. Never retried.

        Runs in flight cannot resurrect the session. Its pending turns and runs in recorders and background
        observers of this process are dropped. A turn recorded later creates the session anew.

        Raises:
            SessionNotesError: If the call fails.
        """
        call = _state_calls.delete_session(session_id)
        span = self._state_timeout if timeout is None else timeout
        left = await _pending.settle_async(_pending.forget(self._transport.target, session_id), span)
        return await self._transport.send(call, left, self._state_timeout)

    async def list_sessions(
        self,
        *,
        page_size: int = 0,
        timeout: timedelta | None = None,
    ) -> AsyncIterator[SessionSummary]:
        """Iterate over summaries of all sessions, in no particular order. Meant for debugging and dashboards.

            >>> async for summary in primary.list_sessions():
            ...     print(summary.session_id, summary.turn_count, summary.observers)

        Args:
            page_size: Sessions per page. 0: the sidecar's default.
            timeout: Timeout of each page. None: the client's `state_timeout`.

        Raises:
            SessionNotesError: If a call fails.
        """
        token = ""
        while True:
            call = _state_calls.list_sessions(page_size, token)
            page, token = await self._transport.send(call, timeout, self._state_timeout)
            for item in page:
                yield item
            if not token:
                return
