"""What became of every promise, over all sessions of a replay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.history import History
from session_notes_tools.replay.promises import PROMISES

MOST_EXAMPLES = 5


@dataclass
class Verdict:
    """What became of one promise.

    Attributes:
        checks: How often it was put to the test.
        broken: How often it was broken.
        examples: A few of these: session id, what.
    """

    promise: str
    checks: int = 0
    broken: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def judge(history: History) -> list[Verdict]:
    """The verdict on every promise."""
    verdicts = [Verdict(promise) for promise in PROMISES]
    for session in history.sessions.values():
        case = Case(session)
        for verdict, check in zip(verdicts, PROMISES.values(), strict=True):
            _count(verdict, session.plan.session_id, check(case))
    return verdicts


def _count(verdict: Verdict, session_id: str, checks: Iterable[str | None]) -> None:
    for problem in checks:
        verdict.checks += 1
        if problem is not None:
            verdict.broken += 1
            if len(verdict.examples) < MOST_EXAMPLES:
                verdict.examples.append((session_id, problem))
