"""The observer's side, for asyncio."""
# ruff: noqa: ASYNC109 - the deadline travels with the call; asyncio.timeout would not tell the sidecar.

import functools
from collections.abc import AsyncIterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from session_notes import _calls
from session_notes._credentials import TLS, Token
from session_notes._observer import DEFAULT_RUN_TIMEOUT
from session_notes._runs import AsyncRunBlock, storable
from session_notes._transport import AsyncTransport
from session_notes._types import BeginResult, Notes, Run, WriteResult


class AsyncObserverClient:
    """`ObserverClient` for asyncio. Opened by `async with`, and then only for the loop it was opened in.

        >>> async with AsyncObserverClient(observer="coach") as observer:
        ...     async with observer.run("session-1") as run:
        ...         await run.write(Notes(summary=f"{len(run.transcript)} turns so far"))

    Arguments, answers and errors are those of `ObserverClient`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        token: Token | None = None,
        tls: TLS | None = None,
        observer: str = "",
        timeout: timedelta = DEFAULT_RUN_TIMEOUT,
    ) -> None:
        _calls.check_options(observer, timeout=timeout)
        self.observer = observer
        self._timeout = timeout
        self._transport = AsyncTransport(target, token, tls)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection. Calls under way in other tasks end as Unavailable, later ones as UsageError."""
        await self._transport.close()

    def run(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        observed_turn: int | None = None,
        lease: timedelta | None = None,
        only_if_idle: bool = False,
        include_transcript: bool = True,
    ) -> AsyncRunBlock:
        """One run, begun and sure to end: as `ObserverClient.run`."""
        begin = functools.partial(
            self.begin_run,
            session_id,
            run_id=run_id,
            observed_turn=observed_turn,
            lease=lease,
            only_if_idle=only_if_idle,
            include_transcript=include_transcript,
        )
        return AsyncRunBlock(self, session_id, begin)

    async def begin_run(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        observed_turn: int | None = None,
        lease: timedelta | None = None,
        only_if_idle: bool = False,
        include_transcript: bool = True,
        timeout: timedelta | None = None,
    ) -> BeginResult:
        """Begins a run and nothing more: as `ObserverClient.begin_run`."""
        call = _calls.begin_run(
            session_id,
            self.observer,
            run_id or _calls.new_run_id(),
            observed_turn,
            lease,
            only_if_idle,
            include_transcript,
        )
        return await self._transport.send(call, timeout, self._timeout)

    async def write_notes(
        self,
        session_id: str,
        notes: Notes,
        *,
        run_id: str | None = None,
        observed_turn: int | None = None,
        ttl: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> WriteResult:
        """Writes the notes of a run, begun or not: as `ObserverClient.write_notes`."""
        call = _calls.write_notes(session_id, self.observer, run_id or _calls.new_run_id(), notes, observed_turn, ttl)
        return await self._transport.send(call, timeout, self._timeout)

    async def fail_run(
        self,
        session_id: str,
        run_id: str,
        reason: str | BaseException | None = "",
        *,
        timeout: timedelta | None = None,
    ) -> Run:
        """Record that a run ended without notes, and why: as `ObserverClient.fail_run`."""
        call = _calls.fail_run(session_id, self.observer, run_id, storable(reason))
        return await self._transport.send(call, timeout, self._timeout)

    async def list_runs(
        self, session_id: str, *, include_notes: bool = False, page_size: int = 0, timeout: timedelta | None = None
    ) -> AsyncIterator[Run]:
        """The last 20 runs, newest first: as `ObserverClient.list_runs`.

        >>> [run.number async for run in observer.list_runs("session-1")]
        [2, 1]
        """
        token = ""
        while True:
            call = _calls.list_runs(session_id, self.observer, include_notes, page_size, token)
            page, token = await self._transport.send(call, timeout, self._timeout)
            for run in page:
                yield run
            if not token:
                return
