"""The result of a check. Its texts contain names, numbers and settings, but never user data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The severity of a finding, from best to worst."""

    OK = "ok"
    SKIPPED = "skipped"
    """Not checked, or not visible from here."""

    WARNING = "warning"
    """It works, but may cause trouble later."""

    PROBLEM = "problem"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: The name of the check, one word.
        verdict: Its severity.
        says: The observation.
        advice: The recommended action; empty if there is none.
    """

    check: str
    verdict: Verdict
    says: str
    advice: str = ""


def ok(check: str, says: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, Verdict.OK, says)


def skipped(check: str, says: str, advice: str = "") -> Finding:
    """Return a finding for a check that was not made."""
    return Finding(check, Verdict.SKIPPED, says, advice)


def warning(check: str, says: str, advice: str) -> Finding:
    """Return a finding that an operator should decide on."""
    return Finding(check, Verdict.WARNING, says, advice)


def problem(check: str, says: str, advice: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(check, Verdict.PROBLEM, says, advice)


def clock(name: str, ahead_seconds: float) -> Finding:
    """Return a finding about a clock. It is never a problem, since ages come from the store's clock alone."""
    size = f"{abs(ahead_seconds):.1f} s {'ahead of' if ahead_seconds > 0 else 'behind'}"
    relation = "agrees with" if abs(ahead_seconds) < 0.1 else f"is {size}"
    return ok("clock", f"{name} {relation} this machine's; no age depends on this machine's clock")


def ms(seconds: float) -> str:
    """Return a duration in milliseconds."""
    return f"{seconds * 1000:.2f} ms"
