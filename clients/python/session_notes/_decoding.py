"""Decoding of protobuf messages: the parts from which results are built."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from session_notes._limits import MAX_EXACT_NUMBER
from session_notes._types import Issue, Notes, Severity, Turn
from session_notes.v1 import notes_pb2, turn_pb2

E = TypeVar("E", bound=StrEnum)


def notes(message: notes_pb2.Notes) -> Notes:
    """Return the notes of a message."""
    return Notes(
        coverage=dict(message.coverage),
        issues=tuple(
            Issue(
                text=issue.text,
                severity=enum(Severity, notes_pb2.Severity, "SEVERITY_", issue.severity),
                turn=optional(issue, "turn"),
            )
            for issue in message.issues
        ),
        follow_up_suggestions=tuple(message.follow_up_suggestions),
        summary=message.summary,
        extra=_json_object(message.extra),
    )


def turn(message: turn_pb2.Turn) -> Turn:
    """Return the turn of a message."""
    return Turn(message.speaker, message.text, optional_time(message, "time"), _json_object(message.extra))


def enum(kind: type[E], wire: Any, prefix: str, number: int) -> E:
    """Return the value of an enum. UNSPECIFIED if the sidecar is newer and this client does not know the number."""
    try:
        return kind[wire.Name(number).removeprefix(prefix)]
    except (KeyError, ValueError):
        return kind["UNSPECIFIED"]


def optional(message: Any, field: str) -> int | None:
    """Return an optional field, or None if it is absent."""
    return getattr(message, field) if message.HasField(field) else None


def time(message: Timestamp) -> datetime:
    """Return a time in UTC."""
    return message.ToDatetime(tzinfo=UTC)


def optional_time(message: Any, field: str) -> datetime | None:
    """Return a Timestamp field, or None if it is absent."""
    return time(getattr(message, field)) if message.HasField(field) else None


def optional_span(message: Any, field: str) -> timedelta | None:
    """Return a Duration field, or None if it is absent."""
    return getattr(message, field).ToTimedelta() if message.HasField(field) else None


def json_value(message: Value) -> Any:
    """Return a JSON-like value."""
    match message.WhichOneof("kind"):
        case "struct_value":
            return _json_object(message.struct_value)
        case "list_value":
            return [json_value(item) for item in message.list_value.values]
        case "null_value" | None:
            return None
        case "number_value":
            # All numbers on the wire are doubles. Integers become int again.
            number = message.number_value
            return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_NUMBER else number
        case kind:
            return getattr(message, kind)


def _json_object(message: Struct) -> dict[str, Any]:
    return {name: json_value(item) for name, item in message.fields.items()}
