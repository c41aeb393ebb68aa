"""Observers in the background: a thread pool that keeps the newest notes on every session it is told about."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from enum import Enum, auto
from types import TracebackType
from typing import TYPE_CHECKING, Self

from session_notes import _spans
from session_notes._credentials import TLS, Token
from session_notes._errors import InvalidArgument, SessionDeleted, SessionNotesError, Unavailable, UsageError
from session_notes._observer import DEFAULT_RUN_TIMEOUT, ObserverClient
from session_notes._runs import ENDED_WITHOUT_NOTES, FAIL_TIMEOUT, LOGGER, ActiveRun, log_name
from session_notes._types import BeginResult, Notes

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

_CLOSED = "observer closed"
_MOST_LINKS = 16
"""Of a run that was submitted more often, the last submits count."""


class _Stage(Enum):
    """Where a session is. One that is nowhere has nothing to do."""

    QUEUED = auto()
    RUNNING = auto()
    AGAIN = auto()
    """Running, and submitted meanwhile: one more run is to follow."""


class BackgroundObserver:
    """Runs an analysis over sessions in threads of its own, so that a primary can say "look at this" and go on.

        >>> def analyse(run: ActiveRun) -> Notes:
        ...     answer = model.ask(prompt(run.transcript), timeout=run.remaining.total_seconds())
        ...     return Notes(summary=answer.summary, follow_up_suggestions=answer.suggestions)
        >>> with BackgroundObserver(analyse) as observer:
        ...     observer.submit("session-1")

    One run at a time per session, over the transcript as it is when the run begins. A session submitted again while it
    waits is run once; while it is at work, once more.

    An analysis that raises, returns None, or overruns `time_limit` leaves a run that failed. What goes wrong, a sidecar
    that does not answer included, is logged by the logger `session_notes` and never reaches the caller of `submit`. The
    log has a session by the start of its id's SHA-256 (`printf %s ID | sha256sum | cut -c1-8`), a run by its number.

    No thread can be stopped from outside. An analysis that overruns is given up, and whatever it returns is discarded,
    but it keeps its worker, and its session, until it returns: so give your model call a timeout of its own, as above.

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
        if client is not None and (target or observer or token or tls):
            raise InvalidArgument("give a client, or what to make one with: target, token, tls, observer")
        if max_workers < 1:
            raise InvalidArgument("max_workers must be at least 1")
        if time_limit <= timedelta():
            raise InvalidArgument("time_limit must be above 0")
        self._analyse = analyse
        self._own_client = client is None
        self._client = client or ObserverClient(target, token=token, tls=tls, observer=observer)
        self._max_workers = max_workers
        self._time_limit = time_limit
        self._overrun = f"time limit of {time_limit.total_seconds():g} s passed"
        # Should this process die, nobody waits for the run much longer than for one that overruns and is written late.
        self._lease = time_limit + DEFAULT_RUN_TIMEOUT
        self._ttl = ttl

        # The one lock over everything below; the conditions say what changed.
        lock = threading.Lock()
        self._work_came = threading.Condition(lock)
        self._run_began = threading.Condition(lock)
        self._all_done = threading.Condition(lock)
        self._stages: dict[str, _Stage] = {}
        self._queue: deque[str] = deque()
        # Where they were submitted, for those who trace.
        self._submitters: dict[str, deque[SpanContext]] = {}
        # In the order they began. All have the same limit, so the first is the next to overrun.
        self._running: dict[ActiveRun, float] = {}
        self._workers = 0
        self._idle = 0
        self._closing = False
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, session_id: str) -> None:
        """Has the session looked at, as soon as a worker is free. Returns at once.

        Raises:
            UsageError: This observer is closed.
        """
        submitter = _spans.here()
        with self._work_came:
            if self._closing:
                raise UsageError("this observer is closed")
            if submitter is not None:
                self._submitters.setdefault(session_id, deque(maxlen=_MOST_LINKS)).append(submitter)
            stage = self._stages.get(session_id)
            if stage is _Stage.RUNNING:
                self._stages[session_id] = _Stage.AGAIN
            elif stage is None:
                self._start_worker_if_needed()
                self._enqueue(session_id)

    def close(self, timeout: timedelta = timedelta(seconds=10)) -> bool:
        """Takes nothing more, finishes what was submitted, and stops; whether all of it was finished in time.

        What waits when the time is up is dropped; what is at work is recorded as failed, which takes at most 2 s more.
        """
        with self._all_done:
            self._closing = True
            self._work_came.notify_all()
            finished = self._all_done.wait_for(lambda: not self._stages, timeout.total_seconds())
            self._closed = True
            for session_id in self._queue:
                del self._stages[session_id]
            self._queue.clear()
            late = list(self._running)
            self._running.clear()
            self._work_came.notify_all()
            self._run_began.notify_all()
        give_up = time.monotonic() + FAIL_TIMEOUT.total_seconds()
        for run in late:
            run._context.run(run._fail_quietly, _CLOSED, timedelta(seconds=max(0.0, give_up - time.monotonic())))
        if self._own_client:
            self._client.close()
        return finished

    def _enqueue(self, session_id: str) -> None:
        self._stages[session_id] = _Stage.QUEUED
        self._queue.append(session_id)
        self._work_came.notify()

    def _start_worker_if_needed(self) -> None:
        if self._idle > len(self._queue) or self._workers == self._max_workers:
            return
        # Daemons: an analysis that hangs must not keep the process from ending.
        if self._workers == 0:
            threading.Thread(target=self._watch, name="session-notes-watchdog", daemon=True).start()
        threading.Thread(target=self._work, name=f"session-notes-observer-{self._workers}", daemon=True).start()
        self._workers += 1

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            session_id, submitters = taken
            try:
                with _spans.of_run(submitters):
                    self._observe(session_id)
            except Exception as error:
                # A bug of ours must not cost a worker, and with it one analysis at a time for good.
                LOGGER.error("session %s: %s in the background observer", log_name(session_id), type(error).__name__)
            finally:
                self._done(session_id)

    def _take(self) -> "tuple[str, Iterable[SpanContext]] | None":
        with self._work_came:
            while not self._queue:
                if self._closing:
                    return None
                self._idle += 1
                self._work_came.wait()
                self._idle -= 1
            session_id = self._queue.popleft()
            self._stages[session_id] = _Stage.RUNNING
            return session_id, self._submitters.pop(session_id, ())

    def _done(self, session_id: str) -> None:
        with self._all_done:
            again = self._stages.pop(session_id) is _Stage.AGAIN
            if again and not self._closed:
                self._enqueue(session_id)
            if not self._stages:
                self._all_done.notify_all()

    def _observe(self, session_id: str) -> None:
        try:
            begun = self._client.begin_run(session_id, lease=self._lease)
        except SessionNotesError as error:
            LOGGER.warning("session %s: no run could begin: %s", log_name(session_id), type(error).__name__)
            _spans.fail()
            return
        run = self._began(session_id, begun)
        try:
            if run.ended:
                return
            try:
                notes = self._analyse(run)
            except BaseException as error:
                # Names and places alone, here and below: what an analysis raises may hold what the user said.
                self._log(run, f"the analysis raised {type(error).__name__}{_place_of(error)}")
                run._fail_quietly(self._overrun_or(run, type(error).__name__))
            else:
                self._conclude(run, notes)
        finally:
            with self._run_began:
                self._running.pop(run, None)

    def _began(self, session_id: str, begun: BeginResult) -> ActiveRun:
        with self._run_began:
            deadline = time.monotonic() + self._time_limit.total_seconds()
            run = ActiveRun(self._client, session_id, begun, deadline)
            closed = self._closed
            if not closed:
                self._running[run] = deadline
                self._run_began.notify()
        if closed:
            run._fail_quietly(_CLOSED)
        return run

    def _conclude(self, run: ActiveRun, notes: Notes | None) -> None:
        if notes is None:
            run._fail_quietly(self._overrun_or(run, ENDED_WITHOUT_NOTES))
            return
        try:
            run.write(notes, ttl=self._ttl)
        except (SessionDeleted, Unavailable) as error:
            # Nothing to record where the session is gone. Where nobody answers, the lease runs out instead.
            self._log(run, f"the notes could not be written: {type(error).__name__}")
        except SessionNotesError as error:
            self._log(run, f"the notes were not written: {type(error).__name__}")
            run._fail_quietly(self._overrun_or(run, type(error).__name__))

    def _overrun_or(self, run: ActiveRun, reason: str) -> str:
        return reason if run.remaining else self._overrun

    def _watch(self) -> None:
        while (run := self._next_overrun()) is not None:
            run._context.run(self._give_up, run)

    def _next_overrun(self) -> ActiveRun | None:
        with self._run_began:
            while not self._closed:
                run = next(iter(self._running), None)
                left = self._running[run] - time.monotonic() if run else None
                if run and left is not None and left <= 0:
                    del self._running[run]
                    return run
                self._run_began.wait(left)
            return None

    def _give_up(self, run: ActiveRun) -> None:
        if run._fail_quietly(self._overrun):
            self._log(run, self._overrun)

    def _log(self, run: ActiveRun, what: str) -> None:
        LOGGER.warning("session %s, run %d: %s", log_name(run.session_id), run.number, what)
        _spans.fail()


def _place_of(error: BaseException) -> str:
    """Where it was raised, for the log; empty where that is not known."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
