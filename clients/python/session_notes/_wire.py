"""Between the values of `_types` and the messages on the wire."""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
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

# The largest whole number up to which a double holds every one.
_LARGEST_EXACT = 2**53 - 1

# How much of a key an error shows.
_LONGEST_KEY = 60

_TOO_DEEP = "must not be nested deeper than 16"
_INEXACT = "must not hold numbers beyond 2^53 - 1; send them as strings"

# The longest Duration that protobuf allows, about 10,000 years.
_LONGEST_SPAN = timedelta(seconds=315_576_000_000)


class Unfit(TypeError):
    """An argument that no request can hold, and why: what `_errors.refusal` makes an error of."""

    def __init__(self, argument: str, problem: str, keys: str = "") -> None:
        super().__init__(f"{argument}{keys} {problem}")
        self.argument = argument
        self.problem = problem
        self.keys = keys


def _unfit(argument: str, expected: str, content: object) -> Unfit:
    return Unfit(argument, f"must be {expected}, not {type(content).__name__}")


def text(argument: str, content: Any) -> str:
    """Return text for the wire."""
    if not isinstance(content, str):
        raise _unfit(argument, "a str", content)
    if not content.isascii():
        try:
            content.encode()
        except UnicodeEncodeError:
            raise Unfit(argument, "has half a character in it (a lone surrogate)") from None
    return content


def count(argument: str, content: Any) -> int | None:
    """Return a whole number for the wire; the sidecar bounds it further."""
    if content is None:
        return None
    if isinstance(content, bool | type) or not hasattr(content, "__index__"):
        raise _unfit(argument, "an int", content)
    number = operator.index(content)
    if not -(1 << 63) <= number < 1 << 63:
        raise Unfit(argument, "must be from 0 to 2^53 - 1")
    return number


def page_size(content: Any) -> int:
    """Return a page's size for the wire. The sidecar has its own limit, far below what the wire holds."""
    return min(count("page_size", content) or 0, (1 << 31) - 1)


def flag(argument: str, content: Any) -> bool:
    """Return a bool for the wire."""
    if not isinstance(content, bool):
        raise _unfit(argument, "a bool", content)
    return content


def several(argument: str, kinds: str, content: Any) -> list[Any]:
    """Return the items of an iterable. Texts and mappings can be iterated over too, and are never meant so."""
    if isinstance(content, str | bytes | bytearray | Mapping) or not isinstance(content, Iterable):
        raise _unfit(argument, f"several {kinds}", content)
    return list(content)


def names(argument: str, content: Any) -> list[str]:
    """Return several texts for the wire."""
    return [text(f"{argument}[{index}]", item) for index, item in enumerate(several(argument, "strings", content))]


def duration(argument: str, span: timedelta | None) -> Duration | None:
    """Return a span for the wire, shortened to what the wire can hold: the sidecar says what it takes."""
    if span is None:
        return None
    made = Duration()
    made.FromTimedelta(max(-_LONGEST_SPAN, min(timespan(argument, span), _LONGEST_SPAN)))
    return made


def timespan(argument: str, span: Any) -> timedelta:
    """Return a span as it was given."""
    if not isinstance(span, timedelta):
        raise _unfit(argument, "a datetime.timedelta", span)
    return span


def timestamp(argument: str, time: datetime | None) -> Timestamp | None:
    """Return a time for the wire."""
    if time is None:
        return None
    if not isinstance(time, datetime):
        raise _unfit(argument, "a datetime.datetime", time)
    if time.utcoffset() is None:
        # Python takes a naive time for local, protobuf for UTC: a guess would be wrong by hours for somebody.
        raise Unfit(argument, "must have a time zone")
    made = Timestamp()
    try:
        made.FromDatetime(time)
    except (OverflowError, ValueError):
        raise Unfit(argument, "must be in the years 1 to 9999, in UTC") from None
    return made


def value(argument: str, content: Any, depth: int = 0) -> Value:
    """Return a JSON-like value for the wire; `depth` is how deep in the whole it is."""
    if depth > _DEEPEST:
        raise Unfit(argument, _TOO_DEEP)
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
            return Value(struct_value=struct(argument, content, depth))
        case Sequence() if not isinstance(content, bytes | bytearray | memoryview):
            items = [_item(argument, index, item, depth) for index, item in enumerate(content)]
            return Value(list_value=ListValue(values=items))
    raise _unfit(argument, "JSON: None, bool, int, float, str, a mapping or a sequence", content)


def struct(argument: str, content: Any, depth: int = 0) -> Struct:
    """Return a JSON-like object for the wire, as `value`."""
    return Struct(fields=fields(argument, content, depth))


def fields(argument: str, content: Any, depth: int = -1) -> dict[str, Value]:
    """Return the JSON-like values of a mapping for the wire."""
    if not isinstance(content, Mapping):
        raise _unfit(argument, "a mapping", content)
    return {_key(argument, key): _item(argument, key, item, depth) for key, item in content.items()}


def _key(argument: str, key: Any) -> str:
    if not isinstance(key, str):
        raise Unfit(argument, f"must have keys that are str, not {type(key).__name__}")
    return text(f"a key of {argument}", key)


def _item(argument: str, key: str | int, item: Any, depth: int) -> Value:
    try:
        return value(argument, item, depth + 1)
    except Unfit as error:
        keys = "" if error.problem is _TOO_DEEP else _shown(key) + error.keys
        raise Unfit(error.argument, error.problem, keys) from None


def _shown(key: Any) -> str:
    return f"[{key!r}]" if not isinstance(key, str) or len(key) <= _LONGEST_KEY else f"[{key[:_LONGEST_KEY]!r}…]"


def _number(argument: str, content: float) -> float:
    try:
        number = float(content)
    except OverflowError:
        raise Unfit(argument, _INEXACT) from None
    if not math.isfinite(number):
        raise Unfit(argument, "must not hold NaN or infinity")
    if abs(number) > _LARGEST_EXACT:
        raise Unfit(argument, _INEXACT)
    return number


def python_value(content: Value) -> Any:
    """Return the JSON-like value that a caller gets; a whole number is an int, though the wire has doubles alone."""
    match content.WhichOneof("kind"):
        case "struct_value":
            return python_dict(content.struct_value)
        case "list_value":
            return [python_value(item) for item in content.list_value.values]
        case "null_value" | None:
            return None
        case "number_value":
            number = content.number_value
            return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT else number
        case kind:
            return getattr(content, kind)


def python_dict(content: Struct) -> dict[str, Any]:
    """The JSON-like object a caller gets."""
    return {name: python_value(item) for name, item in content.fields.items()}


def notes_message(notes: Notes) -> notes_pb2.Notes:
    """Return notes for the wire."""
    if not isinstance(notes, Notes):
        raise _unfit("notes", "session_notes.Notes", notes)
    if isinstance(notes.issues, Issue):
        raise Unfit("notes.issues", "must be several Issues, not one: pass [issue]")
    issues = several("notes.issues", "Issues", notes.issues)
    return notes_pb2.Notes(
        coverage=_coverage("notes.coverage", notes.coverage),
        issues=[_issue_message(f"notes.issues[{index}]", issue) for index, issue in enumerate(issues)],
        follow_up_suggestions=names("notes.follow_up_suggestions", notes.follow_up_suggestions),
        summary=text("notes.summary", notes.summary),
        extra=_extra("notes.extra", notes.extra),
    )


def turn_messages(turns: Any) -> list[turn_pb2.Turn]:
    """Return turns for the wire."""
    if isinstance(turns, Turn):
        raise Unfit("turns", "must be several Turns, not one: pass [turn]")
    return [_turn_message(f"turns[{index}]", turn) for index, turn in enumerate(several("turns", "Turns", turns))]


def _turn_message(argument: str, turn: Turn) -> turn_pb2.Turn:
    if not isinstance(turn, Turn):
        raise _unfit("turns", "session_notes.Turn", turn)
    return turn_pb2.Turn(
        speaker=text(f"{argument}.speaker", turn.speaker),
        text=text(f"{argument}.text", turn.text),
        time=timestamp(f"{argument}.time", turn.time),
        extra=_extra(f"{argument}.extra", turn.extra),
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


def _coverage(argument: str, coverage: Any) -> dict[str, float]:
    if not isinstance(coverage, Mapping):
        raise _unfit(argument, "a mapping", coverage)
    shares = {}
    for topic, share in coverage.items():
        try:
            # Besides int and float, what counts itself as a number: NumPy's, Decimal, Fraction.
            number = float(share) if hasattr(share, "__float__") else None
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if number is None:
            raise Unfit(argument, f"must be a number, not {type(share).__name__}", _shown(topic))
        if not 0 <= number <= 1:  # Which NaN is not.
            raise Unfit(argument, "must be from 0 to 1", _shown(topic))
        shares[_key(argument, topic)] = number
    return shares


def _issue_message(argument: str, issue: Issue) -> notes_pb2.Issue:
    if not isinstance(issue, Issue):
        raise _unfit(argument, "a session_notes.Issue", issue)
    try:
        severity = Severity(issue.severity)
    except ValueError:
        expected = ", ".join(one.value for one in Severity if one is not Severity.UNSPECIFIED)
        raise Unfit(f"{argument}.severity", f"must be one of {expected}") from None
    return notes_pb2.Issue(
        text=text(f"{argument}.text", issue.text),
        severity=notes_pb2.Severity.Value(f"SEVERITY_{severity.name}"),
        turn=count(f"{argument}.turn", issue.turn),
    )


def _extra(argument: str, content: Any) -> Struct | None:
    return struct(argument, content) if content != {} else None


def _optional(message: Any, field: str) -> int | None:
    return getattr(message, field) if message.HasField(field) else None


def _time(message: Any, field: str) -> datetime | None:
    return time_from(getattr(message, field)) if message.HasField(field) else None


def _span(message: Any, field: str) -> timedelta | None:
    return getattr(message, field).ToTimedelta() if message.HasField(field) else None
