"""Notes, turns and enums: the types that callers both pass and receive. Frozen, typed, and independent of protobuf.

Numbers inside `extra` and session fields are doubles on the wire. Integers up to ±(2^53 - 1) are returned as `int`, all
other numbers as `float`.
"""
# Without `from __future__ import annotations`, because dataclasses would parse the text, in 0.3 ms per import.

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal


class Readiness(StrEnum):
    """Whether there are current notes, and if not, why."""

    UNSPECIFIED = "unspecified"
    """A value that this version of the client does not know."""
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
    """A value that this version of the client does not know."""
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
    """Not set, or a value that this version of the client does not know."""
    INFO = "info"
    WARNING = "warning"
    """Should be addressed in this conversation."""
    CRITICAL = "critical"
    """Should be addressed in the next turn."""


class WriteOutcome(StrEnum):
    """Outcome of a write."""

    UNSPECIFIED = "unspecified"
    """A value that this version of the client does not know."""
    ACCEPTED = "accepted"
    """These are now the current notes."""
    DUPLICATE = "duplicate"
    """The run had already written the same notes. Nothing changed."""
    SUPERSEDED = "superseded"
    """A newer run wrote first, or one that saw more turns. These notes are in the history only."""


class StaleReason(StrEnum):
    """Why notes are not fresh: a bound of the call that they do not meet."""

    UNSPECIFIED = "unspecified"
    """A value that this version of the client does not know."""
    AGE = "age"
    """`age` exceeds `max_age`."""
    SNAPSHOT_AGE = "snapshot_age"
    """`snapshot_age` exceeds `max_snapshot_age`."""
    TURNS_BEHIND = "turns_behind"
    """`turns_behind` exceeds `max_turns_behind`."""
    TURNS_UNKNOWN = "turns_unknown"
    """`max_turns_behind` is set, and the drift is unknown."""
    SNAPSHOT_UNKNOWN = "snapshot_unknown"
    """`max_snapshot_age` is set, and the notes were written without BeginRun."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A finding of an observer.

    Attributes:
        text: Description of the issue, for the primary.
        severity: How urgent it is. May be passed as text, such as `"warning"`.
        turn: Number of the turn it refers to, from 1. None: no particular turn.
    """

    text: str
    severity: Severity = Severity.UNSPECIFIED
    turn: int | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            text: str,
            severity: Severity | Literal["unspecified", "info", "warning", "critical"] = Severity.UNSPECIFIED,
            turn: int | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        # Any other text is rejected on sending.
        if type(self.severity) is str and self.severity in tuple(Severity):
            object.__setattr__(self, "severity", Severity(self.severity))


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
        coverage: Share of each topic that the conversation has covered, from 0 to 1.
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
        speaker: Who spoke: `user`, `primary`, a name. May be empty.
        text: The utterance.
        time: When it was spoken, by the caller's clock and with a time zone. Stored unchanged.
        extra: Any other JSON object, such as a message id. Limits as for `Notes.extra`.
    """

    speaker: str
    text: str
    time: datetime | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def notes_as_dict(notes: Notes, severities: Sequence[Severity] = tuple(Severity)) -> dict[str, Any]:
    """Return notes as JSON for a model, without empty parts and without issues of other severities."""
    parts = {
        "coverage": dict(notes.coverage),
        "issues": [_issue_as_dict(issue) for issue in notes.issues if issue.severity in severities],
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
