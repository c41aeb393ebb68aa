"""Active runs for asyncio, and the block of `async with observer.run(...)`: the counterpart of `_runs`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from session_notes._errors import UsageError, for_logs
from session_notes._limits import FAIL_TIMEOUT
from session_notes._results import BeginResult, RenewResult, Run, WriteResult
from session_notes._runs import BaseRun, block_failure
from session_notes._text import failure_text
from session_notes._types import Notes

if TYPE_CHECKING:
    from session_notes._async_observer import AsyncObserverClient

# How long a cancellation waits for the end of a run that was about to begin. A healthy sidecar takes about 2 ms. If it
# takes longer, the run ends after the cancellation.
_MAX_END_SECONDS = 0.2
_ending: set[asyncio.Task[None]] = set()


class AsyncActiveRun(BaseRun):
    """A run in flight.

    >>> async with observer.run("session-1") as run:
    ...     notes = await analyse(run.transcript)
    ...     await run.write(notes)
    """

    def __init__(
        self, client: AsyncObserverClient, session_id: str, begun: BeginResult, deadline: float | None = None
    ) -> None:
        super().__init__(session_id, begun, deadline)
        self._client = client

    async def write(
        self, notes: Notes, *, observed_turn: int | None = None, ttl: timedelta | None = None
    ) -> WriteResult:
        """Write the notes, once per run. The outcome shows whether they are now current, or a newer run's notes are.

        Args:
            notes: The notes.
            observed_turn: Number of turns that the run saw. None: as set when the run began.
            ttl: How long the notes stay current. None: as long as the session.

        Raises:
            UsageError: If the run has ended.
            SessionDeleted: If the session was deleted during the run. Discard the notes.
            Unavailable: If there is no response in time. Whether the notes were written is unknown. A retry is safe.
            SessionNotesError: If the call fails for another reason. Nothing was written.
        """
        with self._writing():
            return await self._client.write_notes(
                self.session_id, notes, run_id=self.run_id, observed_turn=observed_turn, ttl=ttl
            )

    async def fail(self, reason: str | BaseException | None) -> Run:
        """Record that the run ends without notes, and why. The reason must not contain what the user said.

        Args:
            reason: What went wrong, for humans. An exception becomes `Type: text`. Pass your own text if that of the
                exception may contain what the user said. Text beyond 4 KiB is cut and ends with `…`.

        Raises:
            UsageError: If the run has written its notes.
            SessionDeleted: If the session was deleted during the run.
            SessionNotesError: If the call fails for another reason.
        """
        text = failure_text(reason)
        self._start_failing(text)
        return await self._client.fail_run(self.session_id, self.run_id, text)

    async def renew(self, lease: timedelta | None = None) -> RenewResult:
        """Give the run a new lease, counted from now, and update `obsolete`.

        Args:
            lease: How long the run may take from now before it counts as abandoned. None: 5 minutes.

        Raises:
            RunAlreadyWritten: If the run has written its notes.
            RunAlreadyFailed: If the run has failed.
            RunNotFound: If the run does not exist any more, because its session has expired.
            SessionDeleted: If the session was deleted during the run.
            SessionNotesError: If the call fails for another reason.
        """
        return await self._renew(lease)

    async def _renew(self, lease: timedelta | None, timeout: timedelta | None = None) -> RenewResult:  # noqa: ASYNC109
        with self._renewing():
            result = await self._client.renew_run(self.session_id, self.run_id, lease=lease, timeout=timeout)
        self.obsolete = result.obsolete
        return result

    async def _fail_quietly(self, reason: str, timeout: timedelta = FAIL_TIMEOUT) -> bool:  # noqa: ASYNC109
        """Fail the run without raising, and return whether it had not ended before."""
        if not self._starts_failing_quietly(reason):
            return False
        with self._recording_failure():
            await finish(self._client.fail_run(self.session_id, self.run_id, reason, timeout=timeout))
        return True


class AsyncRunBlock:
    """The block of `async with observer.run(...)`: the run begins on entry and ends on exit."""

    def __init__(
        self, client: AsyncObserverClient, session_id: str, begin: Callable[[], Awaitable[BeginResult]]
    ) -> None:
        self._client = client
        self._session_id = session_id
        self._begin = begin

    async def __aenter__(self) -> AsyncActiveRun:
        begin = asyncio.ensure_future(self._begin())
        try:
            begun = await asyncio.shield(begin)
        except asyncio.CancelledError as error:
            # The sidecar may have begun the run, which would then stay in flight for its whole lease.
            end = asyncio.ensure_future(self._end(begin, for_logs(error)))
            _ending.add(end)
            end.add_done_callback(_ending.discard)
            await finish(asyncio.wait([end], timeout=_MAX_END_SECONDS))
            raise
        self._run = AsyncActiveRun(self._client, self._session_id, begun)
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._run._fail_quietly(block_failure(error))

    async def _end(self, begin: asyncio.Future[BeginResult], reason: str) -> None:
        """Record the failure of a run whose BeginRun was cancelled by its caller."""
        await asyncio.wait([begin])
        if not begin.cancelled() and begin.exception() is None:
            await AsyncActiveRun(self._client, self._session_id, begin.result())._fail_quietly(reason)

    def __enter__(self) -> NoReturn:
        raise UsageError("enter a run of an AsyncObserverClient with `async with`")

    def __exit__(self, *_: object) -> None:
        pass


async def finish(work: Coroutine[Any, Any, object]) -> None:
    """Await short work until it is done, and only then raise a cancellation that arrived in the meantime.

    A cancelled anyio scope cancels every await inside it. Without this function, a run whose block such
    a scope cancels could not be recorded as failed.
    """
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        task.cancelled() or task.exception()  # Retrieved, so that asyncio does not log it.
        raise cancellation
    await task
