"""Core of both background observers: arguments, rules and log messages, without threads or tasks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, ClassVar, Generic, TypeVar

from session_notes import _forks, _notes_calls, _pending, _spans
from session_notes._async_observer import AsyncObserverClient
from session_notes._calls import Call
from session_notes._credentials import TLS, Token
from session_notes._errors import InvalidArgument, SessionDeleted, Unavailable, UsageError, for_logs, invalid
from session_notes._limits import DEFAULT_RUN_TIMEOUT, DEFAULT_TIME_LIMIT, FAIL_TIMEOUT, MAX_TIMEOUT
from session_notes._logs import log, session_digest, warn
from session_notes._observer import ObserverClient
from session_notes._results import BeginResult
from session_notes._runs import ENDED_WITHOUT_NOTES, BaseRun
from session_notes._schedule import Job, Schedule

Client = TypeVar("Client", bound=ObserverClient | AsyncObserverClient)
Run = TypeVar("Run", bound=BaseRun)
Stop = TypeVar("Stop")
Analysis = TypeVar("Analysis")

CLOSED = "observer closed"

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
    ) -> None:
        _check_analysis(analyse, self._asynchronous)
        self._check_client(client, connects=bool(target or observer or token or tls))
        _check_limits(max_workers, time_limit, ttl)
        self._analyse = analyse
        self._own_client = client is None
        self._client: Any = client or self._client_type(target, token=token, tls=tls, observer=observer)
        self._max_workers = max_workers
        self._time_limit = time_limit
        self._overrun = f"time limit of {time_limit.total_seconds():g} s passed"
        # If this process dies, its run is abandoned soon after the time limit. Before that, an overrun can be recorded.
        self._lease = time_limit + DEFAULT_RUN_TIMEOUT
        self._ttl = ttl
        self._closing = False
        self._closed = False
        self._reset()
        _forks.register(self)
        _pending.register(self._client._transport.target, self)

    @abstractmethod
    def _reset(self) -> None:
        """Set up an empty state, on creation and in a forked child: work and workers remain with the parent."""
        # Protects all mutable state. Never held while waiting.
        self._lock = threading.Lock()
        self._schedule: Schedule[Run, Stop] = Schedule()
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
        self._begin_call(session_id)
        _forks.check()
        submitter = _spans.current_span()
        with self._lock:
            if self._closing:
                raise UsageError("this observer is closed")
            self._schedule.submit(session_id, submitter)
            self._start_workers()

    def _begin_call(self, session_id: str) -> Call[BeginResult]:
        return _notes_calls.begin_run(
            session_id,
            self._client.observer,
            run_id=None,
            observed_turn=None,
            lease=self._lease,
            only_if_idle=False,
            include_transcript=True,
            after_turn=None,
            after_current_notes=False,
            max_turns=None,
            include_current_notes=False,
        )

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
        if isinstance(error, SessionDeleted | Unavailable):
            # A deleted session has no runs. Without a response, the lease expires instead.
            self._log_run(run, f"the notes could not be written: {for_logs(error)}")
            return None
        self._log_run(run, f"the notes were not written: {for_logs(error)}")
        return self._overrun_or(run, for_logs(error))

    def _overrun_or(self, run: Run, reason: str) -> str:
        return reason if run.remaining else self._overrun

    def _log_not_begun(self, job: Job[Run, Stop], error: BaseException) -> None:
        if not job.forgotten:
            warn("session %s: no run could begin: %s", session_digest(job.session_id), for_logs(error))
            _spans.mark_failed()

    def _log_run(self, run: BaseRun, text: str) -> None:
        warn("session %s, run %d: %s", session_digest(run.session_id), run.number, text)
        _spans.mark_failed()

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


def rest_of_fail_timeout(elapsed: float) -> timedelta:
    """Return the time left for recording the failure of runs that `close` ends."""
    return max(timedelta(), FAIL_TIMEOUT - timedelta(seconds=elapsed))


def _check_limits(max_workers: int, time_limit: timedelta, ttl: timedelta | None) -> None:
    if not isinstance(max_workers, int):
        raise invalid("max_workers", f"must be an int, not {type(max_workers).__name__}")
    if max_workers < 1:
        raise invalid("max_workers", "must be at least 1")
    for name, span in (("time_limit", time_limit), ("ttl", ttl)):
        if span is None and name == "ttl":
            continue
        if not isinstance(span, timedelta):
            raise invalid(name, f"must be a datetime.timedelta, not {type(span).__name__}")
        if not timedelta() < span <= MAX_TIMEOUT:
            raise invalid(name, "must be above 0 and at most 100 years")


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
