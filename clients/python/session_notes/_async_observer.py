"""Asyncio client for observers. Generated from `_observer` by clients/python/async_clients.py: do not edit."""
# ruff: noqa: ASYNC109 - the deadline is sent with the call; asyncio.timeout would not reach the sidecar.

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from session_notes import _calls, _notes_calls
from session_notes._async_runs import AsyncRunBlock
from session_notes._async_transport import AsyncTransport
from session_notes._credentials import TLS, Token
from session_notes._limits import DEFAULT_RUN_TIMEOUT
from session_notes._results import BeginResult, DueSession, RenewResult, Run, WriteResult
from session_notes._text import failure_text
from session_notes._types import Notes


class AsyncObserverClient:
    """Client for a process that analyses sessions: begins runs, reads the transcript, writes notes.

        >>> async with AsyncObserverClient(observer="coach") as observer:
        ...     async with observer.run("session-1") as run:
        ...         await run.write(Notes(summary=f"{len(run.transcript)} turns so far"))

    Open it with `async with`. It belongs to that event loop, and raises UsageError in any other.

    Every call is retried until its timeout while the sidecar is unavailable, always with the same run id, so that
    no run begins twice and no notes are written twice.

    Args:
        target: Address of the sidecar, such as `127.0.0.1:50051` or `unix:/run/session-notes.sock`. None: the
            environment variable `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
        token: Token of this client, or a function that returns it for every call, such as `TokenFile`. None: the
            environment variable `SESSION_NOTES_TOKEN`, else the file named by `SESSION_NOTES_TOKEN_FILE`. A token
            requires TLS, unless the sidecar is on this machine.
        tls: TLS for the connection. None: the files named by `SESSION_NOTES_TLS_CA`, `SESSION_NOTES_TLS_CERT` and
            `SESSION_NOTES_TLS_KEY`, else no encryption.
        observer: Name of the observer. Empty: `default`.
        timeout: Default timeout of every call, all retries included.

    Raises:
        InvalidArgument: If an argument is invalid, such as a target that is not an address.
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
        """Close the connection. Calls in flight in other tasks raise Unavailable. Later calls raise UsageError."""
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
        after_turn: int | None = None,
        after_current_notes: bool = False,
        max_turns: int | None = None,
        include_current_notes: bool = False,
    ) -> AsyncRunBlock:
        """Begin a run for the duration of an `async with` block, and make sure that it ends.

            >>> async with observer.run("session-1") as run:
            ...     await run.write(analyse(run.transcript))

        If the block raises, or ends without notes, the run is recorded as failed. The exception propagates.

        Args:
            session_id: The session. Created if it does not exist.
            run_id: Id of the run. None: a new one. Pass your own id if a supervisor may restart the work: a run in
                flight then continues, and finished work is not repeated.
            observed_turn: Number of turns that the run sees. None: the number of stored turns.
            lease: How long the run may take before it counts as abandoned. None: 5 minutes.
            only_if_idle: Whether to begin only if no other run of this observer is in flight for the session.
            include_transcript: Whether to return the transcript.
            after_turn: Return only turns with a higher number. Turns are numbered from 1. None: all turns.
            after_current_notes: Return only turns that the run of the current notes has not seen.
            max_turns: Of these turns, return at most so many, the newest. None: no maximum.
            include_current_notes: Whether to return the current notes, as `current`.

        Raises:
            RunAlreadyWritten: If the run with this `run_id` has already written its notes. The work is done.
            RunAlreadyFailed: If the run with this `run_id` has failed. Retry the work with another id.
            RunInFlight: If another run is in flight and `only_if_idle` is set.
            SessionDeleted: If the session was deleted after this run had begun.
            SessionNotesError: If the run cannot begin for another reason.
        """
        begin = functools.partial(
            self.begin_run,
            session_id,
            run_id=run_id,
            observed_turn=observed_turn,
            lease=lease,
            only_if_idle=only_if_idle,
            include_transcript=include_transcript,
            after_turn=after_turn,
            after_current_notes=after_current_notes,
            max_turns=max_turns,
            include_current_notes=include_current_notes,
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
        after_turn: int | None = None,
        after_current_notes: bool = False,
        max_turns: int | None = None,
        include_current_notes: bool = False,
        timeout: timedelta | None = None,
    ) -> BeginResult:
        """Begin a run without an `async with` block. The caller must end it with `write_notes` or `fail_run`.

        Arguments and errors are those of `run`, with two exceptions. `timeout` is the timeout of this call. For a run
        that has already ended, no error is raised: check the run's `state`.
        """
        call = _notes_calls.begin_run(
            session_id,
            self.observer,
            run_id=run_id,
            observed_turn=observed_turn,
            lease=lease,
            only_if_idle=only_if_idle,
            include_transcript=include_transcript,
            after_turn=after_turn,
            after_current_notes=after_current_notes,
            max_turns=max_turns,
            include_current_notes=include_current_notes,
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
        """Write the notes of a run, with or without BeginRun.

            >>> result = await observer.write_notes("session-1", Notes(summary="Goals are clear."), observed_turn=12)
            >>> result.outcome
            <WriteOutcome.ACCEPTED: 'accepted'>

        Args:
            session_id: The session. Created if it does not exist.
            notes: The notes.
            run_id: The run that produced the notes. None: a new run.
            observed_turn: Number of turns that the run saw. None: as set when the run began.
            ttl: How long the notes stay current. None: as long as the session.
            timeout: Timeout of this call. None: the client's `timeout`.

        Raises:
            RunAlreadyWritten: If the run has written other notes.
            RunAlreadyFailed: If the run has ended without notes.
            SessionDeleted: If the session was deleted after this run had begun.
            Unavailable: If there is no response in time. Whether the notes were written is unknown. With a `run_id`, a
                retry is safe.
            SessionNotesError: If the call fails for another reason.
        """
        call = _notes_calls.write_notes(session_id, self.observer, run_id, notes, observed_turn, ttl)
        return await self._transport.send(call, timeout, self._timeout)

    async def fail_run(
        self,
        session_id: str,
        run_id: str,
        reason: str | BaseException | None = "",
        *,
        timeout: timedelta | None = None,
    ) -> Run:
        """Record that a run ended without notes, and why. Idempotent.

        Args:
            session_id: The session.
            run_id: Id of the run.
            reason: What went wrong, as for `AsyncActiveRun.fail`.
            timeout: Timeout of this call. None: the client's `timeout`.

        Raises:
            RunNotFound: If the run does not exist.
            RunAlreadyWritten: If the run has written notes.
            SessionNotesError: If the call fails for another reason.
        """
        call = _notes_calls.fail_run(session_id, self.observer, run_id, failure_text(reason))
        return await self._transport.send(call, timeout, self._timeout)

    async def renew_run(
        self,
        session_id: str,
        run_id: str,
        *,
        lease: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> RenewResult:
        """Give a run in flight a new lease, counted from now. Renew a long analysis at a third of its lease.

        Args:
            session_id: The session.
            run_id: Id of the run.
            lease: How long the run may take from now before it counts as abandoned. None: 5 minutes.
            timeout: Timeout of this call. None: the client's `timeout`.

        Raises:
            RunNotFound: If the run does not exist.
            RunAlreadyWritten: If the run has written notes.
            RunAlreadyFailed: If the run has ended without notes.
            SessionDeleted: If the session was deleted after this run had begun.
            SessionNotesError: If the call fails for another reason.
        """
        call = _notes_calls.renew_run(session_id, self.observer, run_id, lease)
        return await self._transport.send(call, timeout, self._timeout)

    async def due_sessions(
        self,
        *,
        min_turns_behind: int | None = None,
        min_interval: timedelta | None = None,
        min_quiet: timedelta | None = None,
        page_size: int = 0,
        timeout: timedelta | None = None,
    ) -> AsyncIterator[DueSession]:
        """Iterate over the sessions that this observer should analyse, in no particular order.

            >>> async for due in observer.due_sessions(min_quiet=timedelta(seconds=2)):
            ...     print(due.session_id, due.turns_behind)

        These have new turns and no run of this observer in flight. The sidecar scans its whole store for a listing, so
        list every few seconds at most. To share the work between processes, begin each run with `only_if_idle`.

        Args:
            min_turns_behind: Minimum number of turns that the current notes have not seen. None: 1.
            min_interval: Minimum time since this observer's latest run began. None: any time.
            min_quiet: Minimum time since the last turn was appended. None: any time.
            page_size: Sessions per page. 0: the sidecar's default.
            timeout: Timeout of each page. None: the client's `timeout`.

        Raises:
            SessionNotesError: If a call fails.
        """
        token = ""
        while True:
            call = _notes_calls.due_sessions(self.observer, min_turns_behind, min_interval, min_quiet, page_size, token)
            page, token = await self._transport.send(call, timeout, self._timeout)
            for item in page:
                yield item
            if not token:
                return

    async def list_runs(
        self, session_id: str, *, include_notes: bool = False, page_size: int = 0, timeout: timedelta | None = None
    ) -> AsyncIterator[Run]:
        """Iterate over the last 20 runs of this observer for a session, newest first.

            >>> [(run.number, run.state.value) async for run in observer.list_runs("session-1")]
            [(2, 'running'), (1, 'written')]

        Args:
            session_id: The session.
            include_notes: Whether to return each run's notes.
            page_size: Runs per page. 0: the sidecar's default.
            timeout: Timeout of each page. None: the client's `timeout`.

        Raises:
            SessionNotesError: If a call fails.
        """
        token = ""
        while True:
            call = _notes_calls.list_runs(session_id, self.observer, include_notes, page_size, token)
            page, token = await self._transport.send(call, timeout, self._timeout)
            for item in page:
                yield item
            if not token:
                return
