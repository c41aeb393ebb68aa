"""A thread pool that keeps the newest notes on every session it is told about."""

import inspect
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from session_notes import _pool, _spans
from session_notes._credentials import TLS, Token
from session_notes._errors import SessionDeleted, Unavailable, for_logs
from session_notes._observer import ObserverClient
from session_notes._runs import ENDED_WITHOUT_NOTES, ActiveRun, log
from session_notes._schedule import Job
from session_notes._types import Notes

_COROUTINE = "the analysis returned a coroutine: AsyncBackgroundObserver takes async functions"


class BackgroundObserver(_pool.Pool[ObserverClient, ActiveRun, threading.Event]):
    """Runs an analysis over sessions in threads of its own, so that a primary can say "look at this" and go on.

        >>> def analyse(run: ActiveRun) -> Notes:
        ...     answer = model.ask(prompt(run.transcript), timeout=run.remaining.total_seconds())
        ...     return Notes(summary=answer.summary, follow_up_suggestions=answer.suggestions)
        >>> with BackgroundObserver(analyse) as observer:
        ...     observer.submit("session-1")

    One run at a time per session, over the transcript as it is when the run begins. A session submitted again while it
    waits is run once; while it is running, once more.

    An analysis that raises, returns None, or overruns `time_limit` leaves a run that failed. What goes wrong, a sidecar
    that does not answer included, is logged by the logger `session_notes` and never reaches the caller of `submit`. The
    log has a session by the start of its id's SHA-256 (`printf %s ID | sha256sum | cut -c1-8`), a run by its number.

    No thread can be stopped from outside. An analysis that overruns is given up, and whatever it returns is discarded,
    but it keeps its worker, and its session, until it returns: so give your model call a timeout of its own, as above.

    In a forked child it is empty and works: what was submitted before the fork is the parent's.

    Args:
        analyse: Makes notes of a run, in one of the threads; None: there are none this time.
        target: The sidecar's address, as for `ObserverClient`.
        token: What the sidecar knows this caller by, as for `ObserverClient`.
        tls: How to encrypt the connection, as for `ObserverClient`.
        client: A client to use instead, which stays open; then without all of these and `observer`.
        observer: Who observes; empty: `default`.
        max_workers: How many threads at most, and so how many analyses at once. They start when there is work for them.
        time_limit: How long an analysis may take.
        ttl: How long the notes count; None: as long as the session.

    Raises:
        InvalidArgument: An argument cannot work: an async function, for example, which `AsyncBackgroundObserver` takes.
    """

    def __init__(
        self,
        analyse: Callable[[ActiveRun], Notes | None],
        *,
        target: str | None = None,
        token: Token | None = None,
        tls: TLS | None = None,
        client: ObserverClient | None = None,
        observer: str = "",
        max_workers: int = 4,
        time_limit: timedelta = timedelta(minutes=2),
        ttl: timedelta | None = None,
    ) -> None:
        others = bool(target or observer or token or tls)
        _pool.check_settings(analyse, client, others, max_workers, time_limit, ttl, asynchronous=False)
        super().__init__(
            analyse,
            client or ObserverClient(target, token=token, tls=tls, observer=observer),
            own_client=client is None,
            max_workers=max_workers,
            time_limit=time_limit,
            ttl=ttl,
        )

    def _start_over(self) -> None:
        super()._start_over()
        # The conditions say what changed below the lock.
        self._work_came = threading.Condition(self._lock)
        self._run_began = threading.Condition(self._lock)
        self._all_done = threading.Condition(self._lock)
        # In the order they began. All have the same limit, so the first is the next to overrun.
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
        """Have the session looked at, as soon as a worker is free. Returns at once.

        Where no thread can be started, the session waits until one can: at the next submit, or when a worker is free.

        Raises:
            InvalidArgument: The id is none that a sidecar could be asked for: an int, None, a UUID object.
            UsageError: This observer is closed, or its process was forked at a moment after which gRPC does not work.
        """
        self._accept(session_id)

    def close(self, timeout: timedelta = _pool.CLOSE_TIMEOUT) -> bool:
        """Take nothing more, finish what was submitted, and stop; return whether all of it was finished in time.

        What waits when the time is up is dropped; what is running is recorded as failed, which takes at most 2 s more.
        While the sidecar cannot be reached, runs that have not begun are given up after 1.5 s.
        """
        _pool.check_timeout(timeout)
        with self._lock:
            self._closing = True
            self._start_workers()
            self._work_came.notify_all()
        given = time.monotonic()
        finished = self._wait_until_done(min(timeout, _pool.LAST_TRIES))
        if not finished and timeout > _pool.LAST_TRIES:
            self._stop_last_tries()
            finished = self._wait_until_done(timeout - timedelta(seconds=time.monotonic() - given))
        with self._lock:
            self._closed = True
            dropped = self._schedule.drop_queued()
            late = list(self._running)
            self._running.clear()
            self._work_came.notify_all()
            self._run_began.notify_all()
        self._stop_last_tries()
        self._log_dropped(dropped)
        start = time.monotonic()
        for run in late:
            left = _pool.until_given_up(time.monotonic() - start)
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

    def _stop_trying(self, job: Job[ActiveRun, threading.Event]) -> None:
        job.stop.set()

    def _start_workers(self) -> None:
        if self._schedule.queued:
            self._start_watchdog()
            self._work_came.notify(self._schedule.queued)
        # All workers that have no job are about to take one.
        missing = self._schedule.queued - (self._workers - len(self._schedule.jobs))
        for _ in range(min(missing, self._max_workers - self._workers)):
            if not self._started(self._work, f"observer-{self._workers}"):
                return
            self._workers += 1

    def _start_watchdog(self) -> None:
        if not self._watched:
            self._watched = self._started(self._watch, "watchdog")

    def _started(self, target: Callable[[], None], name: str) -> bool:
        try:
            # Daemons: an analysis that hangs must not keep the process from ending.
            threading.Thread(target=target, name=f"session-notes-{name}", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            log(logging.WARNING, "no thread for the background observer: %s", type(error).__name__)
            return False
        return True

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                with _spans.of_run(job.submitters):
                    self._observe(job)
            except BaseException as error:
                # A bug of ours must not cost a worker, and with it one analysis at a time for good.
                self._log_bug(job, error)
            finally:
                self._done(job)

    def _take(self) -> Job[ActiveRun, threading.Event] | None:
        with self._work_came:
            while not self._schedule.queued:
                if self._closing:
                    self._workers -= 1
                    return None
                self._work_came.wait()
            job = self._schedule.take(threading.Event())
            if self._last_tries_over:
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
            try:
                notes = self._analyse(run)
            except BaseException as error:
                self._log_analysis(run, error)
                run._fail_quietly(self._overrun_or(run, for_logs(error)))
            else:
                self._conclude(run, notes)
        finally:
            with self._run_began:
                self._running.pop(run, None)

    def _begin(self, job: Job[ActiveRun, threading.Event]) -> ActiveRun | None:
        try:
            call = self._begin_call(job.session_id)
            begun = self._client._transport.send(call, None, self._client._timeout, job.stop)
            with self._run_began:
                deadline = time.monotonic() + self._time_limit.total_seconds()
                run = ActiveRun(self._client, job.session_id, begun, deadline)
                if job.forgotten:
                    # It ends with its session.
                    return None
                job.run = run
                closed = self._closed
                if not closed:
                    self._running[run] = deadline
                    self._start_watchdog()
                    self._run_began.notify()
        except Exception as error:
            self._log_not_begun(job, error)
            return None
        finally:
            job.begun.set_result(None)
        if closed:
            run._fail_quietly(_pool.CLOSED)
            return None
        return run

    def _conclude(self, run: ActiveRun, notes: Any) -> None:
        if notes is None:
            if not run.ended:
                self._log_run(run, self._overrun_or(run, _pool.WITHOUT_NOTES))
            run._fail_quietly(self._overrun_or(run, ENDED_WITHOUT_NOTES))
            return
        if inspect.iscoroutine(notes):
            notes.close()
            self._log_run(run, _COROUTINE)
            run._fail_quietly(_COROUTINE)
            return
        try:
            run.write(notes, ttl=self._ttl)
        except (SessionDeleted, Unavailable) as error:
            # Nothing to record where the session is gone. Where there is no answer, the lease runs out instead.
            self._log_run(run, f"the notes could not be written: {for_logs(error)}")
        except Exception as error:
            self._log_run(run, f"the notes were not written: {for_logs(error)}")
            run._fail_quietly(self._overrun_or(run, for_logs(error)))

    def _watch(self) -> None:
        while (run := self._next_overrun()) is not None:
            try:
                run._context.run(self._give_up, run)
            except BaseException as error:
                # The runs after this one have a limit, too.
                log(logging.ERROR, "%s in the background observer's watchdog", type(error).__name__)

    def _next_overrun(self) -> ActiveRun | None:
        with self._run_began:
            while not self._closed:
                run = next(iter(self._running), None)
                left = self._running[run] - time.monotonic() if run else None
                if run and left is not None and left <= 0:
                    del self._running[run]
                    return run
                self._run_began.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
            return None

    def _give_up(self, run: ActiveRun) -> None:
        if run._fail_quietly(self._overrun):
            self._log_run(run, self._overrun)
