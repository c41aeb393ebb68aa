"""What happened in a replay: records that the programs write as JSON lines, and the history they add up to.

Spans and times of the store are whole microseconds, as exact as the store's own. Moments that a program noted itself
(`sent`, `answered`) are seconds of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from session_notes import Notes, Reading, Run

from session_notes_tools.replay.plan import PlannedSession

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Read:
    """What one read of the notes said.

    Attributes:
        current_turn: How many turns there were, by the reader's count.
        max_turns_behind: The bound it gave; None: none.
        turn_count: What AppendTurns answered just before; None: it was no turn.
        version: What UpdateSession answered just before; None: it was no turn.
    """

    session_id: str
    current_turn: int
    max_turns_behind: int | None
    turn_count: int | None
    version: int | None
    sent: float
    readiness: str
    fresh: bool
    age_us: int | None
    snapshot_age_us: int | None
    write_time_us: int | None
    observed_turn: int | None
    turns_behind: int | None
    run_id: str | None
    number: int | None
    state: str | None
    latest_number: int | None
    notes: Mapping[str, Any] | None

    @classmethod
    def of(
        cls,
        reading: Reading,
        *,
        current_turn: int,
        sent: float,
        max_turns_behind: int | None = None,
        turn_count: int | None = None,
        version: int | None = None,
    ) -> Read:
        """The record of a reading."""
        run = reading.run
        return cls(
            session_id=reading.session_id,
            current_turn=current_turn,
            max_turns_behind=max_turns_behind,
            turn_count=turn_count,
            version=version,
            sent=sent,
            readiness=reading.readiness.value,
            fresh=reading.fresh,
            age_us=span_us(reading.age),
            snapshot_age_us=span_us(reading.snapshot_age),
            write_time_us=time_us(reading.write_time) if reading.write_time else None,
            observed_turn=reading.observed_turn,
            turns_behind=reading.turns_behind,
            run_id=run.run_id if run else None,
            number=run.number if run else None,
            state=run.state.value if run else None,
            latest_number=reading.latest_run.number if reading.latest_run else None,
            notes=notes_json(reading.notes) if reading.notes is not None else None,
        )

    @property
    def answered(self) -> bool:
        """Whether the sidecar answered at all."""
        return self.readiness != "unavailable"

    @property
    def ready(self) -> bool:
        """Whether there were notes."""
        return self.readiness == "ready"


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that the sidecar let begin."""

    session_id: str
    run_id: str
    number: int
    observed_turn: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """Notes that the sidecar answered for; `repeated`: it had done so before for the same run."""

    session_id: str
    run_id: str
    number: int
    observed_turn: int | None
    outcome: str
    write_time_us: int
    sent: float
    answered: float
    repeated: bool
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A run that was never to write: it said that it failed, or went silent."""

    session_id: str
    run_id: str
    number: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that should have been answered and was refused."""

    session_id: str
    rpc: str
    error: str


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """The sidecar could not be reached, and the program gave up; `reason` as the sidecar named it, if it did."""

    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long a program's calls of one RPC took."""

    rpc: str
    milliseconds: list[float]


Record = Read | Begun | Written | Unwritten | Refused | OutOfReach | Latencies
_KINDS: Mapping[str, type[Record]] = {
    kind.__name__: kind for kind in (Read, Begun, Written, Unwritten, Refused, OutOfReach, Latencies)
}


def to_line(record: Record) -> str:
    """A record as a JSON line."""
    # Not `asdict`, which would copy the notes first.
    content = {part.name: getattr(record, part.name) for part in fields(record)}
    return json.dumps([type(record).__name__, content]) + "\n"


def from_line(line: str | bytes) -> Record:
    """What `to_line` made."""
    kind, content = json.loads(line)
    return _KINDS[kind](**content)


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run as ListRuns shows it at the end."""

    run_id: str
    number: int
    state: str
    observed_turn: int | None
    notes: Mapping[str, Any] | None

    @classmethod
    def of(cls, run: Run) -> ListedRun:
        """The record of a run."""
        notes = notes_json(run.notes) if run.notes is not None else None
        return cls(run.run_id, run.number, run.state.value, run.observed_turn, notes)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A session as the sidecar has it when all is over; `runs` newest first."""

    fields: Mapping[str, Any]
    version: int
    turn_count: int
    turns: list[list[Any]]
    current: Read | None
    runs: list[ListedRun]


@dataclass
class SessionHistory:
    """All that happened to one session, each list in the order in which its program saw it.

    Attributes:
        plan: What was to be played.
        left: What was left of it after its deletion, in words; None: it was not deleted.
    """

    plan: PlannedSession
    reads: list[Read] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    unwritten: list[Unwritten] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    read_back: ReadBack | None = None
    left: str | None = None


class History:
    """All that happened in a replay."""

    def __init__(self, plans: Iterable[PlannedSession]) -> None:
        self.sessions = {plan.session_id: SessionHistory(plan) for plan in plans}
        self.latencies: dict[str, list[float]] = defaultdict(list)

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return sum(map(len, self.latencies.values()))

    def add(self, record: Record) -> None:
        """Takes a record in; one that is about no session and no call does not matter here."""
        match record:
            case Read():
                self.sessions[record.session_id].reads.append(record)
            case Begun():
                self.sessions[record.session_id].begun.append(record)
            case Written():
                self.sessions[record.session_id].written.append(record)
            case Unwritten():
                self.sessions[record.session_id].unwritten.append(record)
            case Refused():
                self.sessions[record.session_id].refused.append(record)
            case Latencies():
                self.latencies[record.rpc] += record.milliseconds


def notes_json(notes: Notes) -> dict[str, Any]:
    """Notes as JSON, the same for equal notes."""
    return {
        "coverage": dict(notes.coverage),
        "issues": [[issue.text, issue.severity.value, issue.turn] for issue in notes.issues],
        "follow_up_suggestions": list(notes.follow_up_suggestions),
        "summary": notes.summary,
        "extra": dict(notes.extra),
    }


def span_us(span: timedelta | None) -> int | None:
    """A span in microseconds."""
    return None if span is None else span // _MICROSECOND


def time_us(time: datetime) -> int:
    """A time in microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND
