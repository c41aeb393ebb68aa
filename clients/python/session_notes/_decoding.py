"""Decoding: from protobuf messages to the results of a client."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from session_notes._limits import MAX_EXACT_NUMBER
from session_notes._types import (
    Issue,
    Notes,
    Readiness,
    Reading,
    Run,
    RunState,
    Session,
    SessionSummary,
    Severity,
    Turn,
)
from session_notes.v1 import notes_pb2, session_notes_pb2, session_state_pb2, turn_pb2

E = TypeVar("E", bound=StrEnum)

_DEFAULT_OBSERVER = "default"


def reading_from(session_id: str, observer: str, message: session_notes_pb2.GetNotesResponse) -> Reading:
    """Return the reading of a GetNotes response."""
    return Reading(
        session_id=session_id,
        observer=observer or _DEFAULT_OBSERVER,
        ready=message.ready,
        readiness=enum(Readiness, session_notes_pb2.Readiness, "READINESS_", message.readiness),
        notes=notes_from(message.notes) if message.HasField("notes") else None,
        age=_span(message, "age"),
        snapshot_age=_span(message, "snapshot_age"),
        write_time=_time(message, "write_time"),
        observed_turn=_optional(message, "observed_turn"),
        turns_behind=_optional(message, "turns_behind"),
        fresh=message.fresh,
        run=run_from(message.run) if message.HasField("run") else None,
        latest_run=run_from(message.latest_run) if message.HasField("latest_run") else None,
        expires_in=_span(message, "expires_in"),
    )


def unavailable_reading(session_id: str, observer: str, reason: str) -> Reading:
    """Return the reading for a call without a response, for callers that set `unavailable_ok`."""
    return Reading(
        session_id,
        observer or _DEFAULT_OBSERVER,
        ready=False,
        readiness=Readiness.UNAVAILABLE,
        unavailable_reason=reason,
    )


def notes_from(message: notes_pb2.Notes) -> Notes:
    """Return the notes of a message."""
    return Notes(
        coverage=dict(message.coverage),
        issues=tuple(
            Issue(
                text=issue.text,
                severity=enum(Severity, notes_pb2.Severity, "SEVERITY_", issue.severity),
                turn=_optional(issue, "turn"),
            )
            for issue in message.issues
        ),
        follow_up_suggestions=tuple(message.follow_up_suggestions),
        summary=message.summary,
        extra=_python_dict(message.extra),
    )


def turn_from(message: turn_pb2.Turn) -> Turn:
    """Return the turn of a message."""
    return Turn(message.speaker, message.text, _time(message, "time"), _python_dict(message.extra))


def run_from(message: notes_pb2.Run) -> Run:
    """Return the run of a message."""
    return Run(
        run_id=message.run_id,
        number=message.number,
        observer=message.observer,
        state=enum(RunState, notes_pb2.RunState, "RUN_STATE_", message.state),
        observed_turn=_optional(message, "observed_turn"),
        begin_time=_time(message, "begin_time"),
        end_time=_time(message, "end_time"),
        failure=message.failure,
        notes=notes_from(message.notes) if message.HasField("notes") else None,
    )


def session_from(message: session_state_pb2.Session) -> Session:
    """Return the session of a message."""
    return Session(
        session_id=message.session_id,
        fields={name: _python_value(content) for name, content in message.fields.items()},
        version=message.version,
        turn_count=message.turn_count,
        turns=tuple(turn_from(turn) for turn in message.turns),
        notes={name: reading_from(message.session_id, name, reading) for name, reading in message.notes.items()},
        create_time=_time(message, "create_time"),
        update_time=_time(message, "update_time"),
        expires_in=_span(message, "expires_in"),
    )


def summary_from(message: session_state_pb2.SessionSummary) -> SessionSummary:
    """Return the session summary of a message."""
    return SessionSummary(
        session_id=message.session_id,
        version=message.version,
        turn_count=message.turn_count,
        update_time=_time(message, "update_time"),
        expires_in=_span(message, "expires_in"),
        observers=tuple(message.observers),
    )


def time_from(message: Timestamp) -> datetime:
    """Return the time of a message, in UTC."""
    return message.ToDatetime(tzinfo=UTC)


def enum(kind: type[E], wire: Any, prefix: str, number: int) -> E:
    """Return the value of an enum. UNSPECIFIED if the sidecar is newer and this client does not know the number."""
    try:
        return kind[wire.Name(number).removeprefix(prefix)]
    except (KeyError, ValueError):
        return kind["UNSPECIFIED"]


def _python_value(content: Value) -> Any:
    match content.WhichOneof("kind"):
        case "struct_value":
            return _python_dict(content.struct_value)
        case "list_value":
            return [_python_value(item) for item in content.list_value.values]
        case "null_value" | None:
            return None
        case "number_value":
            # An integer becomes an int again, although the wire has doubles only.
            number = content.number_value
            return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_NUMBER else number
        case kind:
            return getattr(content, kind)


def _python_dict(content: Struct) -> dict[str, Any]:
    return {name: _python_value(item) for name, item in content.fields.items()}


def _optional(message: Any, field: str) -> int | None:
    return getattr(message, field) if message.HasField(field) else None


def _time(message: Any, field: str) -> datetime | None:
    return time_from(getattr(message, field)) if message.HasField(field) else None


def _span(message: Any, field: str) -> timedelta | None:
    return getattr(message, field).ToTimedelta() if message.HasField(field) else None
