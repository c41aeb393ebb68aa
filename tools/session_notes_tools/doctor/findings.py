"""The result of a check. Its texts are fixed words with names, numbers and settings, never what a user wrote."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The severity of a finding, from best to worst."""

    OK = "ok"
    SKIPPED = "skipped"
    """Not checked, or not visible from here."""

    WARNING = "warning"
    """It works, and may cause trouble later."""

    PROBLEM = "problem"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: The name of the check, one word.
        verdict: Its severity.
        says: What was found.
        advice: What to do about it; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    says: str
    advice: str = ""


def ok(check: str, says: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, Verdict.OK, says)


def skipped(check: str, says: str, advice: str = "") -> Finding:
    """Return a finding about something that was not checked."""
    return Finding(check, Verdict.SKIPPED, says, advice)


def warning(check: str, says: str, advice: str) -> Finding:
    """Return a finding that an operator should know of and decide on."""
    return Finding(check, Verdict.WARNING, says, advice)


def problem(check: str, says: str, advice: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(check, Verdict.PROBLEM, says, advice)


def clock(name: str, ahead_seconds: float) -> Finding:
    """Compare a clock with this machine's. Never a problem: ages come from the store's clock alone."""
    size = f"{abs(ahead_seconds):.1f} s {'ahead of' if ahead_seconds > 0 else 'behind'}"
    relation = "agrees with" if abs(ahead_seconds) < 0.1 else f"is {size}"
    return ok("clock", f"{name} {relation} this machine's; no age depends on this machine's clock")


def ms(seconds: float) -> str:
    """Return a span of time in milliseconds."""
    return f"{seconds * 1000:.2f} ms"
