"""Schedule of a background observer: one run at a time per session, with repeated submissions merged.

A submitted session waits until the brakes release it. Then it is queued for a worker. The caller supplies all times.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from session_notes._brakes import MAX_WAITING, Brakes, Histories

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from session_notes._runs import BaseRun

Run = TypeVar("Run", bound="BaseRun")
Stop = TypeVar("Stop")

_MAX_LINKS = 16
"""Maximum number of span links of a run. Only the latest submissions are linked."""


class Submission:
    """A submitted session, however often it was submitted, until a worker takes it.

    Attributes:
        first: When it was submitted for the first time.
        last: When it was last submitted.
        submitters: Spans in which it was submitted, if the application traces.
        swept: Whether only the sweep has found it. The run then begins only if no other process has one in flight.
        latest_run: Id of the session's latest run when the sweep found it. Empty: it had no run.
        held: Whether it is in the heap of held sessions.
        after_run: Id of a run of another process that began too recently. Empty: none did.
        not_before: Time from which a run may follow that one.
    """

    __slots__ = ("after_run", "first", "held", "last", "latest_run", "not_before", "submitters", "swept")

    def __init__(self, at: float, *, swept: bool, latest_run: str = "") -> None:
        self.first = self.last = at
        self.submitters: deque[SpanContext] = deque(maxlen=_MAX_LINKS)
        self.swept = swept
        self.latest_run = latest_run
        self.held = False
        self.after_run = ""
        self.not_before = 0.0


class Job(Generic[Run, Stop]):
    """A session that has a worker, from `Schedule.take` to `Schedule.done`.

    Attributes:
        session_id: The session.
        submission: How it was submitted.
        stop: An event. Once set, BeginRun is not retried.
        lease: The lease with which its run begins.
        begun: Done when BeginRun has ended, whether or not a run began.
        run: The run, once it has begun.
        failed: Whether the session counts as failed or as successful. None: neither, for example without a run.
        too_early: Whether a run of another process began too recently: the submission stays.
        too_few_turns: Whether there are too few new turns: the submission stays until the next one.
        unavailable: Whether the sidecar was unavailable: the submission stays, for the pause after the failure.
        again: The next submission, if the session was submitted again in the meantime.
        forgotten: Whether the session was deleted in the meantime.
    """

    def __init__(self, session_id: str, submission: Submission, stop: Stop) -> None:
        self.session_id = session_id
        self.submission = submission
        self.stop = stop
        self.lease = timedelta()
        self.begun: Future[None] = Future()
        # In the state "running", so that no waiter can cancel it.
        self.begun.set_running_or_notify_cancel()
        self.run: Run | None = None
        self.failed: bool | None = None
        self.too_early = False
        self.too_few_turns = False
        self.unavailable = False
        self.again: Submission | None = None
        self.forgotten = False


class Schedule(Generic[Run, Stop]):
    """The submitted sessions and the jobs. Not thread-safe: the observer's lock protects it."""

    def __init__(self, brakes: Brakes) -> None:
        self.jobs: dict[str, Job[Run, Stop]] = {}
        self.histories = Histories()
        self._brakes = brakes
        # Every submitted session without a worker. It is queued, or held, or waits for turns until its next submission.
        self._submitted: dict[str, Submission] = {}
        # Those that wait for turns, the longest waiting first.
        self._waiting: dict[str, None] = {}
        # Those that need only a worker, in order.
        self._queued: dict[str, None] = {}
        # Those that the brakes hold back, by the earliest time at which they may be released. It may have become later.
        self._held: list[tuple[float, int, str, Submission]] = []
        self._order = itertools.count()
        self._released = False

    @property
    def queued(self) -> int:
        """Number of sessions that wait for a worker."""
        return len(self._queued)

    @property
    def empty(self) -> bool:
        """Whether no session is submitted or has a worker."""
        return not self._submitted and not self.jobs

    @property
    def next_release(self) -> float | None:
        """Time at which `release` has an effect again. None: no session is held back."""
        return self._held[0][0] if self._held else None

    def submit(self, session_id: str, submitter: SpanContext | None, now: float) -> bool:
        """Submit a session, and return whether it may have another run.

        If it is submitted already, it has one run for all submissions. If it has a worker, it is run once more.
        """
        if self._exhausted(session_id, now):
            return False
        job = self.jobs.get(session_id)
        submission = self._submitted.get(session_id) if job is None else job.again
        if submission is None:
            submission = Submission(now, swept=False)
        submission.last, submission.swept = now, False
        if submitter is not None:
            submission.submitters.append(submitter)
        if job is None:
            self._place(session_id, submission, now)
        else:
            job.again = submission
        return True

    def sweep(self, session_id: str, now: float, latest_run: str = "") -> bool:
        """Queue a session that the sweep has found, and return whether it may have another run.

        No effect if it is submitted already, or if a brake holds it back: the sidecar lists it again.
        """
        if session_id in self.jobs or session_id in self._submitted:
            return True
        if self._exhausted(session_id, now):
            return False
        # The sidecar has checked that no turn came for long enough, and knows all turns.
        submission = Submission(now - self._brakes.quiet_for, swept=True, latest_run=latest_run)
        if self._earliest(session_id, submission) <= now:
            self._place(session_id, submission, now)
        return True

    def release(self, now: float) -> None:
        """Queue the sessions that the brakes no longer hold back."""
        while self._held and self._held[0][0] <= now:
            _, _, session_id, submission = heapq.heappop(self._held)
            submission.held = False
            if self._submitted.get(session_id) is submission:
                self._place(session_id, submission, now)

    def release_all(self) -> None:
        """Queue all sessions, and hold back none from now on, because the observer is closing."""
        self._released = True
        self._held.clear()
        self._waiting.clear()
        for session_id in self._submitted:
            self._queued.setdefault(session_id)

    def take(self, stop: Stop) -> Job[Run, Stop]:
        """Take the first queued session."""
        session_id = next(iter(self._queued))
        del self._queued[session_id]
        job: Job[Run, Stop] = Job(session_id, self._submitted.pop(session_id), stop)
        self.jobs[session_id] = job
        return job

    def began(self, job: Job[Run, Stop], now: float) -> None:
        """Count the analysis of a job whose run has begun."""
        if not job.forgotten:
            history = self.histories.active(job.session_id, now)
            history.runs += 1
            history.began_at = now

    def done(self, job: Job[Run, Stop], now: float) -> bool:
        """End a job, and submit its session again if necessary. Return whether the session may have another run."""
        if self.jobs.get(job.session_id) is not job:
            return True
        del self.jobs[job.session_id]
        if job.failed is not None and not job.forgotten:
            history = self.histories.active(job.session_id, now)
            history.failures = history.failures + 1 if job.failed else 0
            history.failed_at = now
        submission = job.again
        if job.too_early and not job.forgotten:
            submission = job.submission
            if job.again is not None:
                submission.last = job.again.last
                submission.submitters.extend(job.again.submitters)
        elif submission is None and job.unavailable and not job.forgotten and not self._released:
            submission = job.submission
        if submission is not None:
            if self._exhausted(job.session_id, now):
                return False
            self._place(job.session_id, submission, now)
        elif job.too_few_turns and not job.forgotten:
            if self._released:
                self._place(job.session_id, job.submission, now)
            else:
                self._wait_for_turns(job.session_id, job.submission)
        return True

    def forget(self, session_id: str) -> Job[Run, Stop] | None:
        """Drop a session that is about to be deleted, with its past, and return its job if it has a worker."""
        self._queued.pop(session_id, None)
        self._submitted.pop(session_id, None)
        self._waiting.pop(session_id, None)
        self.histories.forget(session_id)
        job = self.jobs.get(session_id)
        if job is not None:
            job.again, job.forgotten = None, True
        return job

    def drop_submitted(self) -> int:
        """Drop all submitted sessions, cancel all repetitions, and return the number of sessions dropped."""
        dropped = len(self._submitted)
        self._submitted.clear()
        self._waiting.clear()
        self._queued.clear()
        self._held.clear()
        for job in self.jobs.values():
            job.again, job.too_early, job.too_few_turns, job.unavailable = None, False, False, False
        return dropped

    def _place(self, session_id: str, submission: Submission, now: float) -> None:
        """Queue or hold back a submitted session."""
        self._waiting.pop(session_id, None)
        self._submitted[session_id] = submission
        earliest = self._earliest(session_id, submission)
        if self._released or earliest <= now:
            self._queued.setdefault(session_id)
            return
        self._queued.pop(session_id, None)
        if not submission.held:
            submission.held = True
            heapq.heappush(self._held, (earliest, next(self._order), session_id, submission))

    def _wait_for_turns(self, session_id: str, submission: Submission) -> None:
        """Keep a submitted session until its next submission. Beyond MAX_WAITING, drop the longest waiting one."""
        self._submitted[session_id] = submission
        self._waiting[session_id] = None
        if len(self._waiting) > MAX_WAITING:
            longest = next(iter(self._waiting))
            del self._waiting[longest], self._submitted[longest]

    def _earliest(self, session_id: str, submission: Submission) -> float:
        earliest = self._brakes.earliest(self.histories.get(session_id), submission.first, submission.last)
        return max(earliest, submission.not_before)

    def _exhausted(self, session_id: str, now: float) -> bool:
        if not self._brakes.exhausts(self.histories.get(session_id)):
            return False
        # Remembered as long as it is submitted.
        self.histories.active(session_id, now)
        return True
