"""Leases of the runs of a background observer: short ones that are renewed, so that a dead process frees its sessions.

The renewing itself is in the observers, in one thread or task for all runs. A sidecar of the first version cannot renew
leases. There, each run begins with a lease for the whole time limit.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from session_notes._errors import RunAlreadyFailed, RunAlreadyWritten, RunNotFound, ServerError, SessionDeleted
from session_notes._limits import DEFAULT_RUN_TIMEOUT

if TYPE_CHECKING:
    from session_notes._results import BeginResult
    from session_notes._runs import BaseRun

Run = TypeVar("Run", bound="BaseRun")

DEFAULT_LEASE = timedelta(seconds=30)
"""Default lease of a background run: how long a dead process keeps its sessions. Renewed every ten seconds."""

RENEW_TIMEOUT = timedelta(seconds=2)
"""Timeout of a renewal. The others wait for it."""

_ENDED = (RunNotFound, RunAlreadyWritten, RunAlreadyFailed, SessionDeleted)


class Leases(Generic[Run]):
    """The runs in flight, and when their leases are due. Not thread-safe: the observer's lock protects it.

    Args:
        lease: The lease of a run.
        time_limit: Time limit of an analysis.
    """

    def __init__(self, lease: timedelta, time_limit: timedelta) -> None:
        # For a sidecar that cannot renew it. It ends after the time limit, so that an overrun can be recorded first.
        self._unrenewed = time_limit + DEFAULT_RUN_TIMEOUT
        self.lease = min(lease, self._unrenewed)
        # Whether the sidecar renews leases, as far as is known.
        self._renews = False
        self._due: dict[Run, float] = {}

    @property
    def first(self) -> timedelta:
        """The lease to begin a run with."""
        return self.lease if self._renews else self._unrenewed

    def add(self, run: Run, begun: BeginResult, first: timedelta, now: float) -> None:
        """Add a run that has begun.

        Args:
            run: The run.
            begun: The response, to a request with `include_current_notes`.
            first: The lease with which it began.
            now: The time.
        """
        # The version of the sidecar that returns `current` is the first one that renews leases.
        self._renews = begun.current is not None
        if self._renews:
            # A lease that is too long, because this was not known, is replaced immediately.
            self._due[run] = now if first > self.lease else now + self._interval(3)

    def remove(self, run: Run) -> None:
        """Remove a run that has ended."""
        self._due.pop(run, None)

    def next_due(self) -> tuple[Run, float] | None:
        """Return the run whose lease is due first, and when. None: there are no leases to renew."""
        for run in [run for run in self._due if run.ended]:
            del self._due[run]
        return min(self._due.items(), key=lambda item: item[1], default=None)

    def renewed(self, run: Run, error: Exception | None, now: float) -> bool:
        """Record the outcome of a renewal, and return whether it is a failure that passes, such as an outage."""
        if isinstance(error, ServerError) and error._unimplemented:
            self._renews = False
            self._due.clear()
        elif isinstance(error, _ENDED):
            self.remove(run)
        elif run in self._due:
            self._due[run] = now + self._interval(3 if error is None else 10)
            return error is not None
        return False

    def _interval(self, share: int) -> float:
        return self.lease.total_seconds() / share
