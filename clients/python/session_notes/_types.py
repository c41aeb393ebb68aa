"""Arguments and results of the clients: frozen, typed, and independent of protobuf.

Times are `datetime` in UTC by the store's clock. Spans are `timedelta`. Numbers inside `extra` and session fields are doubles
on the wire: integers up to ±(2^53 - 1) are returned as `int`, all other numbers as `float`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple


class Readiness(StrEnum):
    """Whether there are current notes, and if not, why."""

    UNSPECIFIED = "unspecified"
    """A value that is newer than this client."""
    NEVER_RUN = "never_run"
    RUNNING = "running"
    """No notes yet. The latest run is in flight."""
    READY = "ready"
    """Current notes exist, even if a newer run is in flight or has failed."""
    FAILED = "failed"
    """No notes. The latest run failed or was abandoned."""
    EXPIRED = "expired"
    """The notes' time to live has passed."""
    UNAVAILABLE = "unavailable"
    """No response. Set by the client, only if `unavailable_ok` is true."""


class RunState(StrEnum):
    """State of a run."""

    UNSPECIFIED = "unspecified"
    """A value that is newer than this client."""
    RUNNING = "running"
    WRITTEN = "written"
    SUPERSEDED = "superseded"
    """It wrote after a newer run, or saw fewer turns than the current notes. Its notes are in the history only."""
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Its lease expired before it wrote or failed."""


class Severity(StrEnum):
    """Severity of an issue."""

    UNSPECIFIED = "unspecified"
    """Not given, or a value that is newer than this client."""
    INFO = "info"
    WARNING = "warning"
    """Should be addressed in this conversation."""
    CRITICAL = "critical"
    """Should be addressed in the next turn."""


class WriteOutcome(StrEnum):
    """Outcome of a write."""

    UNSPECIFIED = "unspecified"
    """A value that is newer than this client."""
    ACCEPTED = "accepted"
    """These are now the current notes."""
    DUPLICATE = "duplicate"
    """The run had already written the same notes. Nothing changed."""
    SUPERSEDED = "superseded"
    """A newer run wrote first, or one that saw more turns. These notes are in the history only."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A finding of an observer.

    Attributes:
        text: Description of the issue, for the primary.
        severity: How urgent it is.
        turn: Number of the turn it refers to, from 1. None: no particular turn.
    """

    text: str
    severity: Severity = Severity.UNSPECIFIED
    turn: int | None = None


@dataclass(frozen=True, slots=True)
class Notes:
    """The conclusions of one run of an observer. At most 256 KiB, serialized.

        >>> Notes(
        ...     coverage={"goals": 1.0, "budget": 0.25},
        ...     issues=[Issue("The deadline and the scope contradict each other", Severity.WARNING, turn=7)],
        ...     follow_up_suggestions=["Who decides on the budget?"],
        ...     summary="Goals are clear, money is not.",
        ... )

    Attributes:
        coverage: Topic → share of the topic that the conversation has covered, from 0 to 1.
        issues: Issues worth raising, in reading order.
        follow_up_suggestions: Suggested replies or questions, best first.
        summary: The state of the conversation in a few sentences.
        extra: Any other JSON object: at most 16 levels deep, numbers up to ±(2^53 - 1).
    """

    coverage: Mapping[str, float] = field(default_factory=dict)
    issues: Sequence[Issue] = ()
    follow_up_suggestions: Sequence[str] = ()
    summary: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Tuples, so that notes created with lists equal those that are read. A wrong type is rejected on sending.
        for name in ("issues", "follow_up_suggestions"):
            content = getattr(self, name)
            if isinstance(content, Iterable) and not isinstance(content, str | bytes | Mapping):
                object.__setattr__(self, name, tuple(content))


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of the conversation. At most 64 KiB, serialized.

    Attributes:
        speaker: Who spoke: `user`, `primary`, a name. At most 256 bytes.
        text: The utterance.
        time: When it was spoken, by the caller's clock and with a time zone. Stored unchanged.
        extra: Any other JSON object, such as a message id. Limits as for `Notes.extra`.
    """

    speaker: str
    text: str
    time: datetime | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of an observer.

    Attributes:
        run_id: Id, unique within session and observer.
        number: 1, 2, 3, …. A higher number is a newer run.
        observer: Name of the observer.
        state: State of the run.
        observed_turn: Number of turns that it saw. None: unknown.
        begin_time: When it took its snapshot. None: it was written without BeginRun.
        end_time: When it was written, failed or abandoned. None: it is in flight.
        failure: Why it ended without notes, as reported by its observer.
        notes: Its notes, if `list_runs` was called with `include_notes`.
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


@dataclass(frozen=True, slots=True)
class Reading:
    """The current notes of one observer for one session, and how far to trust them.

        >>> summary = reading.notes.summary if reading.notes else "no notes yet"
        >>> advice = reading.notes if reading.fresh else None

    Attributes:
        session_id: The session.
        observer: Name of the observer.
        ready: Whether there are notes.
        readiness: The same in detail: if there are no notes, why.
        notes: The notes. None unless ready.
        age: Time since the notes were written. None unless ready.
        snapshot_age: Time since their run took its snapshot of the conversation. None without BeginRun.
        write_time: When they were written.
        observed_turn: Number of turns that their run saw. None: unknown.
        turns_behind: Drift: number of turns since. None: unknown.
        fresh: Whether the notes meet the bounds of the call. Never true unless ready.
        run: The run that wrote them.
        latest_run: The newest run in any state. None: there has been no run.
        expires_in: Time until the notes expire.
        unavailable_reason: Why there was no response, for humans, if `readiness` is UNAVAILABLE.
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

    def as_tool_result(self) -> dict[str, Any]:
        """Return the reading as a tool result for the primary's model: compact JSON without empty parts.

            >>> reading.as_tool_result()
            {'ready': False, 'reason': 'never_run'}
            >>> reading.as_tool_result()
            {'ready': True, 'age_seconds': 12.3, 'snapshot_age_seconds': 80.1, 'turns_behind': 2, 'fresh': True,
             'newer_run': 'running', 'notes': {'coverage': {'goals': 1.0}, 'summary': 'Goals are clear.'}}

        `newer_run` is the state of the latest run, present if that run is newer than the one that wrote the notes.
        """
        # The failure of a run is omitted. It is meant for humans, and a model might read it out to the user.
        if not self.ready or self.notes is None:
            return {"ready": False, "reason": self.readiness.value}
        newer = self.latest_run if self.run and self.latest_run and self.latest_run.number > self.run.number else None
        optional = {
            "age_seconds": _seconds(self.age),
            "snapshot_age_seconds": _seconds(self.snapshot_age),
            "turns_behind": self.turns_behind,
            "fresh": self.fresh,
            "newer_run": newer.state.value if newer else None,
        }
        present = {name: content for name, content in optional.items() if content is not None}
        return {"ready": True} | present | {"notes": notes_as_dict(self.notes)}


@dataclass(frozen=True, slots=True)
class Session:
    """A session at one moment.

    Attributes:
        session_id: Id of the session.
        fields: The primary's fields.
        version: Number of changes by `update_session`.
        turn_count: Number of turns ever appended.
        turns: The latest turns, up to 2,000, oldest first. Empty unless `include_turns` was set.
        notes: Observer → its reading, as returned by `get_notes`.
        create_time: When the session was created. None: it does not exist.
        update_time: When it was last changed by any caller. None: it does not exist.
        expires_in: Time until it expires if nothing changes it. None: it does not exist.
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


class SessionSummary(NamedTuple):
    """One session of a listing, with the names of its observers."""

    session_id: str
    version: int
    turn_count: int
    update_time: datetime | None
    expires_in: timedelta | None
    observers: tuple[str, ...]


class UpdateResult(NamedTuple):
    """Result of `update_session`: the session's new version, and when it changed."""

    version: int
    update_time: datetime


class BeginResult(NamedTuple):
    """Result of `begin_run`: the run, and the transcript as of its snapshot, oldest turn first."""

    run: Run
    transcript: tuple[Turn, ...]


class WriteResult(NamedTuple):
    """Result of `write_notes`: the outcome, the run, and when it first wrote its notes."""

    outcome: WriteOutcome
    run: Run
    write_time: datetime


def notes_as_dict(notes: Notes) -> dict[str, Any]:
    """Return notes as JSON for a model, without empty parts."""
    parts = {
        "coverage": dict(notes.coverage),
        "issues": [_issue_as_dict(issue) for issue in notes.issues],
        "follow_up_suggestions": list(notes.follow_up_suggestions),
        "summary": notes.summary,
        "extra": dict(notes.extra),
    }
    return {name: part for name, part in parts.items() if part}


def _issue_as_dict(issue: Issue) -> dict[str, Any]:
    content: dict[str, Any] = {"text": issue.text}
    if issue.severity is not Severity.UNSPECIFIED:
        content["severity"] = issue.severity.value
    if issue.turn is not None:
        content["turn"] = issue.turn
    return content


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else round(span.total_seconds(), 3)
