"""Between the values of `_types` and the messages on the wire."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

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

# Levels of JSON: more than the 16 the sidecar takes, so that it has the say, but no more than can be sent. Protobuf
# reads at most 100 messages in each other, and a level is up to three.
_DEEPEST = 32


def duration(name: str, span: timedelta | None) -> Duration | None:
    """A span for the wire; `name` is what the caller knows it by."""
    if span is None:
        return None
    if not isinstance(span, timedelta):
        raise TypeError(f"{name} must be a datetime.timedelta, not {type(span).__name__}")
    made = Duration()
    made.FromTimedelta(span)
    return made


def timestamp(name: str, time: datetime | None) -> Timestamp | None:
    """A time for the wire; `name` is what the caller knows it by."""
    if time is None:
        return None
    if time.tzinfo is None:
        # Python takes a naive time for local, protobuf for UTC: whoever guesses is wrong by hours somewhere.
        raise ValueError(f"{name} must have a time zone")
    made = Timestamp()
    made.FromDatetime(time)
    return made


def value(name: str, content: Any, depth: int = 0) -> Value:
    """A JSON-like value for the wire; `name` is what the caller knows the whole by, `depth` how deep in it this is."""
    if depth > _DEEPEST:
        raise ValueError(f"{name} must not be nested deeper than 16")
    match content:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=content)
        case int() | float():
            return Value(number_value=content)
        case str():
            return Value(string_value=content)
        case Mapping():
            return Value(struct_value=struct(name, content, depth))
        case Sequence() if not isinstance(content, bytes | bytearray | memoryview):
            return Value(list_value=ListValue(values=[value(name, item, depth + 1) for item in content]))
    raise TypeError(f"{type(content).__name__} is not a JSON value")


def struct(name: str, content: Mapping[str, Any], depth: int = 0) -> Struct:
    """A JSON-like object for the wire, as `value`."""
    return Struct(fields={key: value(name, item, depth + 1) for key, item in content.items()})


def python_value(content: Value) -> Any:
    """The JSON-like value a caller gets; numbers are floats, as they are on the wire."""
    match content.WhichOneof("kind"):
        case "struct_value":
            return python_dict(content.struct_value)
        case "list_value":
            return [python_value(item) for item in content.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(content, kind)


def python_dict(content: Struct) -> dict[str, Any]:
    """The JSON-like object a caller gets."""
    return {name: python_value(item) for name, item in content.fields.items()}


def notes_message(notes: Notes) -> notes_pb2.Notes:
    """Notes for the wire."""
    if not isinstance(notes, Notes):
        raise TypeError(f"notes must be session_notes.Notes, not {type(notes).__name__}")
    return notes_pb2.Notes(
        coverage=_checked("notes.coverage", notes.coverage, Mapping),
        issues=[_issue_message(issue) for issue in notes.issues],
        follow_up_suggestions=_checked("notes.follow_up_suggestions", notes.follow_up_suggestions, Sequence),
        summary=notes.summary,
        extra=_extra("notes.extra", notes.extra),
    )


def turn_message(turn: Turn) -> turn_pb2.Turn:
    """A turn for the wire."""
    if not isinstance(turn, Turn):
        raise TypeError(f"turns must be session_notes.Turn, not {type(turn).__name__}")
    return turn_pb2.Turn(
        speaker=turn.speaker,
        text=turn.text,
        time=timestamp("turns.time", turn.time),
        extra=_extra("turns.extra", turn.extra),
    )


def notes_from(message: notes_pb2.Notes) -> Notes:
    """Notes as a caller gets them."""
    return Notes(
        coverage=dict(message.coverage),
        issues=tuple(
            Issue(
                text=issue.text,
                severity=enum(Severity, notes_pb2.Severity, "SEVERITY_", issue.severity),
                turn=issue.turn if issue.HasField("turn") else None,
            )
            for issue in message.issues
        ),
        follow_up_suggestions=tuple(message.follow_up_suggestions),
        summary=message.summary,
        extra=python_dict(message.extra),
    )


def turn_from(message: turn_pb2.Turn) -> Turn:
    """A turn as a caller gets it."""
    return Turn(message.speaker, message.text, _time(message, "time"), python_dict(message.extra))


def run_from(message: notes_pb2.Run) -> Run:
    """A run as a caller gets it."""
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


def reading_from(session_id: str, observer: str, message: session_notes_pb2.GetNotesResponse) -> Reading:
    """A reading as a caller gets it."""
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
    """The reading a caller gets where nobody answered and it chose not to hear of it as an error."""
    return Reading(
        session_id,
        observer or _DEFAULT_OBSERVER,
        ready=False,
        readiness=Readiness.UNAVAILABLE,
        unavailable_reason=reason,
    )


def session_from(message: session_state_pb2.Session) -> Session:
    """A session as a caller gets it."""
    return Session(
        session_id=message.session_id,
        fields={name: python_value(content) for name, content in message.fields.items()},
        version=message.version,
        turn_count=message.turn_count,
        turns=tuple(turn_from(turn) for turn in message.turns),
        notes={name: reading_from(message.session_id, name, reading) for name, reading in message.notes.items()},
        create_time=_time(message, "create_time"),
        update_time=_time(message, "update_time"),
        expires_in=_span(message, "expires_in"),
    )


def summary_from(message: session_state_pb2.SessionSummary) -> SessionSummary:
    """A session in a few words, as a caller gets it."""
    return SessionSummary(
        session_id=message.session_id,
        version=message.version,
        turn_count=message.turn_count,
        update_time=_time(message, "update_time"),
        expires_in=_span(message, "expires_in"),
        observers=tuple(message.observers),
    )


def time_from(message: Timestamp) -> datetime:
    """A time as a caller gets it."""
    return message.ToDatetime(tzinfo=UTC)


def enum(kind: type[E], wire: Any, prefix: str, number: int) -> E:
    """A value of an enum as a caller gets it."""
    try:
        return kind[wire.Name(number).removeprefix(prefix)]
    except (KeyError, ValueError):
        # From a sidecar newer than this client.
        return kind["UNSPECIFIED"]


def _issue_message(issue: Issue) -> notes_pb2.Issue:
    severity = notes_pb2.Severity.Value(f"SEVERITY_{Severity(issue.severity).name}")
    return notes_pb2.Issue(text=issue.text, severity=severity, turn=issue.turn)


def _checked(name: str, content: Any, kind: type) -> Any:
    # A str is a sequence of str: one suggestion would go out as one suggestion a letter.
    if isinstance(content, str) or not isinstance(content, kind):
        raise TypeError(f"{name} must be a {kind.__name__.lower()}, not {type(content).__name__}")
    return content


def _extra(name: str, content: Any) -> Struct | None:
    return struct(name, _checked(name, content, Mapping)) if content != {} else None


def _optional(message: Any, field: str) -> int | None:
    return getattr(message, field) if message.HasField(field) else None


def _time(message: Any, field: str) -> datetime | None:
    return time_from(getattr(message, field)) if message.HasField(field) else None


def _span(message: Any, field: str) -> timedelta | None:
    return getattr(message, field).ToTimedelta() if message.HasField(field) else None
