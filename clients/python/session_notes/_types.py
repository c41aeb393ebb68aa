"""Arguments and results of the clients: frozen, typed, and without protobuf.

Times are `datetime` in UTC by the store's clock, spans are `timedelta`. The wire holds the numbers inside `extra` and
session fields as doubles: whole ones up to ±(2^53 - 1) come back as `int`, all others as `float`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from session_notes.v1 import notes_pb2, session_notes_pb2, session_state_pb2


class Readiness(StrEnum):
    """Whether there are notes, and if not, why."""

    UNSPECIFIED = "unspecified"
    """Something this client is too old to know."""
    NEVER_RUN = "never_run"
    RUNNING = "running"
    """No notes yet; the latest run is at work."""
    READY = "ready"
    """There are notes, even while a newer run is at work or has failed."""
    FAILED = "failed"
    """No notes; the latest run failed or was abandoned."""
    EXPIRED = "expired"
    """There were notes, and their time to live has passed."""
    UNAVAILABLE = "unavailable"
    """Nobody answered. Made by the client, where `unavailable_ok` asks for it; a sidecar never says so."""


class RunState(StrEnum):
    """What became of a run."""

    UNSPECIFIED = "unspecified"
    """Something this client is too old to know."""
    RUNNING = "running"
    WRITTEN = "written"
    SUPERSEDED = "superseded"
    """It wrote after a newer run had, or saw fewer turns than the current notes: they went to the history alone."""
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Its lease ran out before it wrote or failed."""


class Severity(StrEnum):
    """How much an issue matters."""

    UNSPECIFIED = "unspecified"
    """The observer does not say, or it says something this client is too old to know."""
    INFO = "info"
    WARNING = "warning"
    """Should be dealt with in this conversation."""
    CRITICAL = "critical"
    """Should be dealt with in the next turn."""


class WriteOutcome(StrEnum):
    """What became of notes that were written."""

    UNSPECIFIED = "unspecified"
    """Something this client is too old to know."""
    ACCEPTED = "accepted"
    """They are the current notes now."""
    DUPLICATE = "duplicate"
    """The run had written the same notes before; nothing changed."""
    SUPERSEDED = "superseded"
    """A newer run wrote before them, or one that saw more turns: they went to the history alone."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding of an observer.

    Attributes:
        text: What is the matter, for the primary to read.
        severity: How much it matters.
        turn: The turn it is about, counted from 1; None: no turn in particular.
    """

    text: str
    severity: Severity = Severity.UNSPECIFIED
    turn: int | None = None


@dataclass(frozen=True, slots=True)
class Notes:
    """What one run of an observer concluded.

        >>> Notes(
        ...     coverage={"goals": 1.0, "budget": 0.25},
        ...     issues=[Issue("The deadline and the scope contradict each other", Severity.WARNING, turn=7)],
        ...     follow_up_suggestions=["Who decides on the budget?"],
        ...     summary="Goals are clear, money is not.",
        ... )

    Attributes:
        coverage: Topic → share of it that the conversation has covered, 0 to 1.
        issues: What is worth raising, in the order to be read.
        follow_up_suggestions: What to say or ask next, best first.
        summary: A few sentences on where the conversation stands.
        extra: Anything else, as JSON: at most 16 levels deep, numbers up to ±(2^53 - 1).
    """

    coverage: Mapping[str, float] = field(default_factory=dict)
    issues: Sequence[Issue] = ()
    follow_up_suggestions: Sequence[str] = ()
    summary: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # So that notes written with lists equal what is read. A wrong type stays, and is refused when it is sent.
        for name in ("issues", "follow_up_suggestions"):
            content = getattr(self, name)
            if isinstance(content, Iterable) and not isinstance(content, str | bytes | Mapping):
                object.__setattr__(self, name, tuple(content))


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of the conversation.

    Attributes:
        speaker: Who spoke: `user`, `primary`, a name.
        text: What was said.
        time: When, by the caller's own clock and with a time zone; kept as given.
        extra: Anything else worth keeping, as JSON.
    """

    speaker: str
    text: str
    time: datetime | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of an observer.

    Attributes:
        run_id: Its id, unique within session and observer.
        number: 1, 2, 3, …; a higher number is a newer run.
        observer: Whose run.
        state: What became of it.
        observed_turn: How many turns it had seen; None: not known.
        begin_time: When it took its snapshot; None: it was written without being begun.
        end_time: When it was written, failed or abandoned; None: still at work.
        failure: Why it ended without notes, as its observer said.
        notes: Its notes, where `list_runs` was asked for them.
    """

    run_id: str
    number: int
    observer: str
    state: RunState
    observed_turn: int | None = None
    begin_time: datetime | None = None
    end_time: datetime | None = None
    failure: str = ""
    notes: Notes | None = None

    @classmethod
    def from_message(cls, message: "notes_pb2.Run") -> "Run":
        """Return the run that a message of the contract holds."""
        from session_notes import _wire

        return _wire.run_from(message)


@dataclass(frozen=True, slots=True)
class Reading:
    """The current notes of one observer on one session, and all one needs to decide whether to trust them.

        >>> summary = reading.notes.summary if reading.notes else "no notes yet"
        >>> advice = reading.notes if reading.fresh else None

    Attributes:
        session_id: The session read.
        observer: Whose notes.
        ready: Whether there are notes.
        readiness: If not, why.
        notes: The notes; None when not ready.
        age: Time since they were written.
        snapshot_age: Time since the conversation was as their run saw it; None where the run did not say when it began.
        write_time: When they were written.
        observed_turn: How many turns their run had seen; None: not known.
        turns_behind: How many turns have come since; None: not known.
        fresh: Whether they are within the bounds that were asked for. Not ready is never fresh.
        run: The run that wrote them.
        latest_run: The newest run, whatever became of it; None: there was never one.
        expires_in: How long they will still be there.
        unavailable_reason: Why nobody answered, for people, where `readiness` is UNAVAILABLE.
    """

    session_id: str
    observer: str
    ready: bool
    readiness: Readiness
    notes: Notes | None = None
    age: timedelta | None = None
    snapshot_age: timedelta | None = None
    write_time: datetime | None = None
    observed_turn: int | None = None
    turns_behind: int | None = None
    fresh: bool = False
    run: Run | None = None
    latest_run: Run | None = None
    expires_in: timedelta | None = None
    unavailable_reason: str = ""

    @classmethod
    def from_message(
        cls, message: "session_notes_pb2.GetNotesResponse", *, session_id: str, observer: str = ""
    ) -> "Reading":
        """Return the reading that a response of the contract holds; it does not repeat whose notes it is about."""
        from session_notes import _wire

        return _wire.reading_from(session_id, observer, message)

    def as_tool_result(self) -> dict[str, Any]:
        """What a primary hands to its model as the result of a tool call: plain JSON, short, nothing empty in it.

            >>> reading.as_tool_result()
            {'ready': False, 'reason': 'never_run'}
            >>> reading.as_tool_result()
            {'ready': True, 'age_seconds': 12.3, 'snapshot_age_seconds': 80.1, 'turns_behind': 2, 'fresh': True,
             'newer_run': 'running', 'notes': {'coverage': {'goals': 1.0}, 'summary': 'Goals are clear.'}}

        `newer_run` is there when a run began after the one these notes are from, and says what became of it.
        """
        # What a run left as its failure is for people: a model might read it out to the user.
        if not self.ready or self.notes is None:
            return {"ready": False, "reason": self.readiness.value}
        newer = self.latest_run if self.run and self.latest_run and self.latest_run.number > self.run.number else None
        known = {
            "age_seconds": _seconds(self.age),
            "snapshot_age_seconds": _seconds(self.snapshot_age),
            "turns_behind": self.turns_behind,
            "fresh": self.fresh,
            "newer_run": newer.state.value if newer else None,
        }
        return (
            {"ready": True} | {k: v for k, v in known.items() if v is not None} | {"notes": notes_as_dict(self.notes)}
        )


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it stood at one moment.

    Attributes:
        session_id: Its id.
        fields: The primary's fields.
        version: How often `update_session` changed it; 0: never.
        turn_count: How many turns were ever appended.
        turns: The last of them, oldest first, where asked for.
        notes: Observer → what `get_notes` would answer for it.
        create_time: When it was started; None: there is no such session.
        update_time: When it was last changed, by anybody; None: there is no such session.
        expires_in: What is left of it if nothing changes it; None: there is no such session.
    """

    session_id: str
    fields: Mapping[str, Any]
    version: int
    turn_count: int
    turns: Sequence[Turn] = ()
    notes: Mapping[str, Reading] = field(default_factory=dict)
    create_time: datetime | None = None
    update_time: datetime | None = None
    expires_in: timedelta | None = None

    @classmethod
    def from_message(cls, message: "session_state_pb2.Session") -> "Session":
        """Return the session that a message of the contract holds."""
        from session_notes import _wire

        return _wire.session_from(message)


class SessionSummary(NamedTuple):
    """A session in a few words."""

    session_id: str
    version: int
    turn_count: int
    update_time: datetime | None
    expires_in: timedelta | None
    observers: tuple[str, ...]

    @classmethod
    def from_message(cls, message: "session_state_pb2.SessionSummary") -> "SessionSummary":
        """Return the summary that a message of the contract holds."""
        from session_notes import _wire

        return _wire.summary_from(message)


class UpdateResult(NamedTuple):
    """A session after `update_session`: its version now, and when it was changed."""

    version: int
    update_time: datetime


class BeginResult(NamedTuple):
    """A run that has begun, and the transcript it is to look at, oldest turn first."""

    run: Run
    transcript: tuple[Turn, ...]


class WriteResult(NamedTuple):
    """What became of notes: the outcome, the run that wrote them, and when it did so first."""

    outcome: WriteOutcome
    run: Run
    write_time: datetime


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else round(span.total_seconds(), 3)


def notes_as_dict(notes: Notes) -> dict[str, Any]:
    """Notes as a model gets them: plain JSON, nothing empty in it."""
    parts = {
        "coverage": dict(notes.coverage),
        "issues": [_issue_as_dict(issue) for issue in notes.issues],
        "follow_up_suggestions": list(notes.follow_up_suggestions),
        "summary": notes.summary,
        "extra": dict(notes.extra),
    }
    return {name: part for name, part in parts.items() if part}


def _issue_as_dict(issue: Issue) -> dict[str, Any]:
    said: dict[str, Any] = {"text": issue.text}
    if issue.severity is not Severity.UNSPECIFIED:
        said["severity"] = issue.severity.value
    if issue.turn is not None:
        said["turn"] = issue.turn
    return said
