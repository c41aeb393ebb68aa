"""The data of the table: its rows, and the moment for which they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from session_notes import Reading, Run, RunState, SessionSummary

if TYPE_CHECKING:
    from session_notes.v1.notes_pb2 import Notes

Key = tuple[str, str]
"""A session's id and an observer's name. The name is empty for a session without observers."""


@dataclass(frozen=True, slots=True)
class NotesFigures:
    """The properties of notes that columns show.

    The notes themselves are not stored, since a table may have thousands of rows.

    Attributes:
        size_bytes: The size of the notes as they are served.
    """

    size_bytes: int = 0

    @classmethod
    def of(cls, notes: Notes) -> Self:
        """Return the figures of notes."""
        return cls(size_bytes=notes.ByteSize())


@dataclass(frozen=True)
class Moment:
    """The time for which a table is shown.

    Ages and remaining times are the sidecar's own values plus the time since they arrived. The clock of this
    machine is never compared with a time of the store.

    Attributes:
        now: This machine's monotonic clock, in seconds.
        store: The store's clock, derived from the write time and the age of notes; None until notes have been read.
    """

    now: float
    store: datetime | None

    def since(self, then: float) -> timedelta:
        """Return the time elapsed since a monotonic time."""
        return timedelta(seconds=max(0.0, self.now - then))

    def age_of(self, time: datetime | None) -> timedelta | None:
        """Return the age of a time of the store's clock, or None if it is unknown."""
        return max(timedelta(), self.store - time) if self.store and time else None


@dataclass(slots=True)
class Row:
    """A session and one of its observers.

    Attributes:
        session: The session, as last listed.
        observer: The observer; empty for a session without observers.
        listed_at: The monotonic time of the listing, in seconds.
        reading: Readiness, age and drift, without the notes; None before the first read.
        notes: The figures of the notes.
        read_at: The monotonic time of the reading, in seconds.
        read_version: The session's last change when the reading was made.
        counted_runs: The number of runs in flight; None before they are counted.
        counted_version: The state of the session and its latest run when the runs were counted.
    """

    session: SessionSummary
    observer: str
    listed_at: float
    reading: Reading | None = None
    notes: NotesFigures = NotesFigures()
    read_at: float = 0
    read_version: datetime | None = None
    counted_runs: int | None = None
    counted_version: object = None

    @property
    def key(self) -> Key:
        """The identity of the row."""
        return self.session.session_id, self.observer

    @property
    def latest_run(self) -> Run | None:
        """The latest run; None if the observer has never run, or has not been read yet."""
        return self.reading.latest_run if self.reading else None

    @property
    def readiness(self) -> str:
        """The readiness in the contract's words; empty before the first read."""
        if not self.observer:
            return "never_run"
        return self.reading.readiness.value if self.reading else ""

    @property
    def running_runs(self) -> int | None:
        """The number of runs in flight. Until they are counted, only the latest run is known."""
        if self.latest_run and self.latest_run.state is RunState.RUNNING:
            return max(self.counted_runs or 0, 1)
        return self.counted_runs if self.observer else 0

    @property
    def turns_behind(self) -> int | None:
        """The drift of the notes."""
        return self.reading.turns_behind if self.reading else None

    @property
    def notes_bytes(self) -> int | None:
        """The size of the current notes."""
        return self.notes.size_bytes if self.reading and self.reading.ready else None

    def age(self, moment: Moment) -> timedelta | None:
        """Return the age of the notes."""
        if self.reading is None or self.reading.age is None:
            return None
        return self.reading.age + moment.since(self.read_at)

    def expires_in(self, moment: Moment) -> timedelta | None:
        """Return the time until the session expires."""
        remaining = self.session.expires_in
        return None if remaining is None else max(timedelta(), remaining - moment.since(self.listed_at))
