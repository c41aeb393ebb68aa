"""Logging of the package: one logger, with session ids as digests, and without exceptions from handlers."""

from __future__ import annotations

import logging
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
