"""Background observer: a thread pool that runs an analysis over submitted sessions.

`_async_background` is the counterpart for asyncio. Both share the rules in `_pool`, and differ in how they wait: by
conditions and a watchdog, or by tasks and cancellation.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

from session_notes import _calls, _pool, _spans
from session_notes._async_observer import AsyncObserverClient
from session_notes._limits import BEGIN_TIMEOUT_AT_CLOSE, DEFAULT_OBSERVER_CLOSE_TIMEOUT
from session_notes._logs import log, warn
from session_notes._observer import ObserverClient
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
    submitted again while it is queued is run once. If it is submitted again during its run, it is run once more.

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
        self._all_done = threading.Condition(self._lock)
        # Deadlines of the runs, in the order in which they began. All runs have the same limit, so the first one is the
        # next to overrun.
        self._running: dict[ActiveRun, float] = {}
        self._workers = 0
        self._watched = False

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

    def close(self, timeout: timedelta = DEFAULT_OBSERVER_CLOSE_TIMEOUT) -> bool:
        """Stop accepting sessions, finish the submitted ones, and return whether all finished in time.

        After the timeout, queued sessions are dropped and runs in flight are recorded as failed, which takes up to 2 s
        more. While the sidecar is unavailable, BeginRun is retried for up to 1.5 s.
        """
        _calls.check_options(timeout=timeout)
        with self._lock:
            self._closing = True
            self._start_workers()
            self._work_queued.notify_all()
        start = time.monotonic()
        finished = self._wait_until_done(min(timeout, BEGIN_TIMEOUT_AT_CLOSE))
        if not finished and timeout > BEGIN_TIMEOUT_AT_CLOSE:
            self._stop_all_retries()
            finished = self._wait_until_done(timeout - timedelta(seconds=time.monotonic() - start))
        with self._lock:
            self._closed = True
            dropped = self._schedule.drop_queued()
            late = list(self._running)
            self._running.clear()
            self._work_queued.notify_all()
            self._runs_changed.notify_all()
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
        if self._schedule.queued:
            self._start_watchdog()
            self._work_queued.notify(self._schedule.queued)
        # Every worker without a job is about to take one.
        missing = self._schedule.queued - (self._workers - len(self._schedule.jobs))
        for _ in range(min(missing, self._max_workers - self._workers)):
            if not self._start_thread(self._work, f"observer-{self._workers}"):
                return
            self._workers += 1

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
                with _spans.run_span(job.submitters):
                    self._observe(job)
            except BaseException as error:
                # A bug in this class must not end the worker.
                self._log_bug(job, error)
            finally:
                self._done(job)

    def _take(self) -> Job[ActiveRun, threading.Event] | None:
        with self._work_queued:
            while not self._schedule.queued:
                if self._closing:
                    self._workers -= 1
                    return None
                self._work_queued.wait()
            job = self._schedule.take(threading.Event())
            if self._stopped_retrying:
                job.stop.set()
            self._start_workers()
            return job

    def _done(self, job: Job[ActiveRun, threading.Event]) -> None:
        with self._lock:
            self._schedule.done(job)
            if self._closed:
                self._schedule.drop_queued()
            self._start_workers()
            self._work_ended()

    def _observe(self, job: Job[ActiveRun, threading.Event]) -> None:
        run = self._begin(job)
        if run is None:
            return
        try:
            self._conclude(run)
        finally:
            with self._lock:
                self._running.pop(run, None)

    def _begin(self, job: Job[ActiveRun, threading.Event]) -> ActiveRun | None:
        try:
            call = self._begin_call(job.session_id)
            begun = self._client._transport.send(call, None, self._client._timeout, job.stop)
            with self._lock:
                deadline = time.monotonic() + self._time_limit.total_seconds()
                run = ActiveRun(self._client, job.session_id, begun, deadline)
                if job.forgotten:
                    # The run ends with its session.
                    return None
                job.run = run
                closed = self._closed
                if not closed:
                    self._running[run] = deadline
                    self._start_watchdog()
                    self._runs_changed.notify()
        except Exception as error:
            self._log_not_begun(job, error)
            return None
        finally:
            job.begun.set_result(None)
        if closed:
            run._fail_quietly(_pool.CLOSED)
            return None
        return run

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
