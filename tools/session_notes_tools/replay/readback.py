"""The end of a replay: asks the sidecar once more for every session, then deletes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from session_notes import AsyncObserverClient, AsyncPrimaryClient

from session_notes_tools.replay.history import ListedRun, Read, ReadBack, SessionHistory
from session_notes_tools.replay.patience import patiently
from session_notes_tools.replay.plan import OBSERVER
from session_notes_tools.replay.programs import Stopwatch

CALL_TIMEOUT = timedelta(seconds=20)
AT_ONCE = 16
"""How many sessions are asked for at a time."""


class EndOfReplay:
    """Asks, and deletes, when nobody works on the sessions any more."""

    def __init__(self, primary: AsyncPrimaryClient, observer: AsyncObserverClient, stopwatch: Stopwatch) -> None:
        self._primary = primary
        self._observer = observer
        self._stopwatch = stopwatch

    async def read_back(self, session: SessionHistory) -> None:
        """What the sidecar has of a session, into its history."""
        session_id, sent = session.plan.session_id, time.monotonic()
        with self._stopwatch.timed("GetSession"):
            found = await self._primary.get_session(session_id, include_turns=True, timeout=CALL_TIMEOUT)
        with self._stopwatch.timed("ListRuns"):
            runs = self._observer.list_runs(session_id, include_notes=True, timeout=CALL_TIMEOUT)
            listed = [ListedRun.of(run) async for run in runs]
        reading = found.notes.get(OBSERVER)
        session.read_back = ReadBack(
            fields=found.fields,
            version=found.version,
            turn_count=found.turn_count,
            turns=[[turn.speaker, turn.text, turn.extra] for turn in found.turns],
            current=Read.of(reading, current_turn=found.turn_count, sent=sent) if reading is not None else None,
            runs=listed,
        )

    async def delete(self, session: SessionHistory) -> None:
        """Deletes a session, and looks whether something of it is left."""
        session_id = session.plan.session_id
        with self._stopwatch.timed("DeleteSession"):
            await patiently(lambda: self._primary.delete_session(session_id, timeout=CALL_TIMEOUT))
        with self._stopwatch.timed("GetSession"):
            found = await self._primary.get_session(session_id, include_turns=True, timeout=CALL_TIMEOUT)
        left = {
            "turns": found.turns or found.turn_count,
            "fields": found.fields or found.version,
            "notes": found.notes,
            "times": found.create_time or found.update_time or found.expires_in,
        }
        session.left = ", ".join(name for name, there in left.items() if there)

    async def forget(self, session: SessionHistory) -> None:
        """Deletes a session and asks nothing."""
        await self._primary.delete_session(session.plan.session_id, timeout=CALL_TIMEOUT)


async def each(
    action: Callable[[SessionHistory], Awaitable[None]], sessions: Iterable[SessionHistory], done: Callable[[], None]
) -> None:
    """Does it for every session, some at a time, and calls `done` after each.

    Raises:
        SessionNotesError: As the action did first.
    """
    waiting = iter(sessions)

    async def some() -> None:
        for session in waiting:
            await action(session)
            done()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
