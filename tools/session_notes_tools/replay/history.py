"""The history of a replay: the records of its processes, and each session as read back at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from session_notes import Run
from session_notes_server.store.limits import HISTORY_RUNS

from session_notes_tools.replay.plan import PlannedSession
from session_notes_tools.replay.records import Latencies, NotesRead, Outage, Record, SessionRecord, Write, notes_json

R = TypeVar("R", bound=SessionRecord)


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
    """The history of one session.

    Attributes:
        plan: The dialogue that one primary and one observer play; None for arbitrary concurrent writers.
        records: The records of all processes, in order for each process.
        remains: The parts that its deletion left behind, separated by commas; None if it was not deleted.
    """

    session_id: str
    plan: PlannedSession | None = None
    records: list[SessionRecord] = field(default_factory=list)
    read_back: ReadBack | None = None
    remains: str | None = None

    def of(self, kind: type[R]) -> list[R]:
        """Return the records of a type."""
        return [record for record in self.records if isinstance(record, kind)]

    def runs(self) -> list[Write]:
        """Return the runs that the sidecar acknowledged."""
        return [write for write in self.of(Write) if write.kind == "run" and write.outcome == "acknowledged"]


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
        """Add a record. An outage belongs to no session and is ignored."""
        if isinstance(record, Latencies):
            self.latencies[record.rpc] += record.milliseconds
        elif not isinstance(record, Outage):
            self.sessions[record.session_id].records.append(record)
