"""What is known of all sessions, and how it is kept up to date at a bounded price.

A refresh costs the sidecar at most `PAGES` ListSessions, `BATCHES` BatchGetNotes and `RUNS` ListRuns, however many
sessions there are. So a listing of many sessions takes several refreshes. What is on the screen is read at every
refresh, the rest when the listing says that it changed, or when it may have changed by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from session_notes import Reading, Run, RunState, SessionSummary

from session_notes_tools.top.reads import Reads

PAGE, PAGES = 200, 5
BATCH, BATCHES = 100, 3
RUNS, RUNS_AT_ONCE = 50, 10
MOST_SESSIONS = 10_000
"""Sessions beyond these are not kept: no one reads so long a table."""

Key = tuple[str, str]
"""A session's id and an observer's name; the name is empty where no observer ever ran."""


@dataclass(slots=True)
class Row:
    """A session and one of its observers.

    Attributes:
        session: The session, as it was listed last.
        observer: The observer; empty: none ever ran on the session.
        listed_at: When it was listed, by this machine's monotonic clock, in seconds.
        reading: Readiness, age and drift, without the notes; None: not read yet.
        read_at: When that was read.
        read_as_of: The session's last change as known then.
        notes_bytes: The size of the notes.
        at_work: How many runs are at work; None: not known yet.
        runs_as_of: What the session was like when its runs were counted.
    """

    session: SessionSummary
    observer: str
    listed_at: float
    reading: Reading | None = None
    read_at: float = 0
    read_as_of: datetime | None = None
    notes_bytes: int = 0
    at_work: int | None = None
    runs_as_of: object = None

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.session.session_id, self.observer

    @property
    def latest_run(self) -> Run | None:
        """The newest run, where there is one."""
        return self.reading.latest_run if self.reading else None


@dataclass(frozen=True)
class Moment:
    """The time as a table knows it. No clock of this machine is set against times of the store.

    Attributes:
        now: This machine's monotonic clock, in seconds.
        store: The store's clock at that time, known from the age of notes and when they were written; None: no notes.
    """

    now: float
    store: datetime | None

    def since(self, then: float) -> timedelta:
        """The time since a moment of the monotonic clock."""
        return timedelta(seconds=max(0.0, self.now - then))

    def age_of(self, time: datetime | None) -> timedelta | None:
        """How long ago a time of the store's clock was; None: nobody can say."""
        return max(timedelta(), self.store - time) if self.store and time else None


class Watch:
    """All rows, as far as they are known. One refresh at a time.

    Args:
        reads: Whom to ask.
        max_age: The oldest notes that count as fresh; None: age does not matter.
        max_turns_behind: How far behind notes may be and count as fresh; None: drift does not matter.

    Attributes:
        rows: What is known.
        complete: Whether all sessions have been listed at least once.
        more: Whether there are more sessions than are kept.
    """

    def __init__(self, reads: Reads, max_age: timedelta | None, max_turns_behind: int | None) -> None:
        self.rows: dict[Key, Row] = {}
        self.complete = False
        self.more = False
        self.max_age = max_age
        self.max_turns_behind = max_turns_behind
        self._reads = reads
        self._token = ""
        self._listed: set[str] = set()
        self._observers: dict[str, tuple[str, ...]] = {}
        self._store: tuple[datetime, float] | None = None

    @property
    def sessions(self) -> int:
        """How many sessions are known."""
        return len(self._observers)

    @property
    def unread(self) -> int:
        """How many rows have not been read yet."""
        return sum(1 for row in self.rows.values() if row.observer and row.reading is None)

    def moment(self, now: float | None = None) -> Moment:
        """The time now, or at `now` by the monotonic clock."""
        now = time.monotonic() if now is None else now
        if self._store is None:
            return Moment(now, None)
        told, at = self._store
        return Moment(now, told + timedelta(seconds=now - at))

    async def refresh(self, visible: Sequence[Key]) -> None:
        """Asks for what has changed, the `visible` rows first.

        Raises:
            SessionNotesError: What was asked last was not answered; what was answered before is kept.
        """
        try:
            await self._list()
        except BaseException:
            self._start_over()
            raise
        shown = [row for key in visible if (row := self.rows.get(key)) and row.observer]
        await self._read(self._wanted(shown)[: BATCH * BATCHES])
        await self._count_runs([row for key in visible if (row := self.rows.get(key)) and self._runs_due(row)][:RUNS])

    async def everything(self) -> None:
        """Asks for all there is, whatever it costs.

        Raises:
            SessionNotesError: Something was not answered.
        """
        while not self.complete:
            await self._list()
        await self._read(self._wanted(()))
        await self._count_runs([row for row in self.rows.values() if self._runs_due(row)])

    async def _list(self) -> None:
        for _ in range(PAGES):
            page, self._token = await self._reads.sessions(PAGE, self._token)
            now = time.monotonic()
            for session in page:
                self._listed.add(session.session_id)
                self._keep(session, now)
            self.more = bool(self._token) and len(self._listed) >= MOST_SESSIONS
            if not self._token or self.more:
                for gone in self._observers.keys() - self._listed:
                    self._forget(gone)
                self.complete = True
                self._start_over()
                return

    def _start_over(self) -> None:
        self._token = ""
        self._listed = set()

    def _keep(self, session: SessionSummary, now: float) -> None:
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

    def _forget(self, session_id: str) -> None:
        for observer in self._observers.pop(session_id, ()):
            del self.rows[session_id, observer]

    def _wanted(self, shown: Iterable[Row]) -> list[Row]:
        """What to read: what is on the screen, then what has waited longest."""
        first = {row.key: row for row in shown}
        now = time.monotonic()
        rest = [row for row in self.rows.values() if row.key not in first and self._due(row, now)]
        return [*first.values(), *sorted(rest, key=lambda row: row.read_at)]

    def _due(self, row: Row, now: float) -> bool:
        reading = row.reading
        if reading is None or row.read_as_of != row.session.update_time:
            return bool(row.observer)
        since = timedelta(seconds=now - row.read_at)
        # What changes although nobody changes the session: a lease runs out, notes expire, notes get old.
        if reading.latest_run is not None and reading.latest_run.state is RunState.RUNNING:
            return True
        if reading.expires_in is not None and since >= reading.expires_in:
            return True
        if self.max_age is None or reading.age is None:
            return False
        return reading.fresh and reading.age + since > self.max_age

    async def _read(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            found = await self._reads.readings([row.key for row in batch], self.max_age, self.max_turns_behind)
            now = time.monotonic()
            for row, (reading, size) in zip(batch, found, strict=True):
                if reading.latest_run is None:
                    # Of an observer that ran, a run is known for as long as the session is there.
                    self._forget(row.session.session_id)
                    continue
                row.reading, row.notes_bytes = reading, size
                row.read_at, row.read_as_of = now, row.session.update_time
                if reading.write_time is not None and reading.age is not None:
                    self._store = reading.write_time + reading.age, now

    @staticmethod
    def _runs_as_of(row: Row) -> object:
        return row.session.update_time, row.latest_run

    def _runs_due(self, row: Row) -> bool:
        return bool(row.observer) and (bool(row.at_work) or row.runs_as_of != self._runs_as_of(row))

    async def _count_runs(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), RUNS_AT_ONCE):
            some = rows[start : start + RUNS_AT_ONCE]
            found = await asyncio.gather(*(self._reads.runs(*row.key) for row in some))
            for row, runs in zip(some, found, strict=True):
                row.at_work = sum(1 for run in runs if run.state is RunState.RUNNING)
                row.runs_as_of = self._runs_as_of(row)
