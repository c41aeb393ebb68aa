"""What a model or its host gets to read, as JSON: each document as a type, which is its schema too.

As in `Reading.as_tool_result`, there is no key for what is empty or not known.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict  # typing's own has no schema before Python 3.12

from session_notes import Reading, Run, Session, SessionSummary, Turn
from session_notes._types import notes_as_dict

Document: TypeAlias = dict[str, Any]
"""A document of one of the types below."""

Time = Annotated[str, Field(description="A time of the store's clock, in RFC 3339 and UTC.")]


class IssueDocument(TypedDict):
    """One finding of an observer."""

    text: str
    severity: NotRequired[Annotated[str, Field(description="info, warning or critical")]]
    turn: NotRequired[Annotated[int, Field(description="The turn it is about, counted from 1.")]]


class NotesDocument(TypedDict):
    """What an observer concluded."""

    coverage: NotRequired[Annotated[dict[str, float], Field(description="Topic: how much has been covered, 0 to 1.")]]
    issues: NotRequired[list[IssueDocument]]
    follow_up_suggestions: NotRequired[list[str]]
    summary: NotRequired[str]
    extra: NotRequired[dict[str, Any]]


class ReadingDocument(TypedDict):
    """The current notes of one observer, and all one needs to decide whether to trust them."""

    ready: Annotated[bool, Field(description="Whether there are notes.")]
    reason: NotRequired[
        Annotated[str, Field(description="Why there are none: never_run, running, failed, expired or unavailable.")]
    ]
    age_seconds: NotRequired[Annotated[float, Field(description="Time since they were written.")]]
    snapshot_age_seconds: NotRequired[
        Annotated[float, Field(description="Time since the conversation was as the observer saw it.")]
    ]
    turns_behind: NotRequired[Annotated[int, Field(description="How many turns have come since.")]]
    fresh: NotRequired[Annotated[bool, Field(description="Whether they are within the bounds that were asked for.")]]
    newer_run: NotRequired[Annotated[str, Field(description="What became of a newer analysis.")]]
    notes: NotRequired[NotesDocument]


class ReadingOfSession(ReadingDocument):
    """The same, of one session among several."""

    session_id: str


class ReadingsDocument(TypedDict):
    """The current notes on several sessions, in the order they were asked for."""

    readings: list[ReadingOfSession]


class TurnDocument(TypedDict):
    """One utterance."""

    speaker: str
    text: str
    time: NotRequired[Annotated[str, Field(description="When, by the speaker's own clock.")]]
    extra: NotRequired[dict[str, Any]]


class SessionDocument(TypedDict):
    """A session as it stood at one moment."""

    session_id: str
    fields: Annotated[dict[str, Any], Field(description="What the application keeps about the conversation.")]
    version: Annotated[int, Field(description="How often the fields were changed.")]
    turn_count: Annotated[int, Field(description="How many turns were ever appended.")]
    turns: NotRequired[Annotated[list[TurnDocument], Field(description="The last of them, oldest first.")]]
    notes: Annotated[dict[str, ReadingDocument], Field(description="Observer: its current notes.")]
    create_time: Time
    update_time: Time
    expires_in_seconds: NotRequired[float]


class RunDocument(TypedDict):
    """One analysis."""

    number: Annotated[int, Field(description="A higher number is a newer run.")]
    run_id: str
    observer: str
    state: Annotated[str, Field(description="running, written, superseded, failed or abandoned")]
    observed_turn: NotRequired[Annotated[int, Field(description="How many turns it saw.")]]
    begin_time: NotRequired[Time]
    end_time: NotRequired[Time]
    failure: NotRequired[Annotated[str, Field(description="Why it failed, for those who run the observer.")]]
    notes: NotRequired[NotesDocument]


class RunsDocument(TypedDict):
    """The last runs of an observer, newest first."""

    runs: list[RunDocument]


class SummaryDocument(TypedDict):
    """A session in a few words."""

    session_id: str
    turn_count: int
    observers: list[str]
    update_time: NotRequired[Time]


class SummariesDocument(TypedDict):
    """Sessions that are kept just now."""

    sessions: list[SummaryDocument]
    more: Annotated[bool, Field(description="Whether there are more than these.")]


def reading(content: Reading) -> Document:
    """A `ReadingDocument`."""
    return content.as_tool_result()


def reading_of_session(content: Reading) -> Document:
    """A `ReadingOfSession`."""
    return {"session_id": content.session_id} | content.as_tool_result()


def session(content: Session, *, turns: bool) -> Document:
    """A `SessionDocument`."""
    return _known(
        session_id=content.session_id,
        fields=dict(content.fields),
        version=content.version,
        turn_count=content.turn_count,
        turns=[_turn(one) for one in content.turns] if turns else None,
        notes={observer: reading(one) for observer, one in sorted(content.notes.items())},
        create_time=_time(content.create_time),
        update_time=_time(content.update_time),
        expires_in_seconds=_seconds(content.expires_in),
    )


def run(content: Run) -> Document:
    """A `RunDocument`."""
    return _known(
        number=content.number,
        run_id=content.run_id,
        observer=content.observer,
        state=content.state.value,
        observed_turn=content.observed_turn,
        begin_time=_time(content.begin_time),
        end_time=_time(content.end_time),
        failure=content.failure or None,
        notes=notes_as_dict(content.notes) if content.notes else None,
    )


def summary(content: SessionSummary) -> Document:
    """A `SummaryDocument`."""
    return _known(
        session_id=content.session_id,
        turn_count=content.turn_count,
        observers=list(content.observers),
        update_time=_time(content.update_time),
    )


def _turn(content: Turn) -> Document:
    return _known(
        speaker=content.speaker, text=content.text, time=_time(content.time), extra=dict(content.extra) or None
    )


def _known(**parts: Any) -> Document:
    return {name: part for name, part in parts.items() if part is not None}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
