"""The audit at the end of a replay, which reads every session back and then deletes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from session_notes import AsyncObserverClient, AsyncPrimaryClient

from session_notes_tools.replay.history import ListedRun, ReadBack, SessionHistory
from session_notes_tools.replay.pipes import Stopwatch
from session_notes_tools.replay.plan import OBSERVER
from session_notes_tools.replay.records import NotesRead
from session_notes_tools.replay.retry import retry_over_outage

CALL_TIMEOUT = timedelta(seconds=20)
CONCURRENCY = 16


class Audit:
    """Reads sessions back and deletes them after the processes of the replay have ended."""

    def __init__(self, primary: AsyncPrimaryClient, observer: AsyncObserverClient, stopwatch: Stopwatch) -> None:
        self._primary = primary
        self._observer = observer
        self._stopwatch = stopwatch

    async def read_back(self, session: SessionHistory) -> None:
        """Read a session into its history."""
        session_id, sent = session.session_id, time.monotonic()
        with self._stopwatch.timed("GetSession"):
            stored = await self._primary.get_session(session_id, include_turns=True, timeout=CALL_TIMEOUT)
        with self._stopwatch.timed("ListRuns"):
            runs = self._observer.list_runs(session_id, include_notes=True, timeout=CALL_TIMEOUT)
            listed = [ListedRun.of(run) async for run in runs]
        reading = stored.notes.get(OBSERVER)
        session.read_back = ReadBack(
            fields=stored.fields,
            version=stored.version,
            turn_count=stored.turn_count,
            turns=[[turn.speaker, turn.text, turn.extra] for turn in stored.turns],
            runs=listed,
            current=NotesRead.of(reading, current_turn=stored.turn_count, sent=sent) if reading is not None else None,
        )

    async def delete(self, session: SessionHistory) -> None:
        """Delete a session, and record the parts of it that remain."""
        session_id = session.session_id
        with self._stopwatch.timed("DeleteSession"):
            await retry_over_outage(lambda: self._primary.delete_session(session_id, timeout=CALL_TIMEOUT))
        with self._stopwatch.timed("GetSession"):
            stored = await self._primary.get_session(session_id, include_turns=True, timeout=CALL_TIMEOUT)
        parts = {
            "turns": stored.turns or stored.turn_count,
            "fields": stored.fields or stored.version,
            "notes": stored.notes,
            "times": stored.create_time or stored.update_time or stored.expires_in,
        }
        session.remains = ", ".join(name for name, part in parts.items() if part)

    async def discard(self, session: SessionHistory) -> None:
        """Delete a session without a check."""
        await self._primary.delete_session(session.session_id, timeout=CALL_TIMEOUT)


async def for_each(
    action: Callable[[SessionHistory], Awaitable[None]], sessions: Iterable[SessionHistory], advance: Callable[[], None]
) -> None:
    """Apply an action to every session, several at a time, and call `advance` after each.

    Raises:
        SessionNotesError: If an action fails; the first such error.
    """
    pending = iter(sessions)

    async def work() -> None:
        for session in pending:
            await action(session)
            advance()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
