"""Sessions with pending turns, and the order in which a recorder visits them."""

from __future__ import annotations

import heapq
import time
from collections import deque
from concurrent.futures import Future
from datetime import timedelta
from itertools import count

from session_notes._errors import Unauthenticated, Unavailable, UsageError
from session_notes._types import Turn

_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 1.0

_MAX_RETRY_AFTER = timedelta(seconds=5)
"""Longest pause on the sidecar's request."""


class Entry:
    """A pending turn.

    Attributes:
        turn: The turn.
        size: Its serialized size in bytes.
        observe: Whether a run is due once this turn is stored.
    """

    __slots__ = ("observe", "size", "turn")

    def __init__(self, turn: Turn, size: int, observe: bool = False) -> None:
        self.turn = turn
        self.size = size
        self.observe = observe


class PendingSession:
    """A session: its last known number of stored turns, and its pending turns.

    Attributes:
        id: The session id.
        stored: Number of stored turns, as last reported. None: unknown.
        pending: The pending turns, in order.
        run_due: Whether a run is due.
        uncertain: Number of leading pending turns that were sent, with `stored` as the expected turn count, and whose
            outcome is unknown.
        append_id: Id of the append in which they were sent.
        one_by_one: Number of leading pending turns to send separately, to find the one that was rejected.
        failures: Consecutive visits that failed.
        visited: Whether a visit is running.
        visit_ended: A future that is done when the running visit ends. None: no caller waits for it.
        forgotten: Whether the session was deleted.
    """

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.stored: int | None = None
        self.pending: deque[Entry] = deque()
        self.run_due = False
        self.uncertain = 0
        self.append_id = ""
        self.one_by_one = 0
        self.failures = 0
        self.visited = False
        self.visit_ended: Future[None] | None = None
        self.forgotten = False

    @property
    def idle(self) -> bool:
        """Whether nothing is pending and no run is due."""
        return not (self.pending or self.run_due)


class Visits:
    """The sessions to visit, in order. Not thread-safe: the backlog's lock protects it.

    Attributes:
        last_error: Class of the latest failure. Empty: none yet.
        outage_failures: Consecutive failures, across all sessions, that are not specific to a session. During an
            outage, one call per pause suffices for all sessions together.
    """

    def __init__(self) -> None:
        self.last_error = ""
        self.outage_failures = 0
        self._resume_at = 0.0
        self._ready: deque[PendingSession] = deque()
        self._later: list[tuple[float, int, PendingSession]] = []
        self._order = count()

    def add(self, session: PendingSession) -> None:
        """Queue a session. If its last visit failed, it is due after a pause."""
        if session.failures:
            due = time.monotonic() + _pause(session.failures)
            heapq.heappush(self._later, (due, next(self._order), session))
        else:
            self._ready.append(session)

    def remove(self, session: PendingSession) -> None:
        """Remove a session if it is ready. One that is due later is skipped when its time comes."""
        if session in self._ready:
            self._ready.remove(session)

    def clear(self) -> None:
        """Remove all sessions."""
        self._ready.clear()
        self._later.clear()

    def end_pauses(self) -> None:
        """Make all sessions ready at once."""
        self._resume_at = 0.0
        self.outage_failures = 0
        for _, _, session in self._later:
            session.failures = 0
            self._ready.append(session)
        self._later.clear()

    def take(self) -> PendingSession | None:
        """Return the session to visit now, or None."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        if now < self._resume_at:
            return None
        while self._ready:
            session = self._ready.popleft()
            if not session.forgotten:
                session.visited = True
                return session
        return None

    def seconds_to_next(self) -> float | None:
        """Return the time in seconds until a visit is due. None: no session is queued."""
        if not self._ready and not self._later:
            return None
        due = time.monotonic() if self._ready else self._later[0][0]
        return max(0.0, max(due, self._resume_at) - time.monotonic())

    def record_outcome(self, session: PendingSession, failure: Exception | None) -> bool:
        """Record the outcome of a visit, and return whether to log it: the second consecutive failure is logged."""
        if failure is None:
            session.failures = self.outage_failures = 0
            self._resume_at = 0.0
            return False
        session.failures += 1
        self.last_error = type(failure).__name__
        if isinstance(failure, Unavailable | Unauthenticated | UsageError):
            self.outage_failures += 1
            requested = failure.retry_after or timedelta()
            pause = max(_pause(self.outage_failures), min(requested, _MAX_RETRY_AFTER).total_seconds())
            self._resume_at = time.monotonic() + pause
            return self.outage_failures == 2 or (self.outage_failures == 1 and session.failures == 2)
        return session.failures == 2


def _pause(failures: int) -> float:
    """Return the pause in seconds after consecutive failures."""
    import random  # A tenth of the package's import time, and most processes never need it.

    # With jitter, so that recorders of one sidecar do not all retry at the same moment.
    pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10), _MAX_PAUSE_SECONDS)
    return pause * random.uniform(0.5, 1)  # noqa: S311 - not a secret
