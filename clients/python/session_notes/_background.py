"""Background observer: a thread pool that runs an analysis over submitted sessions.

`_async_background` is the counterpart for asyncio. Both share the rules in `_pool`, and differ in how they wait: by
conditions and threads, or by tasks and cancellation. An idle worker waits for the next session that the brakes
release, so there is always one while sessions are held back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Literal, Self

from session_notes import _calls, _forks, _pool, _spans
from session_notes._async_observer import AsyncObserverClient
from session_notes._errors import UsageError
from session_notes._leases import RENEW_TIMEOUT
from session_notes._limits import BEGIN_TIMEOUT_AT_CLOSE, DEFAULT_OBSERVER_CLOSE_TIMEOUT
from session_notes._logs import log, warn
from session_notes._observer import ObserverClient
from session_notes._results import BeginResult
from session_notes._runs import ActiveRun
from session_notes._schedule import Job
from session_notes._types import Notes


class BackgroundObserver(_pool.Pool[ObserverClient, ActiveRun, threading.Event, Notes | None]):
    """Runs an analysis over submitted sessions, in threads of this process.

        >>> def analyse(run: ActiveRun) -> Notes:
        ...     answer = model.ask(prompt(run.transcript), timeout=run.remaining.total_seconds())
        ...     return Notes(summary=answer.summary, follow_up_suggestions=answer.suggestions)
        >>> with BackgroundObserver(analyse) as observer:
        ...     observer.submit("session-1")

    Each session has at most one run at a time, which sees the transcript as of the moment it begins. A session that is
    submitted again while it waits is run once. If it is submitted again during its run, it is run once more.

    Brakes hold back submitted sessions, because an analysis usually costs money. A session that is held back is run
    once as soon as they permit it, or at `close`. After a failure, a session waits for 5 s or `min_interval`, whichever
    is longer, and twice as long after each further one, up to 15 minutes; a success ends this. A session whose run
    could not begin, or whose notes could not be written, because the sidecar was unavailable stays submitted. The past
    of a session is forgotten when it is deleted in this process, after 24 h without activity, and beyond 10,000
    sessions.

    If an analysis raises, returns None, or overruns `time_limit`, its run is recorded as failed. Every failure,
    including an outage of the sidecar, is logged by the logger `session_notes` and never reaches the caller of
    `submit`. The log names a session by the start of its id's SHA-256 (`printf %s ID | sha256sum | cut -c1-8`), and a
    run by its number.

    Python cannot stop a thread from outside. An analysis that overruns is given up and its result discarded, but it
    occupies its worker and its session until it returns. Set a timeout on your model call, as in the example.

    In a forked child, the observer starts empty. Sessions submitted before the fork remain with the parent.

    Args:
        analyse: Returns the notes of a run, or None for no notes. Called in one of the threads.
        target: Address of the sidecar, as for `ObserverClient`.
        token: Token of the client, as for `ObserverClient`.
        tls: TLS for the connection, as for `ObserverClient`.
        client: An existing client, instead of `target`, `token`, `tls` and `observer`. It is not closed.
        observer: Name of the observer. Empty: `default`.
        max_workers: Maximum number of threads, and thus of concurrent analyses. Threads start on demand.
        time_limit: Time limit of an analysis.
        ttl: How long the notes stay current. None: as long as the session.
        lease: How long a run stays in flight if this process dies. Renewed while the analysis runs. A sidecar of the
            first version cannot renew it: there, a run stays in flight for its time limit and 10 s more.
        transcript: `all`: a run sees the whole transcript. `new`: only the turns that the current notes have not seen,
            together with these notes as `run.current`.
        max_turns: Of these, a run sees at most so many turns, the newest. None: no maximum.
        min_interval: Shortest time between the begins of two runs of a session. None: 15 s. Those of other processes
            count, too, unless `min_new_turns` is 0: one in flight always, one that has ended once there are notes.
        min_new_turns: Smallest number of turns that the current notes have not seen, checked when a submitted session
            may have a run. With none, its submission is dropped; with too few, it waits for the next one, as one of at
            most 10,000 sessions. 0: not checked. None: 1.
        quiet_for: How long a session must not have been submitted before its run begins. One that is submitted again
            and again is run after ten times as long. None: 2 s.
        max_runs: Largest number of runs of a session in this process. Further submissions are ignored. None: 500.
        brakes: Whether brakes that are None have these defaults, and failures delay the next run. False: they are off.

    Raises:
        InvalidArgument: If an argument is invalid, such as an async function, for which `AsyncBackgroundObserver`
            exists.
    """

    _client_type = ObserverClient
    _other_client_type = AsyncObserverClient
    _asynchronous = False

    def _reset(self) -> None:
        super()._reset()
        # Conditions that share the lock.
        self._work_queued = threading.Condition(self._lock)
        self._runs_changed = threading.Condition(self._lock)
        self._leases_changed = threading.Condition(self._lock)
        self._sweep_changed = threading.Condition(self._lock)
        self._all_done = threading.Condition(self._lock)
        # Deadlines of the runs, in the order in which they began. All runs have the same limit, so the first one is the
        # next to overrun.
        self._running: dict[ActiveRun, float] = {}
        self._workers = 0
        self._watched = False
        self._renewing = False
        self._sweep_every: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, session_id: str) -> None:
        """Queue a session for an analysis, and return immediately.

        If no thread can be started, the session waits until the next `submit` or until a worker is free.

        Raises:
            InvalidArgument: If the id is not text that can be sent, such as an int, None or a UUID object.
            UsageError: If this observer is closed, or gRPC does not work in this forked process.
        """
        self._accept(session_id)

    def sweep(self, every: timedelta) -> None:
        """Look for due sessions now and every so often, and submit them, until `close`.

        This replaces `submit` where the observer is a process of its own, and finds sessions whose submission was lost.
        A session is due if it meets the bounds of the brakes and has no run of this observer in flight. Several
        processes can sweep: each session is analysed by one of them. Another call changes the interval. A forked child
        does not sweep.

        Raises:
            InvalidArgument: If the interval is not above 0.
            UsageError: If this observer is closed, or gRPC does not work in this forked process.
        """
        _calls.check_span("every", every)
        _forks.check()
        with self._lock:
            if self._closing:
                raise UsageError("this observer is closed")
            sweeping, self._sweep_every = self._sweep_every is not None, _pool.seconds(every)
            if not sweeping and not self._start_thread(self._sweep, "sweep"):
                self._sweep_every = None
            self._sweep_changed.notify_all()

    def close(
        self, timeout: timedelta = DEFAULT_OBSERVER_CLOSE_TIMEOUT, *, pending: Literal["run", "drop"] = "run"
    ) -> bool:
        """Stop accepting sessions, finish the submitted ones, and return whether all finished in time.

        Sessions that wait are run now, whatever holds them back. With `pending="drop"` they are dropped, and only runs
        in flight are finished. After the timeout, waiting sessions are dropped and runs in flight are recorded as
        failed, which takes up to 2 s more. While the sidecar is unavailable, BeginRun is retried for up to 1.5 s.
        """
        _calls.check_options(timeout=timeout)
        _pool.check_pending(pending)
        with self._lock:
            self._closing = True
            if pending == "drop":
                self._schedule.drop_submitted()
            self._schedule.release_all()
            self._start_workers()
            self._work_queued.notify_all()
            self._sweep_changed.notify_all()
            self._work_ended()
        start = time.monotonic()
        finished = self._wait_until_done(min(timeout, BEGIN_TIMEOUT_AT_CLOSE))
        if not finished and timeout > BEGIN_TIMEOUT_AT_CLOSE:
            self._stop_all_retries()
            finished = self._wait_until_done(timeout - timedelta(seconds=time.monotonic() - start))
        with self._lock:
            self._closed = True
            dropped = self._schedule.drop_submitted()
            late = list(self._running)
            self._running.clear()
            self._work_queued.notify_all()
            self._runs_changed.notify_all()
            self._leases_changed.notify_all()
        self._stop_all_retries()
        self._log_dropped(dropped)
        start = time.monotonic()
        for run in late:
            left = _pool.rest_of_fail_timeout(time.monotonic() - start)
            run._context.run(run._fail_quietly, _pool.CLOSED, left)
        if self._own_client:
            self._client.close()
        return finished

    def _wait_until_done(self, timeout: timedelta) -> bool:
        with self._all_done:
            return self._all_done.wait_for(lambda: self._schedule.empty, _pool.seconds(timeout))

    def _work_ended(self) -> None:
        if self._schedule.empty:
            self._all_done.notify_all()

    def _stop_retrying(self, job: Job[ActiveRun, threading.Event]) -> None:
        job.stop.set()

    def _start_workers(self) -> None:
        needed = self._schedule.queued + (self._schedule.next_release is not None)
        if needed:
            self._start_watchdog()
            self._work_queued.notify(needed)
        # Every worker without a job is about to take one, or waits for the next release.
        missing = needed - (self._workers - len(self._schedule.jobs))
        for _ in range(min(missing, self._max_workers - self._workers)):
            # Counted before it starts, because a signal handler may submit meanwhile.
            self._workers += 1
            if not self._start_thread(self._work, f"observer-{self._workers - 1}"):
                self._workers -= 1
                return

    def _start_watchdog(self) -> None:
        if not self._watched:
            self._watched = self._start_thread(self._watch, "watchdog")

    def _start_thread(self, target: Callable[[], None], name: str) -> bool:
        """Start a thread, and return whether it started."""
        try:
            # A daemon, because an analysis that hangs must not keep the process from ending.
            threading.Thread(target=target, name=f"session-notes-{name}", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            warn("cannot start a thread for the background observer: %s", type(error).__name__)
            return False
        return True

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                with _spans.run_span(job.submission.submitters):
                    self._observe(job)
            except BaseException as error:
                # A bug in this class must not end the worker.
                self._log_bug(job, error)
            finally:
                self._ended(job)

    def _take(self) -> Job[ActiveRun, threading.Event] | None:
        with self._work_queued:
            while True:
                self._schedule.release(time.monotonic())
                if self._schedule.queued:
                    break
                if self._closing:
                    self._workers -= 1
                    return None
                release = self._schedule.next_release
                self._work_queued.wait(None if release is None else _pool.seconds_until(release))
            job = self._schedule.take(threading.Event())
            if self._stopped_retrying:
                job.stop.set()
            self._start_workers()
            return job

    def _observe(self, job: Job[ActiveRun, threading.Event]) -> None:
        run = self._begin(job)
        if run is None:
            return
        try:
            self._conclude(run)
        finally:
            self._concluded(job, run)
            with self._lock:
                self._running.pop(run, None)
                self._leases.remove(run)

    def _begin(self, job: Job[ActiveRun, threading.Event]) -> ActiveRun | None:
        try:
            begun = self._begin_result(job)
            if begun is None:
                return None
            with self._lock:
                deadline = time.monotonic() + self._time_limit.total_seconds()
                run = ActiveRun(self._client, job.session_id, begun, deadline)
                if job.forgotten:
                    # The run ends with its session.
                    return None
                unnecessary = self._unnecessary(job, begun)
                if unnecessary is None:
                    self._begun(job, run, begun)
                    self._running[run] = deadline
                    self._start_watchdog()
                    self._runs_changed.notify()
                    self._start_renewing()
                    self._leases_changed.notify()
        except Exception as error:
            self._not_begun(job, error)
            return None
        finally:
            job.begun.set_result(None)
        if unnecessary is not None:
            run._fail_quietly(unnecessary)
            return None
        return run

    def _begin_result(self, job: Job[ActiveRun, threading.Event]) -> BeginResult | None:
        calls = self._calls_to_begin(job)
        try:
            call = next(calls)
            while True:
                call = calls.send(self._client._transport.send(call, None, self._client._timeout, job.stop))
        except StopIteration as end:
            begun: BeginResult | None = end.value
            return begun

    def _conclude(self, run: ActiveRun) -> None:
        """Analyse a run, and write its notes or record its failure."""
        notes, error = None, None
        try:
            notes = self._analyse(run)
        except BaseException as raised:
            error = raised
        failure = self._failure_without_notes(run, notes, error)
        if failure is None and notes is not None:
            try:
                run.write(notes, ttl=self._ttl)
            except Exception as raised:
                failure = self._failure_of_write(run, raised)
        if failure is not None:
            run._fail_quietly(failure)

    def _watch(self) -> None:
        while (run := self._next_overrun()) is not None:
            try:
                run._context.run(self._give_up, run)
            except BaseException as error:
                # The time limits of later runs still apply.
                log(logging.ERROR, "%s in the background observer's watchdog", type(error).__name__)

    def _next_overrun(self) -> ActiveRun | None:
        """Wait for the next run that overruns. Return None once the observer is closed."""
        with self._runs_changed:
            while not self._closed:
                run = next(iter(self._running), None)
                left = self._running[run] - time.monotonic() if run else None
                if run and left is not None and left <= 0:
                    del self._running[run]
                    return run
                self._runs_changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
            return None

    def _give_up(self, run: ActiveRun) -> None:
        if run._fail_quietly(self._overrun):
            self._log_run(run, self._overrun)

    def _start_renewing(self) -> None:
        if not self._renewing and self._leases.next_due() is not None:
            self._renewing = self._start_thread(self._renew, "leases")

    def _renew(self) -> None:
        while (run := self._next_renewal()) is not None:
            error: Exception | None = None
            try:
                # A copy, because the watchdog may use the context at the same time.
                run._context.copy().run(run._renew, self._leases.lease, RENEW_TIMEOUT)
            except Exception as raised:
                error = raised
            self._renewed(run, error)

    def _next_renewal(self) -> ActiveRun | None:
        """Wait for the next run whose lease is due. Return None once the observer is closed."""
        with self._leases_changed:
            while not self._closed:
                due = self._leases.next_due()
                if due is not None and due[1] <= time.monotonic():
                    return due[0]
                self._leases_changed.wait(None if due is None else _pool.seconds_until(due[1]))
            return None

    def _sweep(self) -> None:
        while (every := self._sweep_every) is not None and not self._closing:
            try:
                for due in self._client.due_sessions(**self._due_arguments()):
                    if not self._accept_due(due):
                        break
            except Exception as error:
                if not self._closing:
                    self._log_sweep(error)
            with self._sweep_changed:
                if not self._closing:
                    self._sweep_changed.wait(every)
