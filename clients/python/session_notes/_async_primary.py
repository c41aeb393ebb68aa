"""The primary's side, for asyncio."""
# ruff: noqa: ASYNC109 - the deadline travels with the call; asyncio.timeout would not tell the sidecar.

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from session_notes import _calls, _pending
from session_notes._credentials import TLS, Token
from session_notes._errors import Unavailable
from session_notes._primary import DEFAULT_NOTES_TIMEOUT, DEFAULT_STATE_TIMEOUT
from session_notes._transport import AsyncTransport
from session_notes._types import Reading, Session, SessionSummary, Turn, UpdateResult


class AsyncPrimaryClient:
    """`PrimaryClient` for asyncio. Opened by `async with`, and then only for the loop it was opened in.

        >>> async with AsyncPrimaryClient() as primary:
        ...     reading = await primary.get_notes("session-1", max_age=timedelta(minutes=1))

    Arguments, answers and errors are those of `PrimaryClient`.
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
        self._transport = AsyncTransport(target, token, tls)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection. Calls under way in other tasks end as Unavailable, later ones as UsageError."""
        await self._transport.close()

    async def get_notes(
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
        """The current notes of one observer, with their age: as `PrimaryClient.get_notes`."""
        call = _calls.get_notes(session_id, observer, max_age, current_turn, max_turns_behind)
        drift = _pending.drift(self._transport.target, call.request)
        try:
            reading = await self._transport.send(call, timeout, self._timeout)
        except Unavailable as error:
            if not unavailable_ok:
                raise
            return _calls.reading_instead(call, error)
        return drift.corrected(reading) if drift else reading

    async def batch_get_notes(
        self,
        session_ids: Iterable[str],
        *,
        observer: str = "",
        max_age: timedelta | None = None,
        max_turns_behind: int | None = None,
        timeout: timedelta | None = None,
        unavailable_ok: bool = False,
    ) -> list[Reading]:
        """`get_notes` for many sessions at once: as `PrimaryClient.batch_get_notes`."""
        call = _calls.batch_get_notes(session_ids, observer, max_age, max_turns_behind)
        drifts = _pending.drifts(self._transport.target, call.request)
        try:
            readings = await self._transport.send(call, timeout, self._state_timeout)
        except Unavailable as error:
            if not unavailable_ok:
                raise
            return _calls.readings_instead(call, error)
        return [drift.corrected(one) if drift else one for one, drift in zip(readings, drifts, strict=True)]

    async def get_session(
        self, session_id: str, *, include_turns: bool = False, timeout: timedelta | None = None
    ) -> Session:
        """The whole session in one atomic read: as `PrimaryClient.get_session`."""
        call = _calls.get_session(session_id, include_turns)
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
        """Sets and removes fields, atomically: as `PrimaryClient.update_session`."""
        call = _calls.update_session(session_id, set, remove, expected_version, ttl)
        return await self._transport.send(call, timeout, self._state_timeout)

    async def append_turns(
        self,
        session_id: str,
        turns: Iterable[Turn],
        *,
        expected_turn_count: int | None = None,
        timeout: timedelta | None = None,
    ) -> int:
        """Appends to the transcript; how many turns it has now: as `PrimaryClient.append_turns`."""
        call = _calls.append_turns(session_id, turns, expected_turn_count)
        return await self._transport.send(call, timeout, self._state_timeout)

    async def delete_session(self, session_id: str, *, timeout: timedelta | None = None) -> bool:
        """Remove every trace of the session; return whether it existed: as `PrimaryClient.delete_session`."""
        call = _calls.delete_session(session_id)
        span = self._state_timeout if timeout is None else timeout
        left = await _pending.settle_async(_pending.forget(self._transport.target, session_id), span)
        return await self._transport.send(call, left, self._state_timeout)

    async def list_sessions(
        self, *, page_size: int = 0, timeout: timedelta | None = None
    ) -> AsyncIterator[SessionSummary]:
        """Summaries of all sessions, in no order: as `PrimaryClient.list_sessions`.

        >>> async for summary in primary.list_sessions():
        ...     print(summary.session_id, summary.turn_count, summary.observers)
        """
        token = ""
        while True:
            page, token = await self._transport.send(
                _calls.list_sessions(page_size, token), timeout, self._state_timeout
            )
            for summary in page:
                yield summary
            if not token:
                return
