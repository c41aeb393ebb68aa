"""What both background observers share: settings, rules and words. How they wait is theirs: threads, or tasks."""

import functools
import inspect
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Generic, TypeVar

from session_notes import _calls, _forks, _pending, _spans
from session_notes._async_observer import AsyncObserverClient
from session_notes._calls import Call
from session_notes._errors import InvalidArgument, UsageError, for_logs, refusal
from session_notes._observer import DEFAULT_RUN_TIMEOUT, ObserverClient
from session_notes._runs import FAIL_TIMEOUT, RunAtWork, log, log_name
from session_notes._schedule import Job, Schedule
from session_notes._types import BeginResult

Client = TypeVar("Client", bound=ObserverClient | AsyncObserverClient)
Run = TypeVar("Run", bound=RunAtWork)
Stop = TypeVar("Stop")

CLOSED = "observer closed"
WITHOUT_NOTES = "the analysis returned no notes"
CLOSE_TIMEOUT = timedelta(seconds=10)
LAST_TRIES = timedelta(seconds=1.5)
"""How long after `close` a run that could not begin is tried again: gRPC connects anew once a second."""

_LONGEST = timedelta(days=36_500)
_PACKAGE = os.path.dirname(__file__) + os.sep


class Pool(ABC, Generic[Client, Run, Stop]):
    """A background observer without its threads or tasks."""

    def __init__(
        self,
        analyse: Callable[[Run], Any],
        client: Client,
        *,
        own_client: bool,
        max_workers: int,
        time_limit: timedelta,
        ttl: timedelta | None,
    ) -> None:
        self._analyse = analyse
        self._client = client
        self._own_client = own_client
        self._max_workers = max_workers
        self._time_limit = time_limit
        self._overrun = f"time limit of {time_limit.total_seconds():g} s passed"
        # Should this process die, its run is abandoned soon after its limit. Until then an overrun may be recorded.
        self._lease = time_limit + DEFAULT_RUN_TIMEOUT
        self._ttl = ttl
        self._closing = False
        self._closed = False
        self._start_over()
        _forks.register(self)
        _pending.register(client._transport.target, self)

    @abstractmethod
    def _start_over(self) -> None:
        """Begin with no work and no workers: at the start, and in a forked child, whose parent keeps its own."""
        # The one lock over everything that changes. Never held while waiting.
        self._lock = threading.Lock()
        self._schedule: Schedule[Run, Stop] = Schedule()
        # A run that cannot begin is not tried again, since the observer is closing.
        self._last_tries_over = False

    def _forked(self) -> None:
        self._start_over()

    @abstractmethod
    def _start_workers(self) -> None:
        """Start workers for what waits, where there may be more. Called with the lock held."""

    @abstractmethod
    def _stop_trying(self, job: Job[Run, Stop]) -> None:
        """Set the job's `stop`."""

    @abstractmethod
    def _work_ended(self) -> None:
        """Wake `close`. Called with the lock held."""

    def _accept(self, session_id: str) -> None:
        # What the sidecar could not be asked is refused here, and not found in the log.
        self._begin_call(session_id)
        _forks.check()
        submitter = _spans.here()
        with self._lock:
            if self._closing:
                raise UsageError("this observer is closed")
            self._schedule.submit(session_id, submitter)
            self._start_workers()

    def _begin_call(self, session_id: str) -> Call[BeginResult]:
        run_id = _calls.new_run_id()
        return _calls.begin_run(session_id, self._client.observer, run_id, None, self._lease, False, True)

    def _forget(self, session_id: str) -> "Future[None] | None":
        with self._lock:
            job = self._schedule.forget(session_id)
            self._work_ended()
            if job is None:
                return None
            if job.run is not None:
                job.run._session_deleted()
                return None
            self._stop_trying(job)
            return job.begun

    def _turn_count(self, session_id: str) -> None:
        return None

    def _stop_last_tries(self) -> None:
        with self._lock:
            self._last_tries_over = True
            for job in self._schedule.jobs.values():
                self._stop_trying(job)

    def _log_not_begun(self, job: Job[Run, Stop], error: BaseException) -> None:
        if not job.forgotten:
            log(logging.WARNING, "session %s: no run could begin: %s", log_name(job.session_id), for_logs(error))
            _spans.fail()

    def _log_run(self, run: RunAtWork, text: str) -> None:
        log(logging.WARNING, "session %s, run %d: %s", log_name(run.session_id), run.number, text)
        _spans.fail()

    def _log_analysis(self, run: RunAtWork, error: BaseException) -> None:
        # Names and places: the text of what an analysis raises may hold what the user said.
        self._log_run(run, f"the analysis raised {for_logs(error)}{_place_of(error)}")

    def _log_bug(self, job: Job[Run, Stop], error: BaseException) -> None:
        session = log_name(job.session_id)
        log(logging.ERROR, "session %s: %s in the background observer", session, type(error).__name__)

    def _log_dropped(self, count: int) -> None:
        if count:
            log(logging.WARNING, "the background observer was closed with %d sessions waiting", count)

    def _overrun_or(self, run: RunAtWork, reason: str) -> str:
        return reason if run.remaining else self._overrun


def check_settings(
    analyse: object,
    client: object,
    others: bool,
    max_workers: int,
    time_limit: timedelta,
    ttl: timedelta | None,
    *,
    asynchronous: bool,
) -> None:
    """Refuse what cannot work when an observer is made, rather than in its log later.

    Raises:
        InvalidArgument: One of the arguments cannot work.
    """
    _check_analysis(analyse, asynchronous)
    wanted, other = (AsyncObserverClient, ObserverClient) if asynchronous else (ObserverClient, AsyncObserverClient)
    if client is not None and not isinstance(client, wanted):
        hint = "" if not isinstance(client, other) else f": {_class(not asynchronous)} takes that"
        kind = type(client).__name__
        raise InvalidArgument(f"client must be a session_notes.{wanted.__name__}, not {kind}{hint}")
    if client is not None and others:
        raise InvalidArgument("give a client, or what to make one with: target, token, tls, observer")
    if not isinstance(max_workers, int):
        raise refusal("max_workers", f"must be an int, not {type(max_workers).__name__}")
    if max_workers < 1:
        raise refusal("max_workers", "must be at least 1")
    for name, span in (("time_limit", time_limit), ("ttl", ttl)):
        if span is None and name == "ttl":
            continue
        if not isinstance(span, timedelta):
            raise refusal(name, f"must be a datetime.timedelta, not {type(span).__name__}")
        if not timedelta() < span <= _LONGEST:
            raise refusal(name, "must be above 0 and at most 100 years")


def check_timeout(timeout: timedelta) -> None:
    """Refuse what is no timeout of `close`, before anything is closed.

    Raises:
        InvalidArgument: It is no timedelta.
    """
    if not isinstance(timeout, timedelta):
        raise refusal("timeout", f"must be a datetime.timedelta, not {type(timeout).__name__}")


def _check_analysis(analyse: object, asynchronous: bool) -> None:
    if inspect.iscoroutine(analyse):
        analyse.close()
        raise InvalidArgument(f"give the async function itself, not a call of it, to {_class(True)}")
    if not callable(analyse):
        raise InvalidArgument(f"analyse must be a function of a run, not {type(analyse).__name__}")
    if asynchronous and not _is_async(inspect.unwrap(analyse)) and not _is_async(analyse):
        raise InvalidArgument(f"analyse must be an async function; {_class(False)} takes others")
    if not asynchronous and _is_async(analyse):
        raise InvalidArgument(f"analyse must not be an async function; {_class(True)} takes those")


def _is_async(analyse: Any) -> bool:
    while isinstance(analyse, functools.partial):
        analyse = analyse.func
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (analyse, type(analyse).__call__)
    )


def _class(asynchronous: bool) -> str:
    return "AsyncBackgroundObserver" if asynchronous else "BackgroundObserver"


def _place_of(error: BaseException) -> str:
    """Return the application's innermost line that led to it, for the log; empty where there is none."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(_PACKAGE):
            place = f" at {file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def seconds(span: timedelta) -> float:
    """Return a span as the standard library's waits take it."""
    return min(span.total_seconds(), threading.TIMEOUT_MAX)


def until_given_up(passed: float) -> timedelta:
    """Return what is left for recording what `close` ends, after so many seconds."""
    return max(timedelta(), FAIL_TIMEOUT - timedelta(seconds=passed))
