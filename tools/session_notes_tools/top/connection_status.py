"""The status of the connection to the sidecar, which keeps an outage from looking like an empty table."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from session_notes_tools.cli import phrases

_SLOW_SECONDS = 1.0


class ConnectionStatus:
    """The outcome of the last refresh.

    Attributes:
        last_success: The monotonic time of the last complete refresh; None before the first one.
    """

    def __init__(self) -> None:
        self.last_success: float | None = None
        self._started_at: float | None = None
        self._error = ""
        self._outage_began = 0.0
        self._outage_time = ""

    @property
    def outage(self) -> bool:
        """Whether the last refresh failed."""
        return bool(self._error)

    def start(self) -> None:
        """Record that a refresh starts."""
        self._started_at = time.monotonic()

    def succeed(self) -> None:
        """Record that the refresh succeeded."""
        self.last_success = time.monotonic()
        self._started_at = None
        self._error = ""

    def fail(self, error: str) -> None:
        """Record that the refresh failed."""
        if not self._error:
            # Only shown to a person, who compares it with the clock of this machine.
            self._outage_began, self._outage_time = time.monotonic(), f"{datetime.now():%H:%M:%S}"
        self._started_at = None
        self._error = error

    def banner(self) -> str:
        """Return the message about an outage, or an empty string."""
        if not self._error:
            return ""
        outage = f"OUTAGE since {self._outage_time} ({_elapsed(self._outage_began)}): {self._error}."
        if self.last_success is None:
            return f"{outage} Nothing has been read yet; retrying."
        return f"{outage} Data is {_elapsed(self.last_success)} old; retrying."

    def waiting(self) -> str:
        """Return the message about a slow refresh, or an empty string."""
        started = self._started_at
        slow = started is not None and time.monotonic() - started >= _SLOW_SECONDS
        return f"waiting for a response, {_elapsed(started)}" if started is not None and slow else ""


def _elapsed(then: float) -> str:
    return phrases.amount(timedelta(seconds=time.monotonic() - then))
