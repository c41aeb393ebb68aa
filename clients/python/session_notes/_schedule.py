"""Schedule of a background observer: one run at a time per session, with repeated submissions coalesced."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from session_notes._runs import BaseRun

Run = TypeVar("Run", bound="BaseRun")
Stop = TypeVar("Stop")

_MAX_LINKS = 16
"""Maximum number of span links of a run. Only the latest submissions are linked."""


class Job(Generic[Run, Stop]):
    """A session that has a worker, from `Schedule.take` to `Schedule.done`.

    Attributes:
        session_id: The session.
        submitters: Spans in which the session was submitted, if the application traces.
        stop: An event. Once set, BeginRun is not retried.
        begun: Done when BeginRun has ended, whether or not a run began.
        run: The run, once it has begun.
        again: Whether the session was submitted again in the meantime.
        forgotten: Whether the session was deleted in the meantime.
    """

    def __init__(self, session_id: str, submitters: Iterable[SpanContext], stop: Stop) -> None:
        self.session_id = session_id
        self.submitters = submitters
        self.stop = stop
        self.begun: Future[None] = Future()
        # In the state "running", so that no waiter can cancel it.
        self.begun.set_running_or_notify_cancel()
        self.run: Run | None = None
        self.again = False
        self.forgotten = False


class Schedule(Generic[Run, Stop]):
    """The queued sessions in order, and the jobs. Not thread-safe: the observer's lock protects it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job[Run, Stop]] = {}
        # In order of submission.
        self._queued: dict[str, None] = {}
        self._submitters: dict[str, deque[SpanContext]] = {}

    @property
    def queued(self) -> int:
        """Number of sessions that wait for a worker."""
        return len(self._queued)

    @property
    def empty(self) -> bool:
        """Whether no session is queued or has a worker."""
        return not self._queued and not self.jobs

    def submit(self, session_id: str, submitter: SpanContext | None) -> None:
        """Queue a session. No effect if it is queued already. If it has a worker, it is run once more afterwards."""
        if submitter is not None:
            self._submitters.setdefault(session_id, deque(maxlen=_MAX_LINKS)).append(submitter)
        job = self.jobs.get(session_id)
        if job is None:
            self._queued[session_id] = None
        else:
            job.again = True

    def take(self, stop: Stop) -> Job[Run, Stop]:
        """Take the first queued session."""
        session_id = next(iter(self._queued))
        del self._queued[session_id]
        job: Job[Run, Stop] = Job(session_id, self._submitters.pop(session_id, ()), stop)
        self.jobs[session_id] = job
        return job

    def done(self, job: Job[Run, Stop]) -> None:
        """End a job. If its session was submitted again in the meantime, queue it."""
        if self.jobs.get(job.session_id) is job:
            del self.jobs[job.session_id]
            if job.again:
                self._queued[job.session_id] = None

    def forget(self, session_id: str) -> Job[Run, Stop] | None:
        """Drop a session that is about to be deleted, and return its job if it has a worker."""
        self._queued.pop(session_id, None)
        self._submitters.pop(session_id, None)
        job = self.jobs.get(session_id)
        if job is not None:
            job.again, job.forgotten = False, True
        return job

    def drop_queued(self) -> int:
        """Drop all queued sessions, cancel all repetitions, and return the number of sessions dropped."""
        dropped = len(self._queued)
        self._queued.clear()
        self._submitters.clear()
        for job in self.jobs.values():
            job.again = False
        return dropped
