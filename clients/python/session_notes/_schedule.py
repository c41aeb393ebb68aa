"""The order in which a background observer takes sessions: one run at a time per session, further submits coalesced."""

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from session_notes._runs import RunAtWork

Run = TypeVar("Run", bound="RunAtWork")
Stop = TypeVar("Stop")

_MOST_LINKS = 16
"""Of a run that was submitted more often, the last submits count."""


class Job(Generic[Run, Stop]):
    """One session with its worker, from `Schedule.take` to `Schedule.done`.

    Attributes:
        session_id: The session.
        submitters: The spans it was submitted in, for applications that trace.
        stop: An event: once set, a run that could not begin yet is not tried again.
        begun: Done once BeginRun has ended, whether or not a run began.
        run: The run, once it has begun.
        again: Whether the session was submitted meanwhile.
        forgotten: Whether the session was deleted meanwhile.
    """

    def __init__(self, session_id: str, submitters: "Iterable[SpanContext]", stop: Stop) -> None:
        self.session_id = session_id
        self.submitters = submitters
        self.stop = stop
        self.begun: Future[None] = Future()
        # Running, so that no waiter can cancel it.
        self.begun.set_running_or_notify_cancel()
        self.run: Run | None = None
        self.again = False
        self.forgotten = False


class Schedule(Generic[Run, Stop]):
    """The sessions that wait, in order, and those that have a worker. Has no lock of its own."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job[Run, Stop]] = {}
        # In the order of submission.
        self._queued: dict[str, None] = {}
        self._submitters: dict[str, deque[SpanContext]] = {}

    @property
    def queued(self) -> int:
        """How many sessions wait for a worker."""
        return len(self._queued)

    @property
    def empty(self) -> bool:
        """Whether all that was submitted is done."""
        return not self._queued and not self.jobs

    def submit(self, session_id: str, submitter: "SpanContext | None") -> None:
        """Queue a session. One that waits already is run once, one that has a worker once more."""
        if submitter is not None:
            self._submitters.setdefault(session_id, deque(maxlen=_MOST_LINKS)).append(submitter)
        job = self.jobs.get(session_id)
        if job is None:
            self._queued[session_id] = None
        else:
            job.again = True

    def take(self, stop: Stop) -> Job[Run, Stop]:
        """Take the first session that waits."""
        session_id = next(iter(self._queued))
        del self._queued[session_id]
        job: Job[Run, Stop] = Job(session_id, self._submitters.pop(session_id, ()), stop)
        self.jobs[session_id] = job
        return job

    def done(self, job: Job[Run, Stop]) -> None:
        """End a job; a session that was submitted meanwhile waits again."""
        if self.jobs.get(job.session_id) is job:
            del self.jobs[job.session_id]
            if job.again:
                self._queued[job.session_id] = None

    def forget(self, session_id: str) -> Job[Run, Stop] | None:
        """Drop a session that is being deleted; return its job, where it has a worker."""
        self._queued.pop(session_id, None)
        self._submitters.pop(session_id, None)
        job = self.jobs.get(session_id)
        if job is not None:
            job.again, job.forgotten = False, True
        return job

    def drop_queued(self) -> int:
        """Drop all that wait, and all that would wait again; return how many."""
        dropped = len(self._queued)
        self._queued.clear()
        self._submitters.clear()
        for job in self.jobs.values():
            job.again = False
        return dropped
