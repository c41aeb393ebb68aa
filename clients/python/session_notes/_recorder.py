"""Recorders: they store what was said without holding up the conversation, and have an observer look at it."""

import asyncio
import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from session_notes import _forks, _pending
from session_notes._async_primary import AsyncPrimaryClient
from session_notes._background import BackgroundObserver
from session_notes._backlog import Backlog, Observer, PendingSession, Visit, log, number_of
from session_notes._errors import InvalidArgument, UsageError
from session_notes._primary import PrimaryClient
from session_notes._types import Turn

DEFAULT_RECORD_TIMEOUT = timedelta(seconds=1)
"""How long one call of a recorder waits for the sidecar unless told."""

DEFAULT_CLOSE_TIMEOUT = timedelta(seconds=5)
"""How long closing a recorder waits until everything is stored unless told."""

EXIT_TIMEOUT = timedelta(seconds=2)
"""How long all recorders together may keep the process from ending while turns are pending."""


class WrongKind(InvalidArgument, TypeError):
    """Something of the other kind: blocking where asyncio is needed, or the other way round."""


class _Recorder:
    """What the recorders have in common: all but the thread or the task that visits sessions."""

    def __init__(self, client: Any, observer: Observer | None, timeout: timedelta) -> None:
        self._client = client
        self._observer = observer
        self._timeout = _checked("timeout", timeout)
        self._backlog = Backlog(observer)
        transport = getattr(client, "_transport", None)
        _pending.register(getattr(transport, "target", ""), self)
        _forks.register(self)

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """Append these turns to the session's transcript and then submit a run. Return at once; never raise.

        What cannot be stored as it is, is made so: halves of characters become U+FFFD, a text beyond 64 KiB is cut and
        ends in ` […]`, an `extra` that is no JSON is left out, and so is anything that is no `Turn`. The log says so.

        Args:
            session_id: The session they belong to.
            turns: What was said, in order; none: only a run is submitted, after what is pending is stored.
            observe: Whether to submit a run; False: there is one after the next turn.
        """
        try:
            if self._backlog.add(session_id, turns, observe):
                _drain_at_exit(self)
                self._start()
        except Exception as error:
            log("%s may not be recorded: %s", number_of(turns), type(error).__name__)

    def turns(self, session_id: str) -> int | None:
        """Return how many turns the conversation has, pending ones included; None where none was recorded here.

        Until the sidecar has answered for the first time, only the turns that are pending here are known.
        """
        known = self._backlog.known(session_id)
        return None if known is None else (known.stored or 0) + known.pending

    def _start(self) -> None:
        """Have the thread or the task visit sessions; start it if need be."""
        raise NotImplementedError

    def _works(self) -> bool:
        """Whether the thread or the task will go on by itself."""
        raise NotImplementedError

    def _forget(self, session_id: str) -> "Future[None] | None":
        return self._backlog.forget(session_id)

    def _turn_count(self, session_id: str) -> _pending.Pending | None:
        return self._backlog.known(session_id)

    def _forked(self) -> None:
        # What is pending is the parent's to store.
        closing = self._backlog.closing
        self._backlog = Backlog(self._observer)
        self._backlog.closing = closing
        _unfinished.discard(self)

    def _abandon_call(self) -> None:
        """End the visit of a thread or a task that will not go on; the outcome of its call is not known."""

    def _finish(self, deadline: float) -> None:
        """Store what is pending until the deadline, in the main thread if need be, and say what could not be."""
        backlog = self._backlog
        try:
            if self._works():
                with backlog.changed:
                    backlog.changed.wait_for(lambda: backlog.empty, max(0.0, deadline - time.monotonic()))
            elif not backlog.empty:
                self._abandon_call()
                with _client_like(self._client) as client:
                    self._visit_all(client, deadline)
        finally:
            backlog.end()

    def _visit_all(self, client: PrimaryClient, deadline: float) -> None:
        backlog = self._backlog
        while not backlog.empty and (left := deadline - time.monotonic()) > 0:
            with backlog.changed:
                session = backlog.take()
                if session is None:
                    pause = backlog.seconds_to_next()
                    backlog.changed.wait(left if pause is None else min(left, pause))
            if session is not None:
                _visit(backlog, session, client, min(self._timeout, timedelta(seconds=left)))


class TurnRecorder(_Recorder):
    """Stores turns in a thread of its own, in order within a session, and then submits a run.

        >>> with BackgroundObserver(analyse) as observer, TurnRecorder(primary, observer) as recorder:
        ...     recorder.record("session-1", Turn("user", "Can we start in May?"))

    `record` returns at once and never raises, whatever the sidecar does, so it may be called on the path of a
    conversation, in any thread or event loop. The run begins after the turns are stored, so it sees them.

    While the sidecar is away, turns stay pending, and are stored when it is back: once each, in order. At most 10,000
    turns or 16 MiB are pending in all; beyond that, turns are dropped, and the log says how many. While turns are
    pending, readings of clients in this process count them, so that their drift is true.

    A process that ends without `close` stores what is pending for up to 2 s, and logs what it could not store. A
    forked child begins with nothing pending. `delete_session` in this process drops what is pending for the session.

    Args:
        client: Appends the turns; it stays open.
        observer: Looks at the session after each recording; None: another process does, in its own time.
        timeout: How long one call may take.

    Raises:
        InvalidArgument: The client or the observer is one for asyncio (use `AsyncTurnRecorder`), or none at all.
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
        if isinstance(given, type) or not hasattr(given, "append_turns"):
            raise WrongKind(f"TurnRecorder needs a PrimaryClient, not {_kind_of(client)}")
        if observer is not None and _is_async(observer):
            raise WrongKind("TurnRecorder needs a BackgroundObserver; with one for asyncio use AsyncTurnRecorder")
        if observer is not None and (isinstance(observer, type) or not hasattr(observer, "submit")):
            raise WrongKind(f"observer must be a BackgroundObserver, not {_kind_of(observer)}")
        super().__init__(client, observer, timeout)
        self._thread: threading.Thread | None = None
        self._own_client: PrimaryClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self, timeout: timedelta = DEFAULT_CLOSE_TIMEOUT) -> bool:
        """Take nothing more, store what is pending, and stop; return whether all of it was stored in time."""
        seconds = _checked("timeout", timeout).total_seconds()
        backlog = self._backlog
        backlog.close()
        with backlog.changed:
            if not backlog.empty:
                with suppress(RuntimeError):
                    self._start()
            finished = backlog.changed.wait_for(lambda: backlog.empty, min(seconds, threading.TIMEOUT_MAX))
        backlog.end()
        _unfinished.discard(self)
        return finished

    def _start(self) -> None:
        with self._backlog.changed:
            if self._thread is None:
                # A daemon: a sidecar that hangs must not keep the process from ending.
                thread = threading.Thread(
                    target=self._work, args=(self._backlog,), name="session-notes-recorder", daemon=True
                )
                thread.start()  # Where it cannot, the next recording tries again.
                self._thread = thread

    def _works(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _forked(self) -> None:
        super()._forked()
        self._thread = None
        self._own_client = None

    def _work(self, backlog: Backlog) -> None:
        try:
            while (session := self._next(backlog)) is not None:
                _visit(backlog, session, self._open_client(), self._timeout)
        finally:
            with backlog.changed:
                if backlog is self._backlog:
                    self._thread = None
                    if self._own_client is not None:
                        self._own_client.close()
                        self._own_client = None

    def _next(self, backlog: Backlog) -> PendingSession | None:
        with backlog.changed:
            while (session := backlog.take()) is None:
                if backlog.empty:
                    _unfinished.discard(self)
                    if backlog.closing:
                        return None
                backlog.changed.wait(backlog.seconds_to_next())
            return session

    def _open_client(self) -> Any:
        """The client; where the application has closed it, another one like it: words said before are still stored."""
        closed = getattr(getattr(self._client, "_transport", None), "_closed", None)
        if closed is None or not closed.is_set():
            return self._client
        if self._own_client is None:
            self._own_client = _client_like(self._client)
        return self._own_client


class AsyncTurnRecorder(_Recorder):
    """`TurnRecorder` for asyncio: stores turns in a task, with an `AsyncPrimaryClient`.

        >>> async with AsyncPrimaryClient() as primary, AsyncTurnRecorder(primary, observer) as recorder:
        ...     recorder.record("session-1", Turn("user", "Can we start in May?"))

    `record` is no coroutine: it returns at once and never raises, in the event loop as in any thread. What it promises
    is what `TurnRecorder` promises; a loop that ends without `close` leaves the rest to the end of the process.

    Args:
        client: Appends the turns; it stays open. Its event loop is the recorder's.
        observer: Looks at the session after each recording: an `AsyncBackgroundObserver`, or a `BackgroundObserver`.
        timeout: How long one call may take.

    Raises:
        InvalidArgument: The client is a blocking one (use `TurnRecorder`), or none at all.
    """

    def __init__(
        self,
        client: AsyncPrimaryClient,
        observer: Observer | None = None,
        *,
        timeout: timedelta = DEFAULT_RECORD_TIMEOUT,
    ) -> None:
        given: object = client
        if isinstance(given, PrimaryClient):
            raise WrongKind("AsyncTurnRecorder needs an AsyncPrimaryClient; for a PrimaryClient use TurnRecorder")
        if isinstance(given, type) or not hasattr(given, "append_turns"):
            raise WrongKind(f"AsyncTurnRecorder needs an AsyncPrimaryClient, not {_kind_of(client)}")
        if observer is not None and (isinstance(observer, type) or not hasattr(observer, "submit")):
            raise WrongKind(
                f"observer must be an AsyncBackgroundObserver or a BackgroundObserver, not {_kind_of(observer)}"
            )
        super().__init__(client, observer, timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._visit: Visit | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, timeout: timedelta = DEFAULT_CLOSE_TIMEOUT) -> bool:  # noqa: ASYNC109
        """Take nothing more, store what is pending, and stop; return whether all of it was stored in time.

        Raises:
            UsageError: The recorder's event loop is another one, and runs.
        """
        seconds = _checked("timeout", timeout).total_seconds()
        if self._loop not in (None, asyncio.get_running_loop()) and self._works():
            raise UsageError("close this recorder in the event loop that it was opened in")
        backlog = self._backlog
        backlog.close()
        self._start()
        if self._task is not None and not backlog.empty:
            await asyncio.wait([self._task], timeout=min(seconds, threading.TIMEOUT_MAX))
        finished = backlog.empty
        backlog.end()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        _unfinished.discard(self)
        return finished

    def _start(self) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if self._loop is None or self._loop.is_closed():
            self._loop = here
        if self._loop is None:
            return  # There is no loop yet: the first recording in one, or `async with`, starts the task.
        if self._loop is here:
            self._start_here()
        else:
            self._loop.call_soon_threadsafe(self._start_here)

    def _start_here(self) -> None:
        if self._task is None or self._task.done() or self._wake is None:
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(
                self._work(self._wake), name="session-notes-recorder", context=Context()
            )
        else:
            self._wake.set()

    def _works(self) -> bool:
        return self._task is not None and not self._task.done() and self._loop is not None and self._loop.is_running()

    def _abandon_call(self) -> None:
        if self._visit is not None:
            self._visit.close()

    def _forked(self) -> None:
        super()._forked()
        self._loop = self._task = self._wake = self._visit = None

    async def _work(self, wake: asyncio.Event) -> None:
        """Visit sessions until nothing is pending: a task that only waits would be in the way of a loop that ends."""
        backlog = self._backlog
        while True:
            wake.clear()
            with backlog.changed:
                session = backlog.take()
                if session is None and backlog.empty:
                    _unfinished.discard(self)
                    return
                pause = backlog.seconds_to_next()
            if session is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await wake.wait()
                continue
            self._visit = steps = backlog.visit(session, self._client, self._timeout)
            try:
                call = next(steps)
                while True:
                    try:
                        answer = await call()
                    except Exception as error:
                        call = steps.throw(error)
                    else:
                        call = steps.send(answer)
            except StopIteration:
                pass
            finally:
                steps.close()


def _client_like(client: Any) -> PrimaryClient:
    """Return a blocking client of the same sidecar, with the same credentials."""
    transport = client._transport
    return PrimaryClient(transport.target, token=transport._credentials._token, tls=transport._credentials.tls)


def _visit(backlog: Backlog, session: PendingSession, client: Any, timeout: timedelta) -> None:
    steps = backlog.visit(session, client, timeout)
    try:
        call: Callable[[], Any] = next(steps)
        while True:
            try:
                answer = call()
            except Exception as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration:
        pass
    finally:
        steps.close()


def _checked(name: str, span: timedelta) -> timedelta:
    if not isinstance(span, timedelta):
        raise InvalidArgument(f"{name} must be a datetime.timedelta, not {type(span).__name__}")
    return span


def _kind_of(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _is_async(observer: object) -> bool:
    return hasattr(type(observer), "__aenter__")


# Recorders with turns pending, kept alive until these are stored; and the process whose end they will hear of.
_unfinished: set[_Recorder] = set()
_exit_of = os.getpid()


def _drain_at_exit(recorder: _Recorder) -> None:
    """Have what is pending stored before the process ends."""
    global _exit_of
    _unfinished.add(recorder)
    if _exit_of != os.getpid():
        _exit_of = os.getpid()
        atexit.register(_drain)
        # Children of multiprocessing end without atexit until Python 3.13.
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, _drain, exitpriority=0)


def _drain() -> None:
    deadline = time.monotonic() + EXIT_TIMEOUT.total_seconds()
    recorders = list(_unfinished)
    for recorder in recorders:
        # A run that began now would not end.
        recorder._backlog.close(submit=False)
    for recorder in recorders:
        try:
            recorder._finish(deadline)
        except Exception as error:
            log("turns may not be recorded: %s", type(error).__name__)
        _unfinished.discard(recorder)


# With the import, so that it runs after the application's own handlers: they may record as well.
atexit.register(_drain)
