"""How it stands between the table and its sidecar: an outage is never to look like an empty table."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from session_notes_tools.cli import phrases


class Contact:
    """What became of the last refresh.

    Attributes:
        answered_at: When everything asked for was answered last, by the monotonic clock; None: never yet.
    """

    def __init__(self) -> None:
        self.answered_at: float | None = None
        self._asked_at: float | None = None
        self._trouble = ""
        self._lost_at = 0.0
        self._lost_time = ""

    @property
    def lost(self) -> bool:
        """Whether the last refresh failed."""
        return bool(self._trouble)

    def asks(self) -> None:
        """A refresh begins."""
        self._asked_at = time.monotonic()

    def answers(self) -> None:
        """It went well."""
        self.answered_at = time.monotonic()
        self._asked_at = None
        self._trouble = ""

    def fails(self, trouble: str) -> None:
        """It did not; `trouble` says why."""
        if not self._trouble:
            # When it happened by the clock on the reader's wall: no time of the store's has a part in this.
            self._lost_at, self._lost_time = time.monotonic(), f"{datetime.now():%H:%M:%S}"
        self._asked_at = None
        self._trouble = trouble

    def banner(self) -> str:
        """What to say of an outage; empty: there is none."""
        if not self._trouble:
            return ""
        said = f"OUTAGE since {self._lost_time} ({_since(self._lost_at)}): {self._trouble}."
        if self.answered_at is None:
            return f"{said} Nothing has been read yet; still trying."
        return f"{said} Shown as it was {_since(self.answered_at)} ago; still trying."

    def waiting(self) -> str:
        """What to say while an answer takes long; empty: it does not."""
        asked = self._asked_at
        return "" if asked is None or time.monotonic() - asked < 1 else f"waiting for an answer, {_since(asked)}"


def _since(then: float) -> str:
    return phrases.amount(timedelta(seconds=time.monotonic() - then))
