"""What a check finds. Its texts are ours: fixed words, and names and numbers of settings, never what somebody wrote."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How much it matters; the last one is the worst."""

    OK = "ok"
    SKIPPED = "skipped"
    """Not looked at, or not to be told from here."""

    WARNING = "warning"
    """It works, and may one day cost something."""

    PROBLEM = "problem"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name, one word.
        verdict: How much it matters.
        says: What was found.
        advice: What to do about it; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    says: str
    advice: str = ""


def ok(check: str, says: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, says)


def skipped(check: str, says: str, advice: str = "") -> Finding:
    """Nobody looked, or could."""
    return Finding(check, Verdict.SKIPPED, says, advice)


def warning(check: str, says: str, advice: str) -> Finding:
    """Something to know of, and to decide."""
    return Finding(check, Verdict.WARNING, says, advice)


def problem(check: str, says: str, advice: str) -> Finding:
    """Something to mend."""
    return Finding(check, Verdict.PROBLEM, says, advice)


def clock(whose: str, ahead_seconds: float) -> Finding:
    """A clock beside ours: as information alone, since ages come from the store's clock and no other."""
    size = f"{abs(ahead_seconds):.1f} s {'ahead of' if ahead_seconds > 0 else 'behind'} ours"
    same = abs(ahead_seconds) < 0.1
    return ok("clock", f"{whose} is {'as ours' if same else size}; no age depends on ours")


def ms(seconds: float) -> str:
    """A span, in milliseconds."""
    return f"{seconds * 1000:.2f} ms"
