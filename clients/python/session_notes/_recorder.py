"""Recorder: stores turns in the background, and submits runs for them.

`Recorder` has the code that both recorders share. `TurnRecorder` runs it in a thread, `AsyncTurnRecorder` in
`_async_recorder` in a task. tests/clients/test_counterparts.py compares the two.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from session_notes import _calls, _delivery, _exit, _forks, _pending
from session_notes._async_primary import AsyncPrimaryClient
from session_notes._background import BackgroundObserver
from session_notes._backlog import Backlog, Observer
from session_notes._errors import InvalidArgument
from session_notes._limits import DEFAULT_RECORD_TIMEOUT, DEFAULT_RECORDER_CLOSE_TIMEOUT
from session_notes._logs import counted, warn
from session_notes._primary import PrimaryClient
from session_notes._types import Turn
from session_notes._visits import PendingSession


class WrongKind(InvalidArgument, TypeError):
    """An object of the other kind: a blocking one where asyncio is needed, or vice versa."""


class Recorder(ABC):
    """A recorder without its thread or task."""

    def __init__(self, client: Any, observer: Observer | None, timeout: timedelta) -> None:
        _calls.check_span("timeout", timeout)
        self._client = client
        self._observer = observer
        self._timeout = timeout
        self._backlog = Backlog(observer)
        transport = getattr(client, "_transport", None)
        _pending.register(getattr(transport, "target", ""), self)
        _forks.register(self)

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """Queue turns for the session's transcript, and a run after them. Return immediately, and never raise.

        Turns that cannot be stored unchanged are adapted. Lone surrogates (half characters) become U+FFFD. A text
        beyond 64 KiB is cut and ends with ` […]`. An `extra` that is not JSON is left out, and so is anything that is
        not a `Turn`. Each change is logged.

        Notes are not speech: the text of `Reading.as_prompt` is removed from a turn's text, and a turn without any
        other text is left out.

        Args:
            session_id: The session.
            turns: The turns, in order. Without turns, only a run is submitted, once the pending turns are stored.
            observe: Whether to submit a run. False: the next turn's run covers these turns.
        """
        try:
            if self._backlog.add(session_id, turns, observe):
                _exit.watch(self)
                self._start()
        except Exception as error:
            warn("%s may not be recorded: %s", counted(turns), type(error).__name__)

    def turns(self, session_id: str) -> int | None:
        """Return the length of the conversation, pending turns included. None: this recorder has no turn of it.

        Until the sidecar first responds, only the pending turns are known.
        """
        counts = self._backlog.turn_counts(session_id)
        return None if counts is None else (counts.stored or 0) + counts.pending

    @abstractmethod
    def _start(self) -> None:
        """Wake the thread or task, and start it if necessary."""

    @abstractmethod
    def _runs(self) -> bool:
        """Return whether the thread or task is running."""

    def _forget(self, session_id: str) -> Future[None] | None:
        return self._backlog.forget(session_id)

    def _turn_counts(self, session_id: str) -> _pending.TurnCounts | None:
        return self._backlog.turn_counts(session_id)

    def _forked(self) -> None:
        # Pending turns remain with the parent.
        closing = self._backlog.closing
        self._backlog = Backlog(self._observer)
        self._backlog.closing = closing
        _exit.unwatch(self)

    @abstractmethod
    def _abandon_visit(self) -> None:
        """End the visit of a thread or task that no longer runs. The outcome of its call is unknown."""

    def _finish(self, deadline: float) -> None:
        """Store pending turns until the deadline, in the main thread if necessary, and log the rest."""
        backlog = self._backlog
        try:
            if self._runs():
                with backlog.changed:
                    backlog.changed.wait_for(lambda: backlog.empty, max(0.0, deadline - time.monotonic()))
            elif not backlog.empty:
                self._abandon_visit()
                with blocking_client_like(self._client) as client:
                    self._visit_all(client, deadline)
        finally:
            backlog.end()

    def _visit_all(self, client: PrimaryClient, deadline: float) -> None:
        backlog = self._backlog
        while not backlog.empty and (left := deadline - time.monotonic()) > 0:
            with backlog.changed:
                session = backlog.visits.take()
                if session is None:
                    pause = backlog.visits.seconds_to_next()
                    backlog.changed.wait(left if pause is None else min(left, pause))
            if session is not None:
                timeout = min(self._timeout, timedelta(seconds=left))
                _delivery.drive(_delivery.visit(backlog, session, client, timeout))


class TurnRecorder(Recorder):
    """Stores turns in the background, in order within a session, and then submits runs. Uses one thread.

        >>> with BackgroundObserver(analyse) as observer, TurnRecorder(primary, observer) as recorder:
        ...     recorder.record("session-1", Turn("user", "Can we start in May?"))

    `record` returns immediately and never raises, so that it can be called during a conversation, in any thread or
    event loop. A run begins after its turns are stored, and therefore sees them.

    During an outage, turns stay pending. When the sidecar is back, they are stored once each, in order. At most 10,000
    turns or 16 MiB are pending in total. Beyond that, turns are dropped and their number is logged. As long as turns
    are pending, readings by clients in this process count them, so that their drift is correct.

    If the process ends without `close`, pending turns are stored for up to 2 s, and the rest is logged. A signal that
    it does not handle, such as SIGTERM by default, loses them. A forked child starts without pending turns.
    `delete_session` in this process drops the pending turns of the session.

    Args:
        client: Appends the turns. It is not closed.
        observer: Receives a session once its turns are stored. None: no runs are submitted; another process may
            observe.
        timeout: Timeout of each call.

    Raises:
        InvalidArgument: If the client or observer is for asyncio (use `AsyncTurnRecorder`), or of another type, or if
            the timeout is not above 0.
    """

    def __init__(
        self,
        client: PrimaryClient,
        observer: BackgroundObserver | None = None,
        *,
        timeout: timedelta = DEFAULT_RECORD_TIMEOUT,
    ) -> None:
        given: object = client
        if isinstance(given, AsyncPrimaryClient):
            raise WrongKind("TurnRecorder needs a PrimaryClient; for an AsyncPrimaryClient use AsyncTurnRecorder")
        if not has_method(client, "append_turns"):
            raise WrongKind(f"TurnRecorder needs a PrimaryClient, not {kind_of(client)}")
        if observer is not None and hasattr(type(observer), "__aenter__"):
            raise WrongKind(
                "TurnRecorder needs a BackgroundObserver; for an AsyncBackgroundObserver use AsyncTurnRecorder"
            )
        if observer is not None and not has_method(observer, "submit"):
            raise WrongKind(f"observer must be a BackgroundObserver, not {kind_of(observer)}")
        super().__init__(client, observer, timeout)
        self._thread: threading.Thread | None = None
        self._own_client: PrimaryClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self, timeout: timedelta = DEFAULT_RECORDER_CLOSE_TIMEOUT) -> bool:
        """Stop accepting turns, store the pending ones, and return whether all were stored in time."""
        _calls.check_options(timeout=timeout)
        backlog = self._backlog
        backlog.close()
        with backlog.changed:
            if not backlog.empty:
                with suppress(RuntimeError):
                    self._start()
            seconds = min(timeout.total_seconds(), threading.TIMEOUT_MAX)
            finished = backlog.changed.wait_for(lambda: backlog.empty, seconds)
        backlog.end()
        _exit.unwatch(self)
        return finished

    def _start(self) -> None:
        with self._backlog.changed:
            if self._thread is None:
                # A daemon, because a sidecar that hangs must not keep the process from ending.
                thread = threading.Thread(
                    target=self._work, args=(self._backlog,), name="session-notes-recorder", daemon=True
                )
                thread.start()  # If this raises, the next recording tries to start a thread.
                self._thread = thread

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _abandon_visit(self) -> None:
        pass  # A visit ends with its thread.

    def _forked(self) -> None:
        super()._forked()
        self._thread = None
        self._own_client = None

    def _work(self, backlog: Backlog) -> None:
        try:
            while (session := self._next(backlog)) is not None:
                _delivery.drive(_delivery.visit(backlog, session, self._open_client(), self._timeout))
        finally:
            with backlog.changed:
                if backlog is self._backlog:
                    self._thread = None
                    if self._own_client is not None:
                        self._own_client.close()
                        self._own_client = None

    def _next(self, backlog: Backlog) -> PendingSession | None:
        with backlog.changed:
            while (session := backlog.visits.take()) is None:
                if backlog.empty:
                    _exit.unwatch(self)
                    if backlog.closing:
                        return None
                backlog.changed.wait(backlog.visits.seconds_to_next())
            return session

    def _open_client(self) -> Any:
        """Return the client, or a copy of it if it is closed, so that turns recorded earlier are still stored."""
        transport = getattr(self._client, "_transport", None)
        if transport is None or not transport.closed:
            return self._client
        if self._own_client is None:
            self._own_client = blocking_client_like(self._client)
        return self._own_client


def blocking_client_like(client: Any) -> PrimaryClient:
    """Return a blocking client of the same sidecar with the same credentials."""
    transport = client._transport
    return PrimaryClient(transport.target, token=transport._credentials.token, tls=transport._credentials.tls)


def has_method(thing: object, name: str) -> bool:
    """Return whether an object has a method. A class does not count."""
    return not isinstance(thing, type) and hasattr(thing, name)


def kind_of(thing: object) -> str:
    """Describe the type of an object for an error message."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
