"""Ages, durations, counts and readiness in words."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from session_notes import Reading

UNKNOWN_SESSION = "no data for this session; the id may be wrong, or the session was deleted or has expired"
_READINESS = {
    "never_run": "this observer has not run on this session yet",
    "running": "no notes yet; a run is in flight",
    "ready": "notes exist",
    "failed": "no notes; the latest run ended without any",
    "expired": "the notes have expired",
}


def amount(span: timedelta) -> str:
    """Return a duration in its largest unit, rounded down: `12 s`, `3 min`, `2 h`, `5 d`."""
    seconds = int(span.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 2 * 86400 else f"{seconds // 86400} d"


def ago(age: timedelta) -> str:
    """Return an age: `12 s ago`."""
    return f"{amount(age)} ago"


def remaining(span: timedelta | None) -> str:
    """Return a remaining time in up to two units. It is rounded, so that 24 h just set do not become 23 h."""
    if span is None:
        return "-"
    seconds = span.total_seconds()
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return amount(timedelta(seconds=round(seconds) if seconds < 60 else minutes * 60))
    (whole, rest), units = (divmod(minutes, 60), ("h", "min")) if hours < 48 else (divmod(hours, 24), ("d", "h"))
    return f"{whole} {units[0]} {rest} {units[1]}" if rest else f"{whole} {units[0]}"


def moment(time: datetime | None) -> str:
    """Return a time of the store's clock. Converting it to an age would mix the clocks of two hosts."""
    return "-" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 turn`, `2 turns`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def reading_summary(reading: "Reading") -> str:
    """Return readiness, age and drift in one line."""
    if reading.age is None:
        return f"not ready ({reading.readiness.value}): {_READINESS.get(reading.readiness.value, 'unknown reason')}"
    parts = [f"written {ago(reading.age)}"]
    if reading.snapshot_age is not None:
        parts.append(f"snapshot {ago(reading.snapshot_age)}")
    if reading.turns_behind is not None:
        parts.append(f"{count(reading.turns_behind, 'turn')} behind")
    return "ready: " + ", ".join(parts)


def unknown_session_summary(reading: "Reading") -> str:
    """Return the summary for a session of which the store has no data."""
    return f"not ready ({reading.readiness.value}): {UNKNOWN_SESSION}"
