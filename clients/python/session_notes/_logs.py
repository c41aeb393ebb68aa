"""Logging of the package: one logger, with session ids as digests, and without exceptions from handlers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

LOGGER = logging.getLogger("session_notes")


def log(level: int, message: str, *args: object) -> None:
    """Log a message. Never raise, even if a handler or filter of the application does."""
    with suppress(Exception):
        LOGGER.log(level, message, *args)


def warn(message: str, *args: object) -> None:
    """Log a warning, as `log` does."""
    log(logging.WARNING, message, *args)


class RepeatedWarnings:
    """Warnings that repeat for as long as their cause lasts. The first of each kind are logged, later ones less often.

    After the first ten, the pause between two lines doubles from a minute to an hour, and a line tells how many were
    left out. A kind that has not occurred for an hour starts anew.
    """

    _FIRST, _FIRST_PAUSE, _LAST_PAUSE, _MAX_KINDS = 10, 60.0, 3600.0, 100

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kinds: dict[str, _Kind] = {}

    def warn(self, subject: str, problem: str) -> None:
        """Log a warning about a subject, unless there were too many with the same problem."""
        with self._lock:
            omitted = self._omitted(problem, time.monotonic())
        if omitted is not None:
            more = f" ({omitted} more since the last such line)" if omitted else ""
            warn("%s: %s%s", subject, problem, more)

    def _omitted(self, problem: str, now: float) -> int | None:
        """Count a warning, and return the number of those left out before it. None: it is left out, too."""
        kind = self._kinds.pop(problem, None)
        if kind is None or now - kind.last > self._LAST_PAUSE:
            kind = _Kind()
        while len(self._kinds) >= self._MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[problem] = kind
        kind.last = now
        kind.count += 1
        if now < kind.not_before:
            kind.omitted += 1
            return None
        if kind.count >= self._FIRST:
            kind.pause = min(2 * kind.pause, self._LAST_PAUSE) or self._FIRST_PAUSE
            kind.not_before = now + kind.pause
        omitted, kind.omitted = kind.omitted, 0
        return omitted


class _Kind:
    count = 0
    omitted = 0
    last = 0.0
    pause = 0.0
    not_before = 0.0


def session_digest(session_id: object) -> str:
    """Return the name of a session in logs. Never raise.

    Callers choose session ids, and an id may identify the user. The log therefore contains only the first 8 hexadecimal
    digits of the id's SHA-256, as printed by `printf %s ID | sha256sum | cut -c1-8`.
    """
    import hashlib  # A tenth of the package's import time, and most processes never log a session.

    try:
        return hashlib.sha256(str(session_id).encode(errors="replace")).hexdigest()[:8]
    except Exception:
        return "?"


def counted(items: int | Sequence[object], noun: str = "turn") -> str:
    """Return a number with its noun: `1 turn`, `2 turns`."""
    number = items if isinstance(items, int) else len(items)
    return f"{number} {noun}{'' if number == 1 else 's'}"
