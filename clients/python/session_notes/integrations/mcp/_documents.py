"""JSON documents for models and their hosts: types, which also define the schemas, and conversions.

As in `Reading.as_tool_result`, empty and unknown values are omitted.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict  # before Python 3.12, pydantic rejects typing.TypedDict

from session_notes import Reading, Run, Session, SessionSummary, Severity, Turn
from session_notes._types import notes_as_dict

Document: TypeAlias = dict[str, Any]
"""A document of one of the types below."""

Time = Annotated[str, Field(description="A time by the store's clock, as RFC 3339 in UTC.")]


class IssueDocument(TypedDict):
    """A problem that an observer found."""

    text: str
    severity: NotRequired[Annotated[str, Field(description="info, warning or critical")]]
    turn: NotRequired[Annotated[int, Field(description="The number of the affected turn, counted from 1.")]]


class NotesDocument(TypedDict):
    """An observer's conclusions."""

    coverage: NotRequired[Annotated[dict[str, float], Field(description="Share of each topic covered, 0 to 1.")]]
    issues: NotRequired[list[IssueDocument]]
    follow_up_suggestions: NotRequired[list[str]]
    summary: NotRequired[str]
    extra: NotRequired[dict[str, Any]]


class ReadingDocument(TypedDict):
    """An observer's current notes, with their age and drift."""

    ready: Annotated[bool, Field(description="Whether there are notes.")]
    reason: NotRequired[
        Annotated[str, Field(description="Why there are no notes: never_run, running, failed, expired or unavailable.")]
    ]
    age_seconds: NotRequired[Annotated[float, Field(description="Time since the notes were written.")]]
    snapshot_age_seconds: NotRequired[
        Annotated[float, Field(description="Time since the observer took its copy of the conversation.")]
    ]
    turns_behind: NotRequired[Annotated[int, Field(description="Turns since that copy.")]]
    fresh: NotRequired[Annotated[bool, Field(description="Whether the notes are within the requested bounds.")]]
    stale_because: NotRequired[
        Annotated[
            list[str],
            Field(
                description="Why `fresh` is false: age, snapshot_age, turns_behind, turns_unknown or snapshot_unknown."
            ),
        ]
    ]
    newer_run: NotRequired[Annotated[str, Field(description="The state of a newer analysis.")]]
    notes: NotRequired[NotesDocument]


class SessionReadingDocument(ReadingDocument):
    """An observer's current notes on one of several sessions."""

    session_id: str


class ReadingsDocument(TypedDict):
    """Current notes on several sessions, in request order."""

    readings: list[SessionReadingDocument]


class TurnDocument(TypedDict):
    """An utterance."""

    speaker: str
    text: str
    time: NotRequired[Annotated[str, Field(description="The time of the utterance by the speaker's clock.")]]
    extra: NotRequired[dict[str, Any]]


class SessionDocument(TypedDict):
    """A session at one moment."""

    session_id: str
    fields: Annotated[dict[str, Any], Field(description="The application's own data on the conversation.")]
    version: Annotated[int, Field(description="The number of times that the fields were updated.")]
    turn_count: Annotated[int, Field(description="The number of turns ever appended.")]
    turns: NotRequired[Annotated[list[TurnDocument], Field(description="The last turns, oldest first.")]]
    notes: Annotated[dict[str, ReadingDocument], Field(description="The current notes of each observer.")]
    create_time: Time
    update_time: Time
    expires_in_seconds: NotRequired[float]


class RunDocument(TypedDict):
    """An observer's analysis of the conversation."""

    number: Annotated[int, Field(description="Newer runs have higher numbers.")]
    run_id: str
    observer: str
    state: Annotated[str, Field(description="running, written, superseded, failed or abandoned")]
    observed_turn: NotRequired[Annotated[int, Field(description="The number of turns that the run has seen.")]]
    begin_time: NotRequired[Time]
    end_time: NotRequired[Time]
    failure: NotRequired[Annotated[str, Field(description="Why the run failed, for the observer's operators.")]]
    notes: NotRequired[NotesDocument]


class RunsDocument(TypedDict):
    """The last runs of an observer, newest first."""

    runs: list[RunDocument]


class SummaryDocument(TypedDict):
    """A session in a listing."""

    session_id: str
    turn_count: int
    observers: list[str]
    update_time: NotRequired[Time]


class SummariesDocument(TypedDict):
    """Stored sessions."""

    sessions: list[SummaryDocument]
    more: Annotated[bool, Field(description="Whether more sessions exist.")]


def reading_document(reading: Reading, min_severity: Severity | None = None) -> Document:
    """Return a `ReadingDocument`."""
    return reading.as_tool_result(min_severity=min_severity)


def session_reading_document(reading: Reading, min_severity: Severity | None) -> Document:
    """Return a `SessionReadingDocument`."""
    return {"session_id": reading.session_id} | reading.as_tool_result(min_severity=min_severity)


def session_document(session: Session, *, include_turns: bool) -> Document:
    """Return a `SessionDocument`."""
    return _without_none(
        session_id=session.session_id,
        fields=dict(session.fields),
        version=session.version,
        turn_count=session.turn_count,
        turns=[_turn_document(turn) for turn in session.turns] if include_turns else None,
        notes={observer: reading_document(reading) for observer, reading in sorted(session.notes.items())},
        create_time=_time(session.create_time),
        update_time=_time(session.update_time),
        expires_in_seconds=_seconds(session.expires_in),
    )


def run_document(run: Run) -> Document:
    """Return a `RunDocument`."""
    return _without_none(
        number=run.number,
        run_id=run.run_id,
        observer=run.observer,
        state=run.state.value,
        observed_turn=run.observed_turn,
        begin_time=_time(run.begin_time),
        end_time=_time(run.end_time),
        failure=run.failure or None,
        notes=notes_as_dict(run.notes) if run.notes else None,
    )


def summary_document(summary: SessionSummary) -> Document:
    """Return a `SummaryDocument`."""
    return _without_none(
        session_id=summary.session_id,
        turn_count=summary.turn_count,
        observers=list(summary.observers),
        update_time=_time(summary.update_time),
    )


def _turn_document(turn: Turn) -> Document:
    return _without_none(speaker=turn.speaker, text=turn.text, time=_time(turn.time), extra=dict(turn.extra) or None)


def _without_none(**values: Any) -> Document:
    return {name: value for name, value in values.items() if value is not None}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
