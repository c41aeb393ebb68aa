"""Background observer for asyncio, with tasks instead of threads: the counterpart of `_background`."""
# ruff: noqa: ASYNC109 - as in the blocking counterpart, a timeout of `close` cancels nothing by itself.

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from contextvars import Context
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from session_notes import _calls, _forks, _pool, _spans
from session_notes._async_observer import AsyncObserverClient
from session_notes._async_runs import AsyncActiveRun, finish
from session_notes._errors import UsageError
from session_notes._leases import RENEW_TIMEOUT
from session_notes._limits import BEGIN_TIMEOUT_AT_CLOSE, DEFAULT_OBSERVER_CLOSE_TIMEOUT
from session_notes._observer import ObserverClient
from session_notes._results import BeginResult
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
        lease: How long a run stays in flight if this process dies, as for `BackgroundObserver`.
        transcript: `all` or `new`, as for `BackgroundObserver`.
        max_turns: Of these, a run sees at most so many turns, the newest. None: no maximum.
        min_interval: Shortest time between the begins of two runs of a session. None: 15 s.
        min_new_turns: Smallest number of turns that the current notes have not seen. 0: not checked. None: 1.
        quiet_for: How long a session must not have been submitted before its run begins. One that is submitted again
            and again is run after ten times as long. None: 2 s.
        max_runs: Largest number of runs of a session in this process. None: 500.
        brakes: Whether brakes that are None have these defaults, and failures delay the next run. False: they are off.

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
        # Calls `_start_tasks` when the brakes release the next session.
        self._timer: asyncio.TimerHandle | None = None
        # The tasks that renew leases and sweep.
        self._renewer: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._leases_changed = asyncio.Event()
        self._sweep_changed = asyncio.Event()
        self._sweep_every: float | None = None

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

    def sweep(self, every: timedelta) -> None:
        """Look for due sessions now and every so often, and submit them, until `close`.

        This replaces `submit` where the observer is a process of its own, and finds sessions whose submission was lost.
        A session is due if it meets the bounds of the brakes and has no run of this observer in flight. Several
        processes can sweep: each session is analysed by one of them. Another call changes the interval. A forked child
        does not sweep.

        Raises:
            InvalidArgument: If the interval is not above 0.
            UsageError: If this observer is closed, or gRPC does not work in this forked process.
        """
        _calls.check_span("every", every)
        _forks.check()
        self._open()
        with self._lock:
            if self._closing:
                raise UsageError("this observer is closed")
            self._sweep_every = _pool.seconds(every)
            self._call_in_loop(self._start_sweeping)

    async def close(
        self, timeout: timedelta = DEFAULT_OBSERVER_CLOSE_TIMEOUT, *, pending: Literal["run", "drop"] = "run"
    ) -> bool:
        """Stop accepting sessions, finish the submitted ones, and return whether all finished in time.

        Sessions that wait are run now, whatever holds them back. With `pending="drop"` they are dropped, and only runs
        in flight are finished. After the timeout, waiting sessions are dropped, and runs in flight are cancelled and
        recorded as failed, which takes up to 2 s more. While the sidecar is unavailable, BeginRun is retried for up to
        1.5 s. If `close` is cancelled, the timeout ends at once.
        """
        _calls.check_options(timeout=timeout)
        _pool.check_pending(pending)
        if self._loop not in (None, asyncio.get_running_loop()):
            raise UsageError("close this observer in the event loop in which it was opened")
        with self._lock:
            self._closing = True
            if pending == "drop":
                self._schedule.drop_submitted()
            self._schedule.release_all()
            self._start_workers()
        if self._sweeper is not None:
            self._sweeper.cancel()
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
            dropped = self._schedule.drop_submitted()
        if self._renewer is not None:
            self._renewer.cancel()
        if self._timer is not None:
            self._timer.cancel()
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
            self._schedule.release(time.monotonic())
            self._set_timer()
            count = min(self._schedule.queued, self._max_workers - self._workers)
            self._workers += count
        for _ in range(count):
            # In an empty context, as in a new thread: a run does not belong to the request that submitted its session.
            self._start_task(self._work(), Context())

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        release = self._schedule.next_release
        pause = None if release is None or self._closed else _pool.seconds_until(release)
        self._timer = None if pause is None else asyncio.get_running_loop().call_later(pause, self._start_tasks)

    async def _work(self) -> None:
        try:
            while (job := self._take()) is not None:
                try:
                    with _spans.run_span(job.submission.submitters):
                        await self._observe(job)
                except Exception as error:
                    # A bug in this class must not end the worker.
                    self._log_bug(job, error)
                finally:
                    self._ended(job)
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
            self._concluded(job, run)
        except asyncio.CancelledError:
            analysis.cancel()
            await run._fail_quietly("CancelledError")
            raise
        finally:
            del self._analyses[run]
            with self._lock:
                self._leases.remove(run)

    async def _analysed(self, run: AsyncActiveRun) -> _Outcome:
        try:
            return await self._analyse(run), None
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise  # Ctrl-C ends the event loop.
        except BaseException as error:  # Including SystemExit, and panics of extensions written in Rust.
            return None, error

    async def _begin(self, job: Job[AsyncActiveRun, asyncio.Event]) -> AsyncActiveRun | None:
        try:
            begun = await self._begin_result(job)
            if begun is None:
                return None
            with self._lock:
                deadline = time.monotonic() + self._time_limit.total_seconds()
                run = AsyncActiveRun(self._client, job.session_id, begun, deadline)
                if job.forgotten:
                    # The run ends with its session.
                    return None
                unnecessary = self._unnecessary(job, begun)
                if unnecessary is None:
                    self._begun(job, run, begun)
                    self._start_renewing()
        except Exception as error:
            self._not_begun(job, error)
            return None
        finally:
            job.begun.set_result(None)
        if unnecessary is not None:
            await run._fail_quietly(unnecessary)
            return None
        return run

    async def _begin_result(self, job: Job[AsyncActiveRun, asyncio.Event]) -> BeginResult | None:
        calls = self._calls_to_begin(job)
        try:
            call = next(calls)
            while True:
                call = calls.send(await self._client._transport.send(call, None, self._client._timeout, job.stop))
        except StopIteration as end:
            begun: BeginResult | None = end.value
            return begun

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

    def _start_renewing(self) -> None:
        self._leases_changed.set()
        if self._renewer is None and self._leases.next_due() is not None:
            self._renewer = asyncio.get_running_loop().create_task(self._renew(), context=Context())

    async def _renew(self) -> None:
        while True:
            self._leases_changed.clear()
            with self._lock:
                due = self._leases.next_due()
            if due is None or due[1] > time.monotonic():
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if due is None else _pool.seconds_until(due[1])):
                        await self._leases_changed.wait()
                continue
            error: Exception | None = None
            try:
                renewal = due[0]._renew(self._leases.lease, RENEW_TIMEOUT)
                await asyncio.get_running_loop().create_task(renewal, context=due[0]._context.copy())
            except Exception as raised:
                error = raised
            self._renewed(due[0], error)

    def _start_sweeping(self) -> None:
        self._sweep_changed.set()
        if self._sweeper is None and not self._closing:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), context=Context())

    async def _sweep(self) -> None:
        while not self._closing:
            self._sweep_changed.clear()
            try:
                async with aclosing(self._client.due_sessions(**self._due_arguments())) as found:
                    async for due in found:
                        if not self._accept_due(due):
                            break
            except Exception as error:
                self._log_sweep(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sweep_every):
                    await self._sweep_changed.wait()
