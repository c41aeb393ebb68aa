"""Encoding of a client's arguments as protobuf messages, with errors that name the invalid part.

The sidecar enforces ranges and sizes. An argument is rejected only if the wire cannot represent it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from session_notes._limits import MAX_EXACT_NUMBER, MAX_JSON_DEPTH
from session_notes._types import Issue, Notes, Severity, Turn
from session_notes.v1 import notes_pb2, turn_pb2

# Deeper than the sidecar's limit, so that the sidecar rejects it, but shallow enough to send. Protobuf parses at most
# 100 nested messages, and a level of JSON takes up to three.
_MAX_ENCODED_DEPTH = 2 * MAX_JSON_DEPTH

# Longer keys are shortened in errors.
_MAX_SHOWN_KEY = 60

_TOO_DEEP = f"must not be nested deeper than {MAX_JSON_DEPTH}"
_INEXACT = "must not contain numbers beyond 2^53 - 1; send them as strings"

# Longest Duration of protobuf, about 10,000 years.
_MAX_DURATION = timedelta(seconds=315_576_000_000)


class Unencodable(TypeError):
    """An argument that the wire cannot represent. `_errors.invalid` returns the public error for it."""

    def __init__(self, argument: str, problem: str, keys: str = "") -> None:
        super().__init__(f"{argument}{keys} {problem}")
        self.argument = argument
        self.problem = problem
        self.keys = keys


def _wrong_type(argument: str, expected: str, content: object) -> Unencodable:
    return Unencodable(argument, f"must be {expected}, not {type(content).__name__}")


def text(argument: str, content: Any) -> str:
    """Return text that UTF-8 can represent."""
    if not isinstance(content, str):
        raise _wrong_type(argument, "a str", content)
    if not content.isascii():
        try:
            content.encode()
        except UnicodeEncodeError:
            raise Unencodable(argument, "must not contain a lone surrogate (half a character)") from None
    return content


def count(argument: str, content: Any) -> int | None:
    """Return an integer of at most 64 bits."""
    if content is None:
        return None
    if isinstance(content, bool | type) or not hasattr(content, "__index__"):
        raise _wrong_type(argument, "an int", content)
    number = operator.index(content)
    if not -(1 << 63) <= number < 1 << 63:
        raise Unencodable(argument, "must be from 0 to 2^53 - 1")
    return number


def int32(argument: str, content: Any) -> int:
    """Return an integer, limited to 32 bits. None becomes 0. The sidecar's own limits are far lower."""
    return max(-(1 << 31), min(count(argument, content) or 0, (1 << 31) - 1))


def flag(argument: str, content: Any) -> bool:
    """Return a bool."""
    if not isinstance(content, bool):
        raise _wrong_type(argument, "a bool", content)
    return content


def _items(argument: str, noun: str, content: Any) -> list[Any]:
    """Return the items of an iterable. A str or a mapping is iterable too, but always a mistake."""
    if isinstance(content, str | bytes | bytearray | Mapping) or not isinstance(content, Iterable):
        raise _wrong_type(argument, f"a list of {noun}", content)
    return list(content)


def texts(argument: str, content: Any) -> list[str]:
    """Return a list of texts."""
    return [text(f"{argument}[{index}]", item) for index, item in enumerate(_items(argument, "strings", content))]


def duration(argument: str, span: timedelta | None) -> Duration | None:
    """Return a Duration, clamped to the longest one that protobuf allows."""
    if span is None:
        return None
    message = Duration()
    message.FromTimedelta(max(-_MAX_DURATION, min(timespan(argument, span), _MAX_DURATION)))
    return message


def timespan(argument: str, span: Any) -> timedelta:
    """Return a timedelta unchanged."""
    if not isinstance(span, timedelta):
        raise _wrong_type(argument, "a datetime.timedelta", span)
    return span


def timestamp(argument: str, time: datetime | None) -> Timestamp | None:
    """Return a Timestamp for a datetime with a time zone."""
    if time is None:
        return None
    if not isinstance(time, datetime):
        raise _wrong_type(argument, "a datetime.datetime", time)
    if time.utcoffset() is None:
        # Python treats a naive time as local, protobuf as UTC. A guess could be wrong by hours.
        raise Unencodable(argument, "must have a time zone")
    message = Timestamp()
    try:
        message.FromDatetime(time)
    except (OverflowError, ValueError):
        raise Unencodable(argument, "must be in the years 1 to 9999, in UTC") from None
    return message


def json_value(argument: str, content: Any, depth: int = 0) -> Value:
    """Return a Value for JSON-like content at this depth of the argument."""
    if depth > _MAX_ENCODED_DEPTH:
        raise Unencodable(argument, _TOO_DEEP)
    match content:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=content)
        case int() | float():
            return Value(number_value=_number(argument, content))
        case str():
            return Value(string_value=text(argument, content))
        case Mapping():
            return Value(struct_value=Struct(fields=json_fields(argument, content, depth)))
        case Sequence() if not isinstance(content, bytes | bytearray | memoryview):
            items = [_json_item(argument, index, item, depth) for index, item in enumerate(content)]
            return Value(list_value=ListValue(values=items))
    raise _wrong_type(argument, "JSON: None, bool, int, float, str, a mapping or a sequence", content)


def json_fields(argument: str, content: Any, depth: int = -1) -> dict[str, Value]:
    """Return the Values of a JSON-like mapping at this depth of the argument."""
    if not isinstance(content, Mapping):
        raise _wrong_type(argument, "a mapping", content)
    return {_key(argument, key): _json_item(argument, key, item, depth) for key, item in content.items()}


def _key(argument: str, key: Any) -> str:
    if not isinstance(key, str):
        raise Unencodable(argument, f"must have keys that are str, not {type(key).__name__}")
    return text(f"a key of {argument}", key)


def _json_item(argument: str, key: str | int, item: Any, depth: int) -> Value:
    try:
        return json_value(argument, item, depth + 1)
    except Unencodable as error:
        keys = "" if error.problem is _TOO_DEEP else _shown(key) + error.keys
        raise Unencodable(error.argument, error.problem, keys) from None


def _shown(key: Any) -> str:
    return f"[{key!r}]" if not isinstance(key, str) or len(key) <= _MAX_SHOWN_KEY else f"[{key[:_MAX_SHOWN_KEY]!r}…]"


def _number(argument: str, content: float) -> float:
    try:
        number = float(content)
    except OverflowError:
        raise Unencodable(argument, _INEXACT) from None
    if not math.isfinite(number):
        raise Unencodable(argument, "must not contain NaN or infinity")
    if abs(number) > MAX_EXACT_NUMBER:
        raise Unencodable(argument, _INEXACT)
    return number


def notes_message(notes: Notes) -> notes_pb2.Notes:
    """Return the message for notes."""
    if not isinstance(notes, Notes):
        raise _wrong_type("notes", "session_notes.Notes", notes)
    if isinstance(notes.issues, Issue):
        raise Unencodable("notes.issues", "must be a list of Issues, not one: pass [issue]")
    issues = _items("notes.issues", "Issues", notes.issues)
    return notes_pb2.Notes(
        coverage=_coverage("notes.coverage", notes.coverage),
        issues=[_issue_message(f"notes.issues[{index}]", issue) for index, issue in enumerate(issues)],
        follow_up_suggestions=texts("notes.follow_up_suggestions", notes.follow_up_suggestions),
        summary=text("notes.summary", notes.summary),
        extra=_extra("notes.extra", notes.extra),
    )


def _coverage(argument: str, coverage: Any) -> dict[str, float]:
    if not isinstance(coverage, Mapping):
        raise _wrong_type(argument, "a mapping", coverage)
    shares = {}
    for topic, share in coverage.items():
        try:
            # Accepts int and float, and any other number type: NumPy's, Decimal, Fraction.
            number = float(share) if hasattr(share, "__float__") else None
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if number is None:
            raise Unencodable(argument, f"must be a number, not {type(share).__name__}", _shown(topic))
        if not 0 <= number <= 1:  # False for NaN.
            raise Unencodable(argument, "must be from 0 to 1", _shown(topic))
        shares[_key(argument, topic)] = number
    return shares


def _issue_message(argument: str, issue: Issue) -> notes_pb2.Issue:
    if not isinstance(issue, Issue):
        raise _wrong_type(argument, "a session_notes.Issue", issue)
    try:
        severity = Severity(issue.severity)
    except ValueError:
        expected = ", ".join(value for value in Severity if value is not Severity.UNSPECIFIED)
        raise Unencodable(f"{argument}.severity", f"must be one of {expected}") from None
    return notes_pb2.Issue(
        text=text(f"{argument}.text", issue.text),
        severity=notes_pb2.Severity.Value(f"SEVERITY_{severity.name}"),
        turn=count(f"{argument}.turn", issue.turn),
    )


def turn_messages(turns: Any) -> list[turn_pb2.Turn]:
    """Return the messages for turns."""
    if isinstance(turns, Turn):
        raise Unencodable("turns", "must be a list of Turns, not one: pass [turn]")
    return [_turn_message(f"turns[{index}]", turn) for index, turn in enumerate(_items("turns", "Turns", turns))]


def _turn_message(argument: str, turn: Turn) -> turn_pb2.Turn:
    if not isinstance(turn, Turn):
        raise _wrong_type("turns", "session_notes.Turn", turn)
    return turn_pb2.Turn(
        speaker=text(f"{argument}.speaker", turn.speaker),
        text=text(f"{argument}.text", turn.text),
        time=timestamp(f"{argument}.time", turn.time),
        extra=_extra(f"{argument}.extra", turn.extra),
    )


def _extra(argument: str, content: Any) -> Struct | None:
    return Struct(fields=json_fields(argument, content, 0)) if content != {} else None
