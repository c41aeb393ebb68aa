"""The local copy of all sessions, refreshed at a bounded cost.

A refresh makes at most `PAGES` ListSessions, `BATCHES` BatchGetNotes and `RUNS` ListRuns calls for any number of
sessions. Listing many sessions therefore takes several refreshes. Rows on the screen are read in every refresh. Other
rows are read when the listing shows a change, or when they may have changed without a write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from session_notes import RunState, SessionSummary

from session_notes_tools.top.client import TopClient
from session_notes_tools.top.model import Key, Moment, Row

PAGE_SIZE, PAGES = 200, 5
BATCH_SIZE, BATCHES = 100, 3
RUNS, CONCURRENT_RUNS = 50, 10
MAX_SESSIONS = 10_000
"""The maximum number of sessions in the cache. A longer table would be of no use to a reader."""


class SessionCache:
    """The rows of all sessions. Only one refresh may run at a time.

    Args:
        client: The client to read with.
        max_age: The age up to which notes count as fresh; None: no bound.
        max_turns_behind: The drift up to which notes count as fresh; None: no bound.

    Attributes:
        rows: The rows by key.
        complete: Whether all sessions have been listed at least once.
        truncated: Whether the sidecar has more sessions than the cache may contain.
    """

    def __init__(self, client: TopClient, max_age: timedelta | None, max_turns_behind: int | None) -> None:
        self.rows: dict[Key, Row] = {}
        self.complete = False
        self.truncated = False
        self._client = client
        self._max_age = max_age
        self._max_turns_behind = max_turns_behind
        self._page_token = ""
        self._listed_ids: set[str] = set()
        self._observers: dict[str, tuple[str, ...]] = {}
        self._store_clock: tuple[datetime, float] | None = None

    @property
    def session_count(self) -> int:
        """The number of sessions in the cache."""
        return len(self._observers)

    @property
    def unread_count(self) -> int:
        """The number of rows that have not been read yet."""
        return sum(1 for row in self.rows.values() if row.observer and row.reading is None)

    def moment(self, now: float | None = None) -> Moment:
        """Return the moment at a monotonic time; by default the current one."""
        now = time.monotonic() if now is None else now
        if self._store_clock is None:
            return Moment(now, None)
        store_time, read_at = self._store_clock
        return Moment(now, store_time + timedelta(seconds=now - read_at))

    async def refresh(self, visible: Sequence[Key]) -> None:
        """Read changes, visible rows first, within the bounds of one refresh.

        Raises:
            SessionNotesError: If a call fails. The results of earlier calls are kept.
        """
        try:
            await self._list_sessions()
        except BaseException:
            self._restart_listing()
            raise
        shown = [row for key in visible if (row := self.rows.get(key)) and row.observer]
        await self._read_notes(self._rows_to_read(shown)[: BATCH_SIZE * BATCHES])
        shown = [row for key in visible if (row := self.rows.get(key)) and self._needs_count(row)]
        await self._count_runs(shown[:RUNS])

    async def read_all(self) -> None:
        """Read up to `MAX_SESSIONS` sessions, with as many calls as that takes.

        Raises:
            SessionNotesError: If a call fails.
        """
        while not self.complete:
            await self._list_sessions()
        await self._read_notes(self._rows_to_read(()))
        await self._count_runs([row for row in self.rows.values() if self._needs_count(row)])

    async def _list_sessions(self) -> None:
        for _ in range(PAGES):
            page, self._page_token = await self._client.list_sessions(PAGE_SIZE, self._page_token)
            now = time.monotonic()
            for session in page:
                self._listed_ids.add(session.session_id)
                self._update(session, now)
            self.truncated = bool(self._page_token) and len(self._listed_ids) >= MAX_SESSIONS
            if not self._page_token or self.truncated:
                for session_id in self._observers.keys() - self._listed_ids:
                    self._remove(session_id)
                self.complete = True
                self._restart_listing()
                return

    def _restart_listing(self) -> None:
        self._page_token = ""
        self._listed_ids = set()

    def _update(self, session: SessionSummary, now: float) -> None:
        observers = session.observers or ("",)
        for observer in self._observers.get(session.session_id, ()):
            if observer not in observers:
                del self.rows[session.session_id, observer]
        self._observers[session.session_id] = observers
        for observer in observers:
            key = session.session_id, observer
            if row := self.rows.get(key):
                row.session, row.listed_at = session, now
            else:
                self.rows[key] = Row(session, observer, now)

    def _remove(self, session_id: str) -> None:
        for observer in self._observers.pop(session_id, ()):
            del self.rows[session_id, observer]

    def _rows_to_read(self, shown: Iterable[Row]) -> list[Row]:
        """Return the shown rows, then other rows that must be read, least recently read first."""
        visible = {row.key: row for row in shown}
        now = time.monotonic()
        others = [row for row in self.rows.values() if row.key not in visible and self._needs_read(row, now)]
        return [*visible.values(), *sorted(others, key=lambda row: row.read_at)]

    def _needs_read(self, row: Row, now: float) -> bool:
        reading = row.reading
        if reading is None or row.read_version != row.session.update_time:
            return bool(row.observer)
        elapsed = timedelta(seconds=now - row.read_at)
        # Changes without a write: a lease or the notes expire, or the notes become too old.
        if reading.latest_run is not None and reading.latest_run.state is RunState.RUNNING:
            return True
        if reading.expires_in is not None and elapsed >= reading.expires_in:
            return True
        if self._max_age is None or reading.age is None:
            return False
        return reading.fresh and reading.age + elapsed > self._max_age

    async def _read_notes(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), BATCH_SIZE):
            batch = rows[start : start + BATCH_SIZE]
            results = await self._client.get_notes([row.key for row in batch], self._max_age, self._max_turns_behind)
            now = time.monotonic()
            for row, (reading, figures) in zip(batch, results, strict=True):
                if reading.latest_run is None:
                    # A listed observer has a run as long as its session exists, so the session no longer exists.
                    self._remove(row.session.session_id)
                    continue
                row.reading, row.notes = reading, figures
                row.read_at, row.read_version = now, row.session.update_time
                if reading.write_time is not None and reading.age is not None:
                    self._store_clock = reading.write_time + reading.age, now

    @staticmethod
    def _version(row: Row) -> object:
        return row.session.update_time, row.latest_run

    def _needs_count(self, row: Row) -> bool:
        return bool(row.observer) and (bool(row.counted_runs) or row.counted_version != self._version(row))

    async def _count_runs(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), CONCURRENT_RUNS):
            chunk = rows[start : start + CONCURRENT_RUNS]
            results = await asyncio.gather(*(self._client.list_runs(*row.key) for row in chunk))
            for row, runs in zip(chunk, results, strict=True):
                row.counted_runs = sum(1 for run in runs if run.state is RunState.RUNNING)
                row.counted_version = self._version(row)
