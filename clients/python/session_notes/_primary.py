"""The primary's side, blocking."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from session_notes import _calls, _pending
from session_notes._credentials import TLS, Token
from session_notes._errors import Unavailable
from session_notes._transport import Transport
from session_notes._types import Reading, Session, SessionSummary, Turn, UpdateResult

DEFAULT_NOTES_TIMEOUT = timedelta(milliseconds=250)
"""How long `get_notes` waits unless told: short, because a user is waiting for the primary meanwhile."""

DEFAULT_STATE_TIMEOUT = timedelta(seconds=2)
"""How long every other call of a primary waits unless told."""


class PrimaryClient:
    """What the process that talks to the user needs: notes, and the session's state. Safe to use from many threads.

        >>> with PrimaryClient() as primary:
        ...     primary.append_turns("session-1", [Turn("user", "Can we start in May?")])
        ...     reading = primary.get_notes("session-1", max_age=timedelta(minutes=1))
        ...     reading.as_tool_result()
        {'ready': False, 'reason': 'never_run'}

    Args:
        target: The sidecar's address: `127.0.0.1:50051`, `unix:/run/session-notes.sock`. None: the environment variable
            `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
        token: What the sidecar knows this caller by, or a function that gives it at every call, such as `TokenFile`.
            None: the environment variable `SESSION_NOTES_TOKEN`, else the file that `SESSION_NOTES_TOKEN_FILE` names.
        tls: How to encrypt the connection. None: with what `SESSION_NOTES_TLS_CA`, `SESSION_NOTES_TLS_CERT` and
            `SESSION_NOTES_TLS_KEY` name, else not at all. Without it a token is sent to this machine only.
        timeout: How long `get_notes` waits for an answer; each call can say otherwise.
        state_timeout: How long every other call waits; each call can say otherwise.
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
        self._transport = Transport(target, token, tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. Calls under way in other threads end as Unavailable, later ones as UsageError."""
        self._transport.close()

    def get_notes(
        self,
        session_id: str,
        *,
        observer: str = "",
        max_age: timedelta | None = None,
        current_turn: int | None = None,
        max_turns_behind: int | None = None,
        timeout: timedelta | None = None,
        unavailable_ok: bool = False,
    ) -> Reading:
        """The current notes of one observer, with their age. One short read that waits for no observer, tried once.

            >>> reading = primary.get_notes("session-1", max_turns_behind=3, unavailable_ok=True)
            >>> advice = reading.notes if reading.fresh else None

        Args:
            session_id: The session to read. One that nobody wrote to is not ready, never an error.
            observer: Whose notes; empty: `default`.
            max_age: The oldest age that still counts as fresh.
            current_turn: How many turns the conversation has; None: as many as are stored, and those that a recorder of
                this process has pending.
            max_turns_behind: How many turns may have come since and the notes still count as fresh.
            timeout: How long to wait for an answer; None: as the client was told.
            unavailable_ok: Whether to get a reading that is not ready and says why where nobody answers.

        Raises:
            Unavailable: Nobody answered in time, unless `unavailable_ok`.
            SessionNotesError: Anything else.
        """
        call = _calls.get_notes(session_id, observer, max_age, current_turn, max_turns_behind)
        drift = _pending.drift(self._transport.target, call.request)
        try:
            reading = self._transport.send(call, timeout, self._timeout)
        except Unavailable as error:
            if not unavailable_ok:
                raise
            return _calls.reading_instead(call, error)
        return drift.corrected(reading) if drift else reading

    def batch_get_notes(
        self,
        session_ids: Iterable[str],
        *,
        observer: str = "",
        max_age: timedelta | None = None,
        max_turns_behind: int | None = None,
        timeout: timedelta | None = None,
        unavailable_ok: bool = False,
    ) -> list[Reading]:
        """`get_notes` for up to 1,000 sessions at once, in their order; waits as long as calls for session state do.

        >>> stale = [r.session_id for r in primary.batch_get_notes(ids, max_turns_behind=5) if not r.fresh]
        """
        call = _calls.batch_get_notes(session_ids, observer, max_age, max_turns_behind)
        drifts = _pending.drifts(self._transport.target, call.request)
        try:
            readings = self._transport.send(call, timeout, self._state_timeout)
        except Unavailable as error:
            if not unavailable_ok:
                raise
            return _calls.readings_instead(call, error)
        return [drift.corrected(one) if drift else one for one, drift in zip(readings, drifts, strict=True)]

    def get_session(self, session_id: str, *, include_turns: bool = False, timeout: timedelta | None = None) -> Session:
        """The whole session in one atomic read; one that nobody wrote to is empty, at version 0.

        >>> session = primary.get_session("session-1", include_turns=True)
        >>> session.fields["language"], session.notes["default"].readiness
        """
        return self._transport.send(_calls.get_session(session_id, include_turns), timeout, self._state_timeout)

    def update_session(
        self,
        session_id: str,
        set: Mapping[str, Any] | None = None,
        *,
        remove: Iterable[str] = (),
        expected_version: int | None = None,
        ttl: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> UpdateResult:
        """Sets and removes fields, atomically, without touching the others. Never tried again by itself.

            >>> primary.update_session("session-1", {"language": "en", "goals": ["start in May"]}, remove=["draft"])

        Args:
            session_id: The session to change; started where there is none.
            set: Field → value, as JSON.
            remove: Fields to remove; those that are not there do not matter.
            expected_version: Change nothing unless the session is at this version.
            ttl: From now on, how long the session is kept after its last change; None: as it was.
            timeout: How long to wait for an answer; None: as the client was told.

        Raises:
            VersionMismatch: The session is at another version.
            Unavailable: Nobody answered in time; whether the change was made is not known.
            SessionNotesError: Anything else.
        """
        call = _calls.update_session(session_id, set, remove, expected_version, ttl)
        return self._transport.send(call, timeout, self._state_timeout)

    def append_turns(
        self,
        session_id: str,
        turns: Iterable[Turn],
        *,
        expected_turn_count: int | None = None,
        timeout: timedelta | None = None,
    ) -> int:
        """Append to the transcript and return the new turn count. Never tried again by itself.

        It waits for an answer, or for its whole timeout. In a conversation use a `TurnRecorder`, which does not.

            >>> count = primary.append_turns("session-1", [Turn("user", "Hello"), Turn("primary", "Hello!")])
            >>> count = primary.append_turns("session-1", [Turn("user", "Bye")], expected_turn_count=count)

        Raises:
            TurnCountMismatch: The transcript has not `expected_turn_count` turns.
            Unavailable: Nobody answered in time; whether they were appended is not known. With `expected_turn_count`,
                doing it again is safe.
            SessionNotesError: Anything else.
        """
        call = _calls.append_turns(session_id, turns, expected_turn_count)
        return self._transport.send(call, timeout, self._state_timeout)

    def delete_session(self, session_id: str, *, timeout: timedelta | None = None) -> bool:
        """Remove every trace of the session; return whether it existed.

        Neither an observer's run in flight nor a recorder of this process brings the session back: turns and runs that
        are pending for it are dropped. A turn that is recorded afterwards starts the session anew.
        """
        call = _calls.delete_session(session_id)
        span = self._state_timeout if timeout is None else timeout
        left = _pending.settle(_pending.forget(self._transport.target, session_id), span)
        return self._transport.send(call, left, self._state_timeout)

    def list_sessions(self, *, page_size: int = 0, timeout: timedelta | None = None) -> Iterator[SessionSummary]:
        """Summaries of all sessions, in no order, fetched page by page; `timeout` is for each. For people.

        >>> for summary in primary.list_sessions():
        ...     print(summary.session_id, summary.turn_count, summary.observers)
        """
        token = ""
        while True:
            page, token = self._transport.send(_calls.list_sessions(page_size, token), timeout, self._state_timeout)
            yield from page
            if not token:
                return
