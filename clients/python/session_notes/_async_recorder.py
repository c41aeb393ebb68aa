"""Recorder for asyncio: the counterpart of `TurnRecorder`, with a task instead of a thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from types import TracebackType
from typing import Self

from session_notes import _calls, _delivery, _exit
from session_notes._async_primary import AsyncPrimaryClient
from session_notes._backlog import Observer
from session_notes._errors import UsageError
from session_notes._limits import DEFAULT_RECORD_TIMEOUT, DEFAULT_RECORDER_CLOSE_TIMEOUT
from session_notes._primary import PrimaryClient
from session_notes._recorder import Recorder, WrongKind, has_method, kind_of


class AsyncTurnRecorder(Recorder):
    """Stores turns in the background, in order within a session, and then submits runs. Uses one asyncio task.

        >>> async with AsyncPrimaryClient() as primary, AsyncTurnRecorder(primary, observer) as recorder:
        ...     recorder.record("session-1", Turn("user", "Can we start in May?"))

    It makes the same promises as `TurnRecorder`. `record` is a plain method: it returns immediately and never raises,
    in the event loop and in any thread. If the loop ends without `close`, pending turns are stored when the process
    ends.

    Args:
        client: Appends the turns. It is not closed. The recorder belongs to the same event loop.
        observer: Receives a session once its turns are stored: an `AsyncBackgroundObserver` or a `BackgroundObserver`.
            None: no runs are submitted; another process may observe.
        timeout: Timeout of each call.

    Raises:
        InvalidArgument: If the client is blocking (use `TurnRecorder`), or of another type, or if the timeout is not
            above 0.
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
        if not has_method(client, "append_turns"):
            raise WrongKind(f"AsyncTurnRecorder needs an AsyncPrimaryClient, not {kind_of(client)}")
        if observer is not None and not has_method(observer, "submit"):
            kind = kind_of(observer)
            raise WrongKind(f"observer must be an AsyncBackgroundObserver or a BackgroundObserver, not {kind}")
        super().__init__(client, observer, timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._visit: _delivery.Visit | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, timeout: timedelta = DEFAULT_RECORDER_CLOSE_TIMEOUT) -> bool:  # noqa: ASYNC109
        """Stop accepting turns, store the pending ones, and return whether all were stored in time.

        Raises:
            UsageError: If the recorder belongs to another event loop, which is running.
        """
        _calls.check_options(timeout=timeout)
        if self._loop not in (None, asyncio.get_running_loop()) and self._runs():
            raise UsageError("close this recorder in the event loop in which it was opened")
        backlog = self._backlog
        backlog.close()
        self._start()
        if self._task is not None and not backlog.empty:
            await asyncio.wait([self._task], timeout=min(timeout.total_seconds(), threading.TIMEOUT_MAX))
        finished = backlog.empty
        backlog.end()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        _exit.unwatch(self)
        return finished

    def _start(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is None or self._loop.is_closed():
            self._loop = running
        if self._loop is None:
            return  # No loop yet. `async with`, or the first recording in a loop, starts the task.
        if self._loop is running:
            self._start_task()
        else:
            self._loop.call_soon_threadsafe(self._start_task)

    def _start_task(self) -> None:
        if self._task is None or self._task.done() or self._wake is None:
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(
                self._work(self._wake), name="session-notes-recorder", context=Context()
            )
        else:
            self._wake.set()

    def _runs(self) -> bool:
        return self._task is not None and not self._task.done() and self._loop is not None and self._loop.is_running()

    def _abandon_visit(self) -> None:
        if self._visit is not None:
            self._visit.close()

    def _forked(self) -> None:
        super()._forked()
        self._loop = self._task = self._wake = self._visit = None

    async def _work(self, wake: asyncio.Event) -> None:
        """Visit sessions until nothing is pending. A waiting task would keep its loop from ending."""
        backlog = self._backlog
        while True:
            wake.clear()
            with backlog.changed:
                session = backlog.visits.take()
                if session is None and backlog.empty:
                    _exit.unwatch(self)
                    return
                pause = backlog.visits.seconds_to_next()
            if session is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await wake.wait()
                continue
            self._visit = _delivery.visit(backlog, session, self._client, self._timeout)
            await _delivery.drive_async(self._visit)
