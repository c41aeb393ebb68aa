"""Core of both background observers: arguments, rules and log messages, without threads or tasks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, ClassVar, Generic, Literal, TypeVar

from session_notes import _forks, _notes_calls, _pending, _spans, _state_calls
from session_notes._async_observer import AsyncObserverClient
from session_notes._brakes import DEFAULT_BRAKES, Brakes
from session_notes._calls import Call, check_span
from session_notes._credentials import TLS, Token
from session_notes._errors import (
    InvalidArgument,
    RunInFlight,
    SessionDeleted,
    Unavailable,
    UsageError,
    for_logs,
    invalid,
)
from session_notes._leases import DEFAULT_LEASE, Leases
from session_notes._limits import DEFAULT_TIME_LIMIT, FAIL_TIMEOUT
from session_notes._logs import RepeatedWarnings, log, session_digest, warn
from session_notes._observer import ObserverClient
from session_notes._results import BeginResult, DueSession, Reading
from session_notes._results import Run as RunResult
from session_notes._runs import ENDED_WITHOUT_NOTES, BaseRun
from session_notes._schedule import Job, Schedule, Submission

Client = TypeVar("Client", bound=ObserverClient | AsyncObserverClient)
Run = TypeVar("Run", bound=BaseRun)
Stop = TypeVar("Stop")
Analysis = TypeVar("Analysis")

CLOSED = "observer closed"
OBSOLETE = "obsolete: a newer run was faster"
NOTHING_NEW = "nothing new: another run was faster"

MAX_QUEUED_BY_SWEEP = 1000
"""Number of queued sessions at which a sweep ends. The next one finds the others: the work is shared meanwhile."""

DUE_TIMEOUT = timedelta(seconds=10)
"""Timeout of a page of due sessions. The sidecar scans its store for it."""

_COROUTINE = "the analysis returned a coroutine; for an async function, use AsyncBackgroundObserver"
_PACKAGE = os.path.dirname(__file__) + os.sep


class Pool(ABC, Generic[Client, Run, Stop, Analysis]):
    """A background observer without its threads or tasks. `BackgroundObserver` documents the arguments."""

    _client_type: ClassVar[type[ObserverClient | AsyncObserverClient]]
    _other_client_type: ClassVar[type[ObserverClient | AsyncObserverClient]]
    _asynchronous: ClassVar[bool]

    def __init__(
        self,
        analyse: Callable[[Run], Analysis],
        *,
        target: str | None = None,
        token: Token | None = None,
        tls: TLS | None = None,
        client: Client | None = None,
        observer: str = "",
        max_workers: int = 4,
        time_limit: timedelta = DEFAULT_TIME_LIMIT,
        ttl: timedelta | None = None,
        lease: timedelta = DEFAULT_LEASE,
        transcript: Literal["all", "new"] = "all",
        max_turns: int | None = None,
        min_interval: timedelta | None = None,
        min_new_turns: int | None = None,
        quiet_for: timedelta | None = None,
        max_runs: int | None = None,
        brakes: bool = True,
    ) -> None:
        _check_analysis(analyse, self._asynchronous)
        self._check_client(client, connects=bool(target or observer or token or tls))
        _check_number("max_workers", max_workers, 1)
        for name, span in (("time_limit", time_limit), ("lease", lease), *((("ttl", ttl),) if ttl is not None else ())):
            check_span(name, span)
        if transcript not in ("all", "new"):
            raise invalid("transcript", "must be 'all' or 'new'")
        if max_turns is not None:
            _check_number("max_turns", max_turns, 1)
        self._analyse = analyse
        self._own_client = client is None
        self._client: Any = client or self._client_type(target, token=token, tls=tls, observer=observer)
        self._max_workers = max_workers
        self._time_limit = time_limit
        self._overrun = f"time limit of {time_limit.total_seconds():g} s passed"
        self._lease = lease
        self._ttl = ttl
        self._new_turns_only = transcript == "new"
        self._max_turns = max_turns
        self._brakes = _brakes_from(min_interval, min_new_turns, quiet_for, max_runs, brakes)
        self._closing = False
        self._closed = False
        self._reset()
        _forks.register(self)
        _pending.register(self._client._transport.target, self)

    @abstractmethod
    def _reset(self) -> None:
        """Set up an empty state, on creation and in a forked child: work and workers remain with the parent."""
        # Protects all mutable state. Never held while waiting. Like every lock of this package, it is reentrant: a
        # signal handler or finalizer of the application may interrupt its holder, and submit or close.
        self._lock = threading.RLock()
        self._schedule: Schedule[Run, Stop] = Schedule(self._brakes)
        self._leases: Leases[Run] = Leases(self._lease, self._time_limit)
        self._warnings = RepeatedWarnings()
        # Whether BeginRun is no longer retried, because the observer is closing.
        self._stopped_retrying = False

    def _forked(self) -> None:
        self._reset()

    @abstractmethod
    def _start_workers(self) -> None:
        """Start workers for queued sessions, up to the maximum. Called with the lock held."""

    @abstractmethod
    def _stop_retrying(self, job: Job[Run, Stop]) -> None:
        """Set the job's `stop` event."""

    @abstractmethod
    def _work_ended(self) -> None:
        """Wake `close`. Called with the lock held."""

    def _accept(self, session_id: str) -> None:
        # Encoding the call rejects an invalid id here, and not later in the log.
        self._begin_call(session_id, self._lease, only_if_idle=False)
        _forks.check()
        submitter = _spans.current_span()
        with self._lock:
            if self._closing:
                raise UsageError("this observer is closed")
            accepted = self._schedule.submit(session_id, submitter, time.monotonic())
            self._start_workers()
        if not accepted:
            self._log_exhausted(session_id)

    def _accept_due(self, due: DueSession) -> bool:
        """Queue a session that the sweep has found, and return whether the sweep should continue."""
        with self._lock:
            if self._closing:
                return False
            accepted = self._schedule.sweep(due.session_id, time.monotonic(), _id_of(due.latest_run))
            self._start_workers()
            more = self._schedule.queued < MAX_QUEUED_BY_SWEEP
        if not accepted:
            self._log_exhausted(due.session_id)
        return more

    def _due_arguments(self) -> dict[str, Any]:
        """Return the arguments of `due_sessions` for a sweep."""
        return {
            "min_turns_behind": max(1, self._brakes.min_new_turns),
            "min_interval": timedelta(seconds=self._brakes.min_interval),
            "min_quiet": timedelta(seconds=self._brakes.quiet_for),
            "timeout": DUE_TIMEOUT,
        }

    def _ended(self, job: Job[Run, Stop]) -> None:
        """End a job."""
        with self._lock:
            accepted = self._schedule.done(job, time.monotonic())
            if self._closed:
                self._schedule.drop_submitted()
            self._start_workers()
            self._work_ended()
        if not accepted:
            self._log_exhausted(job.session_id)

    def _calls_to_begin(self, job: Job[Run, Stop]) -> Generator[Call[Any], Any, BeginResult | None]:
        """Yield the calls that begin a run, receive their results, and return the run. None: it is not necessary."""
        needed = self._needed_turns(job)
        if needed:
            # Read before the run begins, so that an unnecessary run leaves no record.
            reading = yield self._reading_call(job.session_id)
            if job.submission.swept and _id_of(reading.latest_run) != job.submission.latest_run:
                return None  # Another process ran the session while it waited here. A sweep finds it when it is due.
            if self._too_early(job.submission, reading):
                job.too_early = True
                return None
            turns_behind = reading.turns_behind
            if not reading.ready and (self._brakes.min_new_turns > 1 or job.submission.swept):
                session = yield _state_calls.get_session(job.session_id, False)
                turns_behind = session.turn_count
            if turns_behind is not None and turns_behind < needed:
                job.too_few_turns = turns_behind > 0 and not job.submission.swept
                return None
        job.lease = self._leases.first
        # Several processes may have waited for the same moment.
        only_if_idle = job.submission.swept or (needed > 0 and self._brakes.min_interval > 0 and not self._closing)
        begun: BeginResult = yield self._begin_call(job.session_id, job.lease, only_if_idle=only_if_idle)
        return begun

    def _too_early(self, submission: Submission, reading: Reading) -> bool:
        """Return whether the latest run, of another process, began less than `min_interval` ago.

        Unknown without current notes. Each run delays a submission once at most, however the store's clock is set.
        """
        run, latest, age = reading.run, reading.latest_run, reading.snapshot_age
        if self._closing or submission.swept or run is None or latest is None or age is None:
            return False
        if run.begin_time is not None and latest.begin_time is not None:
            age -= latest.begin_time - run.begin_time
        left = self._brakes.min_interval - age.total_seconds()
        if left <= 0 or latest.run_id == submission.after_run:
            return False
        submission.after_run, submission.not_before = latest.run_id, time.monotonic() + left
        return True

    def _reading_call(self, session_id: str) -> Call[Reading]:
        call = _notes_calls.get_notes(session_id, self._client.observer, None, None, None, None, unavailable_ok=False)
        call.retryable = True  # Unlike a primary, an observer can wait.
        return call

    def _needed_turns(self, job: Job[Run, Stop]) -> int:
        """Return how many new turns a session must have for a run. 0: any number, not checked."""
        needed = self._brakes.min_new_turns
        if self._closing:
            needed = min(needed, 1)
        return max(needed, 1) if job.submission.swept else needed

    def _unnecessary(self, job: Job[Run, Stop], begun: BeginResult) -> str | None:
        """Return why a run that has begun ends without an analysis. None: it is necessary."""
        if self._closed:
            return CLOSED
        if job.submission.swept and not begun.run.observed_turn:
            return NOTHING_NEW  # The session was deleted after it was found.
        # Another run may have written its notes between the check and BeginRun.
        nothing_new = begun.current is not None and begun.current.turns_behind == 0
        return NOTHING_NEW if nothing_new and self._needed_turns(job) else None

    def _begin_call(self, session_id: str, lease: timedelta, *, only_if_idle: bool) -> Call[BeginResult]:
        return _notes_calls.begin_run(
            session_id,
            self._client.observer,
            run_id=None,
            observed_turn=None,
            lease=lease,
            only_if_idle=only_if_idle,
            include_transcript=True,
            after_turn=None,
            after_current_notes=self._new_turns_only,
            max_turns=self._max_turns,
            include_current_notes=True,
        )

    def _begun(self, job: Job[Run, Stop], run: Run, begun: BeginResult) -> None:
        """Record a run that is about to be analysed. Called with the lock held."""
        now = time.monotonic()
        job.run = run
        self._schedule.began(job, now)
        self._leases.add(run, begun, job.lease, now)

    def _not_begun(self, job: Job[Run, Stop], error: Exception) -> None:
        """Record that no run could begin."""
        if isinstance(error, RunInFlight):
            # Another process was faster. If the session was submitted, a later run sees what that run does not.
            if not job.submission.swept:
                job.too_early = True
                job.submission.after_run = error.run.run_id
                job.submission.not_before = time.monotonic() + self._brakes.min_interval
            return
        job.failed = True
        job.unavailable = isinstance(error, Unavailable) and self._stays_submitted(job)
        if not job.forgotten:
            self._warnings.warn(f"session {session_digest(job.session_id)}", f"no run could begin: {for_logs(error)}")
            _spans.mark_failed()

    def _stays_submitted(self, job: Job[Run, Stop]) -> bool:
        """Return whether a session stays submitted after an outage. The sweep finds its sessions again."""
        # Without pauses between the attempts, an outage would be a loop.
        return self._brakes.backoff and not job.submission.swept

    def _concluded(self, job: Job[Run, Stop], run: Run) -> None:
        """Record how a run has ended."""
        if run._state == "written":
            job.failed = False
        elif not run.obsolete:
            job.failed = True
            # Of a run that is still open, an outage lost the notes.
            job.unavailable = not run.ended and self._stays_submitted(job)

    def _renewed(self, run: Run, error: Exception | None) -> None:
        """Record the outcome of a renewal."""
        with self._lock:
            failed = self._leases.renewed(run, error, time.monotonic())
        if failed and error is not None:
            self._log_run(run, f"its lease was not renewed: {for_logs(error)}", failed=False)

    def _forget(self, session_id: str) -> Future[None] | None:
        with self._lock:
            job = self._schedule.forget(session_id)
            self._work_ended()
            if job is None:
                return None
            if job.run is not None:
                job.run._session_deleted()
                return None
            self._stop_retrying(job)
            return job.begun

    def _turn_counts(self, session_id: str) -> None:
        return None

    def _stop_all_retries(self) -> None:
        with self._lock:
            self._stopped_retrying = True
            for job in self._schedule.jobs.values():
                self._stop_retrying(job)

    def _failure_without_notes(self, run: Run, notes: Any, error: BaseException | None) -> str | None:
        """Log why an analysis has no notes to write, and return the failure to record. None: it has notes."""
        if error is not None:
            # An overrun, which is logged already, cancels the analysis.
            if not (run.ended and isinstance(error, asyncio.CancelledError)):
                # The class and the location only. The text of an exception may contain what the user said.
                self._log_run(run, f"the analysis raised {for_logs(error)}{_location(error)}")
            return self._overrun_or(run, for_logs(error))
        if notes is None:
            if run.obsolete and not run.ended:
                return OBSOLETE
            if not run.ended:
                self._log_run(run, self._overrun_or(run, "the analysis returned no notes"))
            return self._overrun_or(run, ENDED_WITHOUT_NOTES)
        if inspect.iscoroutine(notes) and not self._asynchronous:
            notes.close()
            self._log_run(run, _COROUTINE)
            return _COROUTINE
        return None

    def _failure_of_write(self, run: Run, error: Exception) -> str | None:
        """Log why the notes were not written, and return the failure to record. None: there is nothing to record."""
        if isinstance(error, SessionDeleted):
            run._session_deleted()
        if isinstance(error, SessionDeleted | Unavailable):
            # A deleted session has no runs. Without a response, the lease expires instead.
            self._log_run(run, f"the notes could not be written: {for_logs(error)}")
            return None
        if run._failure == self._overrun:
            return None  # The overrun is logged and recorded already.
        self._log_run(run, f"the notes were not written: {for_logs(error)}")
        return self._overrun_or(run, for_logs(error))

    def _overrun_or(self, run: Run, reason: str) -> str:
        return reason if run.remaining else self._overrun

    def _log_run(self, run: BaseRun, problem: str, *, failed: bool = True) -> None:
        self._warnings.warn(f"session {session_digest(run.session_id)}, run {run.number}", problem)
        if failed:
            _spans.mark_failed()

    def _log_exhausted(self, session_id: str) -> None:
        with self._lock:
            history = self._schedule.histories.get(session_id)
            if history is None or history.reported:
                return
            history.reported = True
        runs = self._brakes.max_runs
        self._warnings.warn(f"session {session_digest(session_id)}", f"max_runs of {runs:g} reached, no further runs")

    def _log_sweep(self, error: Exception) -> None:
        self._warnings.warn("sweep", f"the due sessions could not be listed: {for_logs(error)}")

    def _log_bug(self, job: Job[Run, Stop], error: BaseException) -> None:
        session = session_digest(job.session_id)
        log(logging.ERROR, "session %s: %s in the background observer", session, type(error).__name__)

    def _log_dropped(self, count: int) -> None:
        if count:
            warn("the background observer was closed with %d sessions waiting", count)

    def _check_client(self, client: object, *, connects: bool) -> None:
        if client is None:
            return
        if not isinstance(client, self._client_type):
            kind = type(client).__name__
            hint = ""
            if isinstance(client, self._other_client_type):
                hint = f"; for an {self._other_client_type.__name__}, use {_class(not self._asynchronous)}"
            raise InvalidArgument(f"client must be a session_notes.{self._client_type.__name__}, not {kind}{hint}")
        if connects:
            raise InvalidArgument("pass either client, or target, token, tls and observer to create one")


def seconds(span: timedelta) -> float:
    """Return a span in seconds, limited to what the standard library can wait for."""
    return min(span.total_seconds(), threading.TIMEOUT_MAX)


def seconds_until(moment: float) -> float:
    """Return the seconds until a monotonic time, limited like `seconds`."""
    return min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)


def rest_of_fail_timeout(elapsed: float) -> timedelta:
    """Return the time left for recording the failure of runs that `close` ends."""
    return max(timedelta(), FAIL_TIMEOUT - timedelta(seconds=elapsed))


def check_pending(pending: str) -> None:
    """Reject an unknown way of closing."""
    if pending not in ("run", "drop"):
        raise invalid("pending", "must be 'run' or 'drop'")


def _check_number(name: str, number: int, minimum: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise invalid(name, f"must be an int, not {type(number).__name__}")
    if number < minimum:
        raise invalid(name, f"must be at least {minimum}")


def _brakes_from(
    min_interval: timedelta | None,
    min_new_turns: int | None,
    quiet_for: timedelta | None,
    max_runs: int | None,
    on: bool,
) -> Brakes:
    """Return the brakes for the arguments of an observer. Those that are None have their default, or are off."""
    if not isinstance(on, bool):
        raise invalid("brakes", f"must be a bool, not {type(on).__name__}")
    for name, span in (("min_interval", min_interval), ("quiet_for", quiet_for)):
        if span is not None:
            check_span(name, span, zero=True)
    for name, number, minimum in (("min_new_turns", min_new_turns, 0), ("max_runs", max_runs, 1)):
        if number is not None:
            _check_number(name, number, minimum)
    brakes = DEFAULT_BRAKES if on else Brakes()
    if min_interval is not None:
        brakes = brakes._replace(min_interval=min_interval.total_seconds())
    if min_new_turns is not None:
        brakes = brakes._replace(min_new_turns=min_new_turns)
    if quiet_for is not None:
        brakes = brakes._replace(quiet_for=quiet_for.total_seconds())
    if max_runs is not None:
        brakes = brakes._replace(max_runs=max_runs)
    return brakes


def _check_analysis(analyse: object, asynchronous: bool) -> None:
    if inspect.iscoroutine(analyse):
        analyse.close()
        raise InvalidArgument(f"pass the async function itself, not a call of it, to {_class(True)}")
    if not callable(analyse):
        raise InvalidArgument(f"analyse must be a function of a run, not {type(analyse).__name__}")
    if asynchronous and not _is_async(inspect.unwrap(analyse)) and not _is_async(analyse):
        raise InvalidArgument(f"analyse must be an async function; for a plain function, use {_class(False)}")
    if not asynchronous and _is_async(analyse):
        raise InvalidArgument(f"analyse must be a plain function; for an async function, use {_class(True)}")


def _is_async(analyse: Any) -> bool:
    while isinstance(analyse, functools.partial):
        analyse = analyse.func
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (analyse, type(analyse).__call__)
    )


def _id_of(run: RunResult | None) -> str:
    return "" if run is None else run.run_id


def _class(asynchronous: bool) -> str:
    return "AsyncBackgroundObserver" if asynchronous else "BackgroundObserver"


def _location(error: BaseException) -> str:
    """Return the application's innermost line in a traceback, for the log. Empty if there is none."""
    location, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(_PACKAGE):
            location = f" at {file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return location
