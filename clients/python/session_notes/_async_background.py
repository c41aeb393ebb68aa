"""Tasks that keep the newest notes on every session they are told about."""
# ruff: noqa: ASYNC109 - as in the blocking twin, a timeout of `close` ends nothing by itself.

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeAlias

from session_notes import _pool, _spans
from session_notes._async_observer import AsyncObserverClient
from session_notes._credentials import TLS, Token
from session_notes._errors import SessionDeleted, Unavailable, UsageError, for_logs
from session_notes._runs import ENDED_WITHOUT_NOTES, AsyncActiveRun, finish
from session_notes._schedule import Job
from session_notes._types import Notes

_Outcome: TypeAlias = tuple[Notes | None, BaseException | None]


class AsyncBackgroundObserver(_pool.Pool[AsyncObserverClient, AsyncActiveRun, asyncio.Event]):
    """`BackgroundObserver` for asyncio: an async analysis, in tasks of the loop in which it is opened.

        >>> async def analyse(run: AsyncActiveRun) -> Notes:
        ...     answer = await model.ask(prompt(run.transcript))
        ...     return Notes(summary=answer.summary, follow_up_suggestions=answer.suggestions)
        >>> async with AsyncBackgroundObserver(analyse) as observer:
        ...     observer.submit("session-1")

    The rules are those of `BackgroundObserver`. An analysis that overruns `time_limit` is cancelled; one that goes on
    all the same keeps its session until it returns.

    Args:
        analyse: Makes notes of a run; None: there are none this time.
        target: The sidecar's address, as for `AsyncObserverClient`.
        token: What the sidecar knows this caller by, as for `AsyncObserverClient`.
        tls: How to encrypt the connection, as for `AsyncObserverClient`.
        client: A client to use instead, open in the same loop, which stays open; then without all of these and
            `observer`.
        observer: Who observes; empty: `default`.
        max_workers: How many analyses at once.
        time_limit: How long an analysis may take.
        ttl: How long the notes count; None: as long as the session.

    Raises:
        InvalidArgument: An argument cannot work: a function that is not async, for example, which `BackgroundObserver`
            takes.
    """

    def __init__(
        self,
        analyse: Callable[[AsyncActiveRun], Awaitable[Notes | None]],
        *,
        target: str | None = None,
        token: Token | None = None,
        tls: TLS | None = None,
        client: AsyncObserverClient | None = None,
        observer: str = "",
        max_workers: int = 4,
        time_limit: timedelta = timedelta(minutes=2),
        ttl: timedelta | None = None,
    ) -> None:
        others = bool(target or observer or token or tls)
        _pool.check_settings(analyse, client, others, max_workers, time_limit, ttl, asynchronous=True)
        super().__init__(
            analyse,
            client or AsyncObserverClient(target, token=token, tls=tls, observer=observer),
            own_client=client is None,
            max_workers=max_workers,
            time_limit=time_limit,
            ttl=ttl,
        )

    def _start_over(self) -> None:
        super()._start_over()
        self._loop: asyncio.AbstractEventLoop | None = None
        # The loop itself keeps no task alive.
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
        """Have the session looked at, as soon as an analysis may start. Returns at once; from any thread.

        Raises:
            InvalidArgument: The id is none that a sidecar could be asked for: an int, None, a UUID object.
            UsageError: This observer is closed, or there is no event loop to run in.
        """
        self._open()
        self._accept(session_id)

    async def close(self, timeout: timedelta = _pool.CLOSE_TIMEOUT) -> bool:
        """Take nothing more, finish what was submitted, and stop; return whether all of it was finished in time.

        What waits when the time is up is dropped; what is running is cancelled and recorded as failed, which takes at
        most 2 s more. While the sidecar cannot be reached, runs that have not begun are given up after 1.5 s. When
        `close` is cancelled, the time is up.
        """
        _pool.check_timeout(timeout)
        if self._loop not in (None, asyncio.get_running_loop()):
            raise UsageError("close this observer in the event loop that it was opened in")
        with self._lock:
            self._closing = True
        given = time.monotonic()
        try:
            finished = await self._wait_until_done(min(timeout, _pool.LAST_TRIES))
            if not finished and timeout > _pool.LAST_TRIES:
                self._stop_last_tries()
                finished = await self._wait_until_done(timeout - timedelta(seconds=time.monotonic() - given))
        finally:
            # After a cancellation as well: no analysis outlives the block.
            await finish(self._stop(asyncio.current_task()))
        return finished

    async def _stop(self, closer: "asyncio.Task[Any] | None") -> None:
        with self._lock:
            self._closed = True
            dropped = self._schedule.drop_queued()
        self._stop_last_tries()
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
            raise UsageError("the event loop that this observer was opened in is closed")

    async def _wait_until_done(self, timeout: timedelta) -> bool:
        try:
            async with asyncio.timeout(_pool.seconds(timeout)):
                while not self._schedule.empty:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return self._schedule.empty
        return True

    async def _end_late(self, closer: "asyncio.Task[Any] | None") -> None:
        start = time.monotonic()
        for run, analysis in self._analyses.items():
            # The same task cannot cancel itself, and needs not: whoever closes in an analysis is about to end.
            if analysis is not closer:
                analysis.cancel()
            self._keep(run._fail_quietly(_pool.CLOSED), run._context)
        others = self._tasks - {closer}
        if others:
            await asyncio.wait(others, timeout=_pool.until_given_up(time.monotonic() - start).total_seconds())

    def _keep(self, work: Coroutine[Any, Any, Any], context: Context | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _work_ended(self) -> None:
        if self._schedule.empty:
            self._call(self._changed.set)

    def _stop_trying(self, job: Job[AsyncActiveRun, asyncio.Event]) -> None:
        self._call(job.stop.set)

    def _start_workers(self) -> None:
        self._call(self._start_tasks)

    def _call(self, callback: Callable[[], object]) -> None:
        # Sessions are submitted and forgotten from any thread.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    def _start_tasks(self) -> None:
        with self._lock:
            count = min(self._schedule.queued, self._max_workers - self._workers)
            self._workers += count
        for _ in range(count):
            # In a context of their own, as threads have: a run is not part of the request that was first to submit.
            self._keep(self._work(), Context())

    async def _work(self) -> None:
        try:
            while (job := self._take()) is not None:
                try:
                    with _spans.of_run(job.submitters):
                        await self._observe(job)
                except Exception as error:
                    # A bug of ours must not cost the sessions after this one.
                    self._log_bug(job, error)
                finally:
                    self._done(job)
        except BaseException:
            # The loop ends.
            with self._lock:
                self._workers -= 1
            raise

    def _take(self) -> Job[AsyncActiveRun, asyncio.Event] | None:
        with self._lock:
            if not self._schedule.queued:
                self._workers -= 1
                return None
            job = self._schedule.take(asyncio.Event())
            if self._last_tries_over:
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
        # A task of its own: an analysis that holds on when it is cancelled does not hold up the record of its failure.
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
        except (Exception, SystemExit) as error:  # A SystemExit would end the loop.
            return None, error

    async def _begin(self, job: Job[AsyncActiveRun, asyncio.Event]) -> AsyncActiveRun | None:
        try:
            call = self._begin_call(job.session_id)
            begun = await self._client._transport.send(call, None, self._client._timeout, job.stop)
            with self._lock:
                deadline = time.monotonic() + self._time_limit.total_seconds()
                run = AsyncActiveRun(self._client, job.session_id, begun, deadline)
                if job.forgotten:
                    # It ends with its session.
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
        notes, raised = (None, asyncio.CancelledError()) if analysis.cancelled() else analysis.result()
        if raised is not None:
            if not run.ended:
                self._log_analysis(run, raised)
            await run._fail_quietly(self._overrun_or(run, for_logs(raised)))
            return
        if notes is None:
            if not run.ended:
                self._log_run(run, self._overrun_or(run, _pool.WITHOUT_NOTES))
            await run._fail_quietly(self._overrun_or(run, ENDED_WITHOUT_NOTES))
            return
        try:
            await run.write(notes, ttl=self._ttl)
        except (SessionDeleted, Unavailable) as error:
            # Nothing to record where the session is gone. Where there is no answer, the lease runs out instead.
            self._log_run(run, f"the notes could not be written: {for_logs(error)}")
        except Exception as error:
            self._log_run(run, f"the notes were not written: {for_logs(error)}")
            await run._fail_quietly(self._overrun_or(run, for_logs(error)))
