"""Background observer for asyncio, with tasks instead of threads: the counterpart of `_background`."""
# ruff: noqa: ASYNC109 - as in the blocking counterpart, a timeout of `close` cancels nothing by itself.

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeAlias

from session_notes import _calls, _pool, _spans
from session_notes._async_observer import AsyncObserverClient
from session_notes._async_runs import AsyncActiveRun, finish
from session_notes._errors import UsageError
from session_notes._limits import BEGIN_TIMEOUT_AT_CLOSE, DEFAULT_OBSERVER_CLOSE_TIMEOUT
from session_notes._observer import ObserverClient
from session_notes._schedule import Job
from session_notes._types import Notes

_Outcome: TypeAlias = tuple[Notes | None, BaseException | None]


class AsyncBackgroundObserver(
    _pool.Pool[AsyncObserverClient, AsyncActiveRun, asyncio.Event, Awaitable[Notes | None]],
):
    """Runs an async analysis over submitted sessions, in tasks of the event loop in which it is opened.

        >>> async def analyse(run: AsyncActiveRun) -> Notes:
        ...     answer = await model.ask(prompt(run.transcript))
        ...     return Notes(summary=answer.summary, follow_up_suggestions=answer.suggestions)
        >>> async with AsyncBackgroundObserver(analyse) as observer:
        ...     observer.submit("session-1")

    The rules are those of `BackgroundObserver`, except that an analysis that overruns `time_limit` is cancelled. If it
    continues nevertheless, it occupies its session until it returns.

    Args:
        analyse: Returns the notes of a run, or None for no notes. An async function.
        target: Address of the sidecar, as for `AsyncObserverClient`.
        token: Token of the client, as for `AsyncObserverClient`.
        tls: TLS for the connection, as for `AsyncObserverClient`.
        client: An existing client, open in the same loop, instead of `target`, `token`, `tls` and `observer`. It is not
            closed.
        observer: Name of the observer. Empty: `default`.
        max_workers: Maximum number of concurrent analyses.
        time_limit: Time limit of an analysis.
        ttl: How long the notes stay current. None: as long as the session.

    Raises:
        InvalidArgument: If an argument is invalid, such as a function that is not async, for which `BackgroundObserver`
            exists.
    """

    _client_type = AsyncObserverClient
    _other_client_type = ObserverClient
    _asynchronous = True

    def _reset(self) -> None:
        super()._reset()
        self._loop: asyncio.AbstractEventLoop | None = None
        # The event loop has only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = 0
        self._analyses: dict[AsyncActiveRun, asyncio.Task[_Outcome]] = {}
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def submit(self, session_id: str) -> None:
        """Queue a session for an analysis, and return immediately. May be called from any thread.

        Raises:
            InvalidArgument: If the id is not text that can be sent, such as an int, None or a UUID object.
            UsageError: If this observer is closed, or there is no event loop to run in.
        """
        self._open()
        self._accept(session_id)

    async def close(self, timeout: timedelta = DEFAULT_OBSERVER_CLOSE_TIMEOUT) -> bool:
        """Stop accepting sessions, finish the submitted ones, and return whether all finished in time.

        After the timeout, queued sessions are dropped, and runs in flight are cancelled and recorded as failed, which
        takes up to 2 s more. While the sidecar is unavailable, BeginRun is retried for up to 1.5 s. If `close` is
        cancelled, the timeout ends at once.
        """
        _calls.check_options(timeout=timeout)
        if self._loop not in (None, asyncio.get_running_loop()):
            raise UsageError("close this observer in the event loop in which it was opened")
        with self._lock:
            self._closing = True
        start = time.monotonic()
        try:
            finished = await self._wait_until_done(min(timeout, BEGIN_TIMEOUT_AT_CLOSE))
            if not finished and timeout > BEGIN_TIMEOUT_AT_CLOSE:
                self._stop_all_retries()
                finished = await self._wait_until_done(timeout - timedelta(seconds=time.monotonic() - start))
        finally:
            # Also after a cancellation, so that no analysis outlives the block.
            await finish(self._stop(asyncio.current_task()))
        return finished

    async def _stop(self, closer: asyncio.Task[Any] | None) -> None:
        with self._lock:
            self._closed = True
            dropped = self._schedule.drop_queued()
        self._stop_all_retries()
        self._log_dropped(dropped)
        await self._end_late(closer)
        if self._own_client:
            await self._client.close()

    def _open(self) -> None:
        if self._loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                raise UsageError("this observer needs a running event loop: use it in `async with`") from None
            if self._own_client and not self._closing:
                self._client._transport.open()
            self._loop = loop
        elif self._loop.is_closed():
            raise UsageError("the event loop in which this observer was opened is closed")

    async def _wait_until_done(self, timeout: timedelta) -> bool:
        try:
            async with asyncio.timeout(_pool.seconds(timeout)):
                while not self._schedule.empty:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return self._schedule.empty
        return True

    async def _end_late(self, closer: asyncio.Task[Any] | None) -> None:
        """Cancel the analyses in flight, and record their runs as failed."""
        start = time.monotonic()
        for run, analysis in self._analyses.items():
            # An analysis that calls `close` cannot cancel itself, and is about to end.
            if analysis is not closer:
                analysis.cancel()
            self._start_task(run._fail_quietly(_pool.CLOSED), run._context)
        others = self._tasks - {closer}
        if others:
            await asyncio.wait(others, timeout=_pool.rest_of_fail_timeout(time.monotonic() - start).total_seconds())

    def _start_task(self, work: Coroutine[Any, Any, Any], context: Context | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _work_ended(self) -> None:
        if self._schedule.empty:
            self._call_in_loop(self._changed.set)

    def _stop_retrying(self, job: Job[AsyncActiveRun, asyncio.Event]) -> None:
        self._call_in_loop(job.stop.set)

    def _start_workers(self) -> None:
        self._call_in_loop(self._start_tasks)

    def _call_in_loop(self, callback: Callable[[], object]) -> None:
        # Sessions are submitted and forgotten from any thread.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    def _start_tasks(self) -> None:
        with self._lock:
            count = min(self._schedule.queued, self._max_workers - self._workers)
            self._workers += count
        for _ in range(count):
            # In an empty context, as in a new thread: a run does not belong to the request that submitted its session.
            self._start_task(self._work(), Context())

    async def _work(self) -> None:
        try:
            while (job := self._take()) is not None:
                try:
                    with _spans.run_span(job.submitters):
                        await self._observe(job)
                except Exception as error:
                    # A bug in this class must not end the worker.
                    self._log_bug(job, error)
                finally:
                    self._done(job)
        except BaseException:
            # The event loop is ending.
            with self._lock:
                self._workers -= 1
            raise

    def _take(self) -> Job[AsyncActiveRun, asyncio.Event] | None:
        with self._lock:
            if not self._schedule.queued:
                self._workers -= 1
                return None
            job = self._schedule.take(asyncio.Event())
            if self._stopped_retrying:
                job.stop.set()
            return job

    def _done(self, job: Job[AsyncActiveRun, asyncio.Event]) -> None:
        with self._lock:
            self._schedule.done(job)
            if self._closed:
                self._schedule.drop_queued()
            self._work_ended()

    async def _observe(self, job: Job[AsyncActiveRun, asyncio.Event]) -> None:
        run = await self._begin(job)
        if run is None:
            return
        # In a separate task, so that an analysis that ignores its cancellation does not delay the record of its
        # failure.
        analysis = asyncio.create_task(self._analysed(run))
        self._analyses[run] = analysis
        try:
            await asyncio.wait({analysis}, timeout=self._time_limit.total_seconds())
            if not analysis.done():
                analysis.cancel()
                if await run._fail_quietly(self._overrun):
                    self._log_run(run, self._overrun)
                await asyncio.wait({analysis})
            await self._conclude(run, analysis)
        except asyncio.CancelledError:
            analysis.cancel()
            await run._fail_quietly("CancelledError")
            raise
        finally:
            del self._analyses[run]

    async def _analysed(self, run: AsyncActiveRun) -> _Outcome:
        try:
            return await self._analyse(run), None
        except (Exception, SystemExit) as error:  # A SystemExit would end the event loop.
            return None, error

    async def _begin(self, job: Job[AsyncActiveRun, asyncio.Event]) -> AsyncActiveRun | None:
        try:
            call = self._begin_call(job.session_id)
            begun = await self._client._transport.send(call, None, self._client._timeout, job.stop)
            with self._lock:
                deadline = time.monotonic() + self._time_limit.total_seconds()
                run = AsyncActiveRun(self._client, job.session_id, begun, deadline)
                if job.forgotten:
                    # The run ends with its session.
                    return None
                job.run = run
        except Exception as error:
            self._log_not_begun(job, error)
            return None
        finally:
            job.begun.set_result(None)
        if self._closed:
            await run._fail_quietly(_pool.CLOSED)
            return None
        return run

    async def _conclude(self, run: AsyncActiveRun, analysis: asyncio.Task[_Outcome]) -> None:
        """Write the notes of an analysis that has ended, or record the run's failure."""
        notes, error = (None, asyncio.CancelledError()) if analysis.cancelled() else analysis.result()
        failure = self._failure_without_notes(run, notes, error)
        if failure is None and notes is not None:
            try:
                await run.write(notes, ttl=self._ttl)
            except Exception as raised:
                failure = self._failure_of_write(run, raised)
        if failure is not None:
            await run._fail_quietly(failure)
