"""Brakes of a background observer: when a session may be analysed, given its past and the time. No clock, no threads.

`_schedule` applies them to submitted sessions, `_pool` takes them from the caller's arguments.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from datetime import timedelta
from typing import NamedTuple

DEFAULT_MIN_INTERVAL = timedelta(seconds=15)
"""Long enough for a few turns of a conversation, so that an hour of it costs at most 240 calls of a model."""

DEFAULT_MIN_NEW_TURNS = 1
"""An analysis of what the current notes have seen costs as much as any other, and finds nothing."""

DEFAULT_QUIET_FOR = timedelta(seconds=2)
"""The parts of one exchange are usually recorded within two seconds. An analysis in between sees half of it."""

MAX_WAIT_FOR_QUIET = 10
"""After how many times `quiet_for` a session is run although it is never quiet, as during a long turn of an agent."""

DEFAULT_MAX_RUNS = 500
"""A run per minute for a working day. More is probably a program that submits in a loop."""

FIRST_PAUSE = timedelta(seconds=5)
"""The pause after a first failure, unless `min_interval` is longer. A restart may be over by then."""

LAST_PAUSE = timedelta(minutes=15)
"""The pause after many failures. A spent quota costs four calls per hour then, and notes return soon after it ends."""

MAX_HISTORIES = 10_000
"""Number of sessions whose past is remembered: about 2 MB. Beyond it, that of the longest inactive one is forgotten."""

MAX_WAITING = 10_000
"""Number of sessions that may wait for new turns. Beyond it, the longest waiting one must be submitted again."""

MEMORY = timedelta(hours=24)
"""How long the past of an inactive session is remembered. By then the sidecar, by default, has dropped the session."""


class History:
    """The past of one session in this process.

    Attributes:
        runs: Number of analyses.
        began_at: When the latest run began. None: there has been none.
        failures: Number of failures since the last success.
        failed_at: When the latest failure ended.
        active_at: When anything last happened.
        reported: Whether the log says that it has had all its runs.
    """

    __slots__ = ("active_at", "began_at", "failed_at", "failures", "reported", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.began_at: float | None = None
        self.failures = 0
        self.failed_at = 0.0
        self.active_at = 0.0
        self.reported = False


class Brakes(NamedTuple):
    """The brakes of an observer, with spans in seconds.

    Attributes:
        min_interval: Shortest time between the begins of two runs of a session.
        min_new_turns: Smallest number of turns that the current notes have not seen. 0: not checked.
        quiet_for: How long a session must not have been submitted, if it ever is so long.
        max_runs: Largest number of analyses of a session.
        backoff: Whether failures delay the next run.
    """

    min_interval: float = 0.0
    min_new_turns: int = 0
    quiet_for: float = 0.0
    max_runs: float = math.inf
    backoff: bool = False

    def earliest(self, history: History | None, first: float, last: float) -> float:
        """Return the time from which a session may have a run.

        Args:
            history: Its past. None: nothing is remembered.
            first: When it was submitted, for the first time since its latest run.
            last: When it was last submitted.
        """
        earliest = min(last + self.quiet_for, first + MAX_WAIT_FOR_QUIET * self.quiet_for)
        if history is not None:
            if history.began_at is not None:
                earliest = max(earliest, history.began_at + self.min_interval)
            if history.failures:
                earliest = max(earliest, history.failed_at + self.pause_after(history.failures))
        return earliest

    def pause_after(self, failures: int) -> float:
        """Return the seconds from the latest of several failures until the next run: doubled by each."""
        if not self.backoff:
            return 0.0
        first = max(self.min_interval, FIRST_PAUSE.total_seconds())
        last = max(first, LAST_PAUSE.total_seconds())
        return min(first * 2.0 ** min(failures - 1, 32), last)

    def exhausts(self, history: History | None) -> bool:
        """Return whether a session has had all its runs."""
        return history is not None and history.runs >= self.max_runs


DEFAULT_BRAKES = Brakes(
    min_interval=DEFAULT_MIN_INTERVAL.total_seconds(),
    min_new_turns=DEFAULT_MIN_NEW_TURNS,
    quiet_for=DEFAULT_QUIET_FOR.total_seconds(),
    max_runs=DEFAULT_MAX_RUNS,
    backoff=True,
)
"""The brakes that a person would choose for a paid model."""


class Histories:
    """The past of the sessions, as far as it is remembered, the longest inactive one first."""

    def __init__(self) -> None:
        self._histories: OrderedDict[str, History] = OrderedDict()

    def __len__(self) -> int:
        return len(self._histories)

    def get(self, session_id: str) -> History | None:
        """Return the past of a session. None: nothing is remembered."""
        return self._histories.get(session_id)

    def active(self, session_id: str, now: float) -> History:
        """Return the past of a session to which something happens, and forget those that are long inactive."""
        history = self._histories.get(session_id)
        if history is None:
            history = self._histories[session_id] = History()
        # Not removed and added again: a signal handler that submits the session in between would find no past.
        self._histories.move_to_end(session_id)
        history.active_at = now
        while True:
            oldest_id = next(iter(self._histories))
            inactive = now - self._histories[oldest_id].active_at > MEMORY.total_seconds()
            if not inactive and len(self._histories) <= MAX_HISTORIES:
                return history
            del self._histories[oldest_id]

    def forget(self, session_id: str) -> None:
        """Forget a deleted session."""
        self._histories.pop(session_id, None)
