"""Verdicts on the promises, over all sessions of a replay."""

from __future__ import annotations

from dataclasses import dataclass, field

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.history import History, SessionHistory
from session_notes_tools.replay.promises import PROMISES

MAX_EXAMPLES = 5


@dataclass
class Verdict:
    """The verdict on one promise.

    Attributes:
        checks: The number of its checks.
        broken: The number of checks that it failed.
        examples: Session id and problem of the first few failed checks.
    """

    promise: str
    checks: int = 0
    broken: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def judge(history: History) -> list[Verdict]:
    """Return the verdict on every promise."""
    verdicts = [Verdict(promise) for promise in PROMISES]
    for session in history.sessions.values():
        case = Case(session)
        for verdict in verdicts:
            for problem in PROMISES[verdict.promise](case):
                verdict.checks += 1
                if problem is not None:
                    verdict.broken += 1
                    if len(verdict.examples) < MAX_EXAMPLES:
                        verdict.examples.append((session.session_id, problem))
    return verdicts


def broken_promises(session: SessionHistory) -> list[str]:
    """Return every broken promise of one session, with its problem."""
    case = Case(session)
    return [
        f"{promise}: {problem}" for promise, check in PROMISES.items() for problem in check(case) if problem is not None
    ]
