"""Conversion of the store's records to the contract's messages, with readiness, age, drift and freshness.

Messages are filled in place, field by field. Building submessages from keyword arguments and copying them takes twice
as long. Messages with stored notes or turns are those of `raw_messages`, whose fields take bytes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from session_notes.v1.notes_pb2 import RunState
from session_notes.v1.session_notes_pb2 import DueSession, Readiness, StaleReason
from session_notes.v1.session_state_pb2 import SessionSummary

from session_notes_server.store import (
    BegunRun,
    DueRecord,
    ListedRun,
    ObserverRecord,
    RunRecord,
    SessionRecord,
    State,
    SummaryRecord,
)

_READY = Readiness.READINESS_READY
_MICROSECOND = timedelta(microseconds=1)


def fill_reading(
    response: Any,
    observer: str,
    record: ObserverRecord,
    *,
    current_turn: int | None = None,
    max_age: timedelta | None = None,
    max_snapshot_age: timedelta | None = None,
    max_turns_behind: int | None = None,
    with_notes: bool = True,
) -> None:
    """Fill a GetNotesResponse.

    The caller's `current_turn` takes precedence over the stored turn count. The bounds are inclusive. Unless
    `with_notes`, the notes are left out, and the caller adds them.
    """
    response.ready = response.fresh = False
    response.readiness = current_readiness = readiness(record)
    if record.latest is not None:
        fill_run(response.latest_run, observer, record.latest)
    if current_readiness != _READY:
        return

    current, notes = record.current, record.notes
    assert current is not None and notes is not None and current.end_us is not None  # noqa: S101, PT018 - READY implies it
    response.ready = True
    if with_notes:
        response.notes = notes
    if current is record.latest:
        response.run.CopyFrom(response.latest_run)
    else:
        fill_run(response.run, observer, current)
    _fill_time(response.write_time, current.end_us)
    now_us = record.now_us
    age_us = now_us - current.end_us
    _fill_span(response.age, age_us)
    snapshot_age_us = None
    if current.begin_us is not None:
        snapshot_age_us = now_us - current.begin_us
        _fill_span(response.snapshot_age, snapshot_age_us)
    _fill_span(response.expires_in, _earlier(record.notes_expire_us, record.session_expires_us) - now_us)

    turn = current_turn if current_turn is not None else record.turn_count
    turns_behind = None
    if current.observed_turn is not None:
        response.observed_turn = current.observed_turn
        if turn is not None:
            response.turns_behind = turns_behind = max(0, turn - current.observed_turn)

    # In the order of the enum.
    reasons: list[StaleReason.ValueType] = []
    if max_age is not None and age_us > max_age // _MICROSECOND:
        reasons.append(StaleReason.STALE_REASON_AGE)
    if max_snapshot_age is not None and (snapshot_age_us or 0) > max_snapshot_age // _MICROSECOND:
        reasons.append(StaleReason.STALE_REASON_SNAPSHOT_AGE)
    if max_turns_behind is not None:
        if turns_behind is None:
            reasons.append(StaleReason.STALE_REASON_TURNS_UNKNOWN)
        elif turns_behind > max_turns_behind:
            reasons.append(StaleReason.STALE_REASON_TURNS_BEHIND)
    if max_snapshot_age is not None and snapshot_age_us is None:
        reasons.append(StaleReason.STALE_REASON_SNAPSHOT_UNKNOWN)
    if reasons:
        response.stale_because.extend(reasons)
    else:
        response.fresh = True


def readiness(record: ObserverRecord) -> Readiness.ValueType:
    """Return the readiness: whether the observer has current notes, and the reason if it has none."""
    if record.current is not None and record.notes is not None:
        return _READY
    if record.latest is not None:
        if record.latest.state is State.RUNNING:
            return Readiness.READINESS_RUNNING
        if record.latest.state in {State.FAILED, State.ABANDONED}:
            return Readiness.READINESS_FAILED
    if record.current is not None or record.runs_lost:
        return Readiness.READINESS_EXPIRED
    return Readiness.READINESS_NEVER_RUN


def fill_begun(message: Any, observer: str, record: BegunRun) -> None:
    """Fill a BeginRunResponse."""
    message.started = record.started
    fill_run(message.run, observer, record.run)
    message.transcript.extend(record.transcript)
    if record.first_turn is not None:
        message.first_turn = record.first_turn
    if record.current is not None:
        fill_reading(message.current, observer, record.current)


def fill_listed_run(message: Any, observer: str, listed: ListedRun) -> None:
    """Fill a Run of the history, with its notes if the record has them."""
    fill_run(message, observer, listed.run)
    if listed.notes is not None:
        message.notes = listed.notes


def fill_session(message: Any, session_id: str, record: SessionRecord, *, include_turns: bool) -> None:
    """Fill a Session."""
    message.session_id, message.version, message.turn_count = session_id, record.version, record.turn_count
    if record.created_us is None or record.updated_us is None:
        return
    _fill_time(message.create_time, record.created_us)
    _fill_time(message.update_time, record.updated_us)
    _fill_span(message.expires_in, record.expires_us - record.now_us)
    for name, value in record.fields.items():
        message.fields[name].ParseFromString(value)
    for observer, observer_record in record.observers.items():
        fill_reading(message.notes[observer], observer, observer_record)
    if include_turns:
        message.turns.extend(record.turns)


def summary(record: SummaryRecord) -> SessionSummary:
    """Convert a record to a SessionSummary."""
    message = SessionSummary(
        session_id=record.session_id,
        version=record.version,
        turn_count=record.turn_count,
        observers=record.observers,
    )
    _fill_time(message.update_time, record.updated_us)
    _fill_span(message.expires_in, record.expires_in_ms * 1000)
    return message


def fill_due(message: DueSession, observer: str, record: DueRecord) -> None:
    """Fill a DueSession."""
    message.session_id, message.turn_count = record.session_id, record.turn_count
    message.turns_behind = record.turns_behind
    _fill_span(message.quiet, record.quiet_us)
    if record.latest is not None:
        fill_run(message.latest_run, observer, record.latest)


def timestamp(us: int) -> Timestamp:
    """Convert a time of the store's clock, in microseconds, to a Timestamp."""
    message = Timestamp()
    _fill_time(message, us)
    return message


def fill_run(message: Any, observer: str, record: RunRecord) -> None:
    """Fill a Run, without its notes."""
    message.run_id = record.run_id
    message.number = record.number
    message.observer = observer
    message.state = RunState.ValueType(record.state)
    if record.observed_turn is not None:
        message.observed_turn = record.observed_turn
    if record.begin_us is not None:
        _fill_time(message.begin_time, record.begin_us)
    if record.end_us is not None:
        _fill_time(message.end_time, record.end_us)
    if record.failure:
        message.failure = record.failure


def _earlier(notes_expire_us: int | None, session_expires_us: int | None) -> int:
    assert session_expires_us is not None  # noqa: S101 - for the type checker: a session with notes expires
    return session_expires_us if notes_expire_us is None else min(notes_expire_us, session_expires_us)


def _fill_time(message: Timestamp, us: int) -> None:
    # Assigning even 0 makes the field present.
    message.seconds, rest_us = divmod(us, 1_000_000)
    message.nanos = rest_us * 1000


def _fill_span(message: Duration, us: int) -> None:
    # Never negative, even if the store's clock was set back.
    message.seconds, rest_us = divmod(us, 1_000_000) if us > 0 else (0, 0)
    message.nanos = rest_us * 1000
