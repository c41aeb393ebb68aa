"""From the store's records to the contract's messages. Readiness, age, drift and freshness are worked out here."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from session_notes.v1.notes_pb2 import Run, RunState
from session_notes.v1.session_notes_pb2 import GetNotesResponse, Readiness
from session_notes.v1.session_state_pb2 import Session, SessionSummary

from session_notes_server.store import ListedRun, ObserverRecord, RunRecord, SessionRecord, State, SummaryRecord


def reading(
    observer: str,
    record: ObserverRecord,
    *,
    current_turn: int | None = None,
    max_age: timedelta | None = None,
    max_turns_behind: int | None = None,
) -> GetNotesResponse:
    """What GetNotes answers."""
    response = GetNotesResponse(ready=False, fresh=False, readiness=readiness(record))
    if record.latest is not None:
        response.latest_run.CopyFrom(run(observer, record.latest))
    if response.readiness != Readiness.READINESS_READY:
        return response

    current, notes = record.current, record.notes
    assert current is not None and notes is not None and current.end_us is not None  # noqa: S101, PT018 - READY says so
    response.ready = True
    response.notes.ParseFromString(notes)
    response.run.CopyFrom(run(observer, current))
    response.write_time.CopyFrom(timestamp(current.end_us))
    age_us = record.now_us - current.end_us
    response.age.CopyFrom(duration(age_us))
    if current.begin_us is not None:
        response.snapshot_age.CopyFrom(duration(record.now_us - current.begin_us))
    expires_us = min(us for us in (record.notes_expire_us, record.session_expires_us) if us is not None)
    response.expires_in.CopyFrom(duration(expires_us - record.now_us))

    known_turn = current_turn if current_turn is not None else record.turn_count
    if current.observed_turn is not None:
        response.observed_turn = current.observed_turn
        if known_turn is not None:
            response.turns_behind = max(0, known_turn - current.observed_turn)

    recent = max_age is None or age_us <= max_age // timedelta(microseconds=1)
    close = max_turns_behind is None or (
        response.HasField("turns_behind") and response.turns_behind <= max_turns_behind
    )
    response.fresh = recent and close
    return response


def readiness(record: ObserverRecord) -> Readiness.ValueType:
    """Whether there are current notes, and if not, why (DESIGN's first rule)."""
    if record.current is not None and record.notes is not None:
        return Readiness.READINESS_READY
    if record.latest is not None:
        if record.latest.state is State.RUNNING:
            return Readiness.READINESS_RUNNING
        if record.latest.state in {State.FAILED, State.ABANDONED}:
            return Readiness.READINESS_FAILED
    if record.current is not None:
        return Readiness.READINESS_EXPIRED
    return Readiness.READINESS_NEVER_RUN


def run(observer: str, record: RunRecord) -> Run:
    """A run, without its notes."""
    return Run(
        run_id=record.run_id,
        number=record.number,
        observer=observer,
        state=RunState.ValueType(record.state),
        observed_turn=record.observed_turn,
        begin_time=None if record.begin_us is None else timestamp(record.begin_us),
        end_time=None if record.end_us is None else timestamp(record.end_us),
        failure=record.failure,
    )


def listed_run(observer: str, listed: ListedRun) -> Run:
    """A run of the history."""
    message = run(observer, listed.run)
    if listed.notes is not None:
        message.notes.ParseFromString(listed.notes)
    return message


def session(session_id: str, record: SessionRecord, *, include_turns: bool) -> Session:
    """What GetSession answers."""
    message = Session(session_id=session_id, version=record.version, turn_count=record.turn_count)
    if record.created_us is None or record.updated_us is None:
        return message
    message.create_time.CopyFrom(timestamp(record.created_us))
    message.update_time.CopyFrom(timestamp(record.updated_us))
    message.expires_in.CopyFrom(duration(record.expires_us - record.now_us))
    for name, value in record.fields.items():
        message.fields[name].ParseFromString(value)
    for observer, known in record.observers.items():
        message.notes[observer].CopyFrom(reading(observer, known))
    if include_turns:
        for turn in record.turns:
            message.turns.add().ParseFromString(turn)
    return message


def summary(record: SummaryRecord) -> SessionSummary:
    """What ListSessions says of one session."""
    return SessionSummary(
        session_id=record.session_id,
        version=record.version,
        turn_count=record.turn_count,
        update_time=timestamp(record.updated_us),
        expires_in=duration(record.expires_in_ms * 1000),
        observers=record.observers,
    )


def timestamp(us: int) -> Timestamp:
    """A time of the store's clock."""
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)


def duration(us: int) -> Duration:
    """A span by the store's clock: never negative, even if that clock was set back meanwhile."""
    us = max(0, us)
    return Duration(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)
