"""Records of the calls that the processes of a replay made, one JSON line each.

Ages and times of the store are whole microseconds, the store's own precision. `sent` and `received` are the times of
request and response in seconds of the monotonic clock, which all processes on a machine share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from session_notes import ActiveRun, BeginResult, Notes, Reading, Run

WriteKind = Literal["turn", "field", "run", "notes"]
Outcome = Literal["acknowledged", "rejected", "unknown"]

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Write:
    """A write to a session, and its outcome.

    Attributes:
        kind: Appended turns, set fields, a run (begun, or created by WriteNotes), or notes that became current.
        names: The unique names that it wrote, in order.
        outcome: `rejected` if it certainly had no effect; `unknown` if it took effect once or not at all.
        number: The turn count, version or run number in the response, which is that of the last name; 0 unless
            acknowledged.
        observed_turn: The snapshot of a run, if recorded.
    """

    session_id: str
    kind: WriteKind
    names: Sequence[str]
    sent: float
    received: float
    outcome: Outcome
    number: int = 0
    observed_turn: int | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """A read that showed a turn count, a version, or the run number of the current notes (0 if there are none)."""

    session_id: str
    kind: WriteKind
    sent: float
    number: int


@dataclass(frozen=True, slots=True)
class NotesRead:
    """A read of the notes, and its response.

    Attributes:
        current_turn: The turn count that the reader sent.
        max_turns_behind: The bound in the request, if any.
    """

    session_id: str
    current_turn: int
    max_turns_behind: int | None
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
    def of(cls, reading: Reading, *, current_turn: int, sent: float, max_turns_behind: int | None = None) -> NotesRead:
        """Return the record of a reading."""
        run = reading.run
        return cls(
            session_id=reading.session_id,
            current_turn=current_turn,
            max_turns_behind=max_turns_behind,
            sent=sent,
            readiness=reading.readiness.value,
            fresh=reading.fresh,
            age_us=_span_us(reading.age),
            snapshot_age_us=_span_us(reading.snapshot_age),
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
    def has_response(self) -> bool:
        """Whether the sidecar responded."""
        return self.readiness != "unavailable"

    @property
    def ready(self) -> bool:
        """Whether the response has ready notes."""
        return self.readiness == "ready"


@dataclass(frozen=True, slots=True)
class NotesWrite:
    """An acknowledged write of a run's notes; `repeated` if the run had written them before."""

    session_id: str
    run_id: str
    number: int
    observed_turn: int | None
    outcome: str
    write_time_us: int
    sent: float
    received: float
    repeated: bool
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunWithoutNotes:
    """A run that never writes: reported as failed, or abandoned."""

    session_id: str
    run_id: str
    number: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Submit:
    """A session submitted to the background observer, once for each of its turns, in their order."""

    session_id: str
    sent: float


@dataclass(frozen=True, slots=True)
class Window:
    """The turns that a run sees, and the current notes at its snapshot.

    Attributes:
        submitted: Whether it is a run of the background observer, which follows from a submission.
        sent: A time before its BeginRun.
        received: A time after its BeginRun.
        min_interval_us: The brakes' shortest time since the background observer's previous run. None: no brakes, or the
            observer is closing.
        first_turn: The number of the first turn in the response.
        names: The names of the turns.
        seen: How many turns the current notes have seen; None if there are none.
        current_run_id: The run of the current notes.
    """

    session_id: str
    run_id: str
    number: int
    submitted: bool
    sent: float
    received: float
    min_interval_us: int | None
    begin_time_us: int
    observed_turn: int | None
    first_turn: int | None
    names: Sequence[str]
    seen: int | None
    current_run_id: str | None

    @classmethod
    def of(
        cls,
        session_id: str,
        run: Run | ActiveRun,
        begun: BeginResult | ActiveRun,
        *,
        submitted: bool,
        sent: float,
        received: float,
        min_interval_us: int | None = None,
    ) -> Window:
        """Return the record of a run that has begun."""
        current = begun.current if begun.current and begun.current.ready else None
        return cls(
            session_id=session_id,
            run_id=run.run_id,
            number=run.number,
            submitted=submitted,
            sent=sent,
            received=received,
            min_interval_us=min_interval_us,
            begin_time_us=time_us(run.begin_time) if run.begin_time else 0,
            observed_turn=run.observed_turn,
            first_turn=begun.first_turn,
            names=[str(turn.extra.get("name", turn.text)) for turn in begun.transcript],
            seen=current.observed_turn if current else None,
            current_run_id=current.run.run_id if current and current.run else None,
        )


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewed lease, and what the response says about the run."""

    session_id: str
    run_id: str
    number: int
    observed_turn: int
    obsolete: bool
    turns_behind: int | None
    sent: float
    received: float


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repeated append of a turn under the same id; `number` is the turn count in its response."""

    session_id: str
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class FeedText:
    """A new text of the primary's feed of notes; `current_turn` is the number of turns when it was read."""

    session_id: str
    current_turn: int
    max_turns_behind: int
    sent: float
    received: float
    text: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A valid call that the sidecar rejected."""

    session_id: str
    rpc: str
    error: str


@dataclass(frozen=True, slots=True)
class Outage:
    """The sidecar stayed unavailable until a process gave up; `reason` is empty if the sidecar gave none."""

    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Latencies:
    """The durations of a process's calls of one RPC."""

    rpc: str
    milliseconds: list[float]


SessionRecord = (
    Write
    | Sighting
    | NotesRead
    | NotesWrite
    | RunWithoutNotes
    | Submit
    | Window
    | Renewal
    | Repeat
    | FeedText
    | Rejection
)
Record = SessionRecord | Outage | Latencies
_TYPES: Mapping[str, type[Record]] = {kind.__name__: kind for kind in get_args(Record)}


def to_line(record: Record) -> str:
    """Return a record as a JSON line."""
    # Not `asdict`, which would copy the notes first.
    content = {part.name: getattr(record, part.name) for part in fields(record)}
    return json.dumps([type(record).__name__, content]) + "\n"


def from_line(line: str | bytes) -> Record:
    """Return the record of a JSON line made by `to_line`."""
    name, content = json.loads(line)
    return _TYPES[name](**content)


def notes_json(notes: Notes) -> dict[str, Any]:
    """Return notes as JSON; equal notes give equal JSON."""
    return {
        "coverage": dict(notes.coverage),
        "issues": [[issue.text, issue.severity.value, issue.turn] for issue in notes.issues],
        "follow_up_suggestions": list(notes.follow_up_suggestions),
        "summary": notes.summary,
        "extra": dict(notes.extra),
    }


def time_us(time: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def _span_us(span: timedelta | None) -> int | None:
    return None if span is None else span // _MICROSECOND
