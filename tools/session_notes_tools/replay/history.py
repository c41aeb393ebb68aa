"""The history of a replay: per session, the records of its processes and the state read back at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from session_notes import Run
from session_notes_server.store.limits import HISTORY_RUNS

from session_notes_tools.replay.plan import PlannedSession
from session_notes_tools.replay.records import (
    Latencies,
    NotesRead,
    NotesWrite,
    Record,
    Rejection,
    RunBegin,
    RunWithoutNotes,
    Sighting,
    Write,
    notes_json,
)


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run as stored at the end; `state` is empty if it was not read."""

    run_id: str
    number: int
    state: str = ""
    observed_turn: int | None = None
    notes: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, run: Run) -> ListedRun:
        """Return the record of a run that ListRuns returned."""
        notes = notes_json(run.notes) if run.notes is not None else None
        return cls(run.run_id, run.number, run.state.value, run.observed_turn, notes)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A session as stored at the end.

    Attributes:
        turns: Speaker, text and extra of each.
        runs: Newest first.
        runs_limit: The number of newest runs that `runs` covers.
    """

    fields: Mapping[str, Any]
    version: int
    turn_count: int
    turns: list[list[Any]]
    runs: list[ListedRun]
    current: NotesRead | None = None
    runs_limit: int = HISTORY_RUNS


@dataclass
class SessionHistory:
    """The history of one session, each list in the order in which its process recorded it.

    Attributes:
        plan: The dialogue that one primary and one observer play; None for arbitrary concurrent writers.
        remains: Comma-separated parts that its deletion left behind; None if it was not deleted.
    """

    session_id: str
    plan: PlannedSession | None = None
    writes: list[Write] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    reads: list[NotesRead] = field(default_factory=list)
    run_begins: list[RunBegin] = field(default_factory=list)
    notes_writes: list[NotesWrite] = field(default_factory=list)
    runs_without_notes: list[RunWithoutNotes] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    read_back: ReadBack | None = None
    remains: str | None = None


class History:
    """The history of a whole replay."""

    def __init__(self, plans: Iterable[PlannedSession]) -> None:
        self.sessions = {plan.session_id: SessionHistory(plan.session_id, plan) for plan in plans}
        self.latencies: dict[str, list[float]] = defaultdict(list)

    @property
    def calls(self) -> int:
        """The number of calls made."""
        return sum(map(len, self.latencies.values()))

    def add(self, record: Record) -> None:
        """Add a record. Records of an outage belong to no session and are ignored."""
        match record:
            case Write():
                self.sessions[record.session_id].writes.append(record)
            case NotesRead():
                self.sessions[record.session_id].reads.append(record)
            case RunBegin():
                self.sessions[record.session_id].run_begins.append(record)
            case NotesWrite():
                self.sessions[record.session_id].notes_writes.append(record)
            case RunWithoutNotes():
                self.sessions[record.session_id].runs_without_notes.append(record)
            case Rejection():
                self.sessions[record.session_id].rejections.append(record)
            case Latencies():
                self.latencies[record.rpc] += record.milliseconds
