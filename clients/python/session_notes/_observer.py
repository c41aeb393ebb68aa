"""The observer's side, blocking."""

import functools
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from session_notes import _calls
from session_notes._credentials import TLS, Token
from session_notes._runs import RunBlock, storable
from session_notes._transport import Transport
from session_notes._types import BeginResult, Notes, Run, WriteResult

DEFAULT_RUN_TIMEOUT = timedelta(seconds=10)
"""How long a call of an observer goes on trying unless told: nobody waits for it, and a sidecar restarts in less."""


class ObserverClient:
    """What a process that analyses sessions needs. Safe to use from many threads.

        >>> with ObserverClient(observer="coach") as observer:
        ...     with observer.run("session-1") as run:
        ...         run.write(Notes(summary=f"{len(run.transcript)} turns so far"))

    Every call is tried again while the sidecar is unavailable, until its timeout, and always with the same run id:
    nothing is begun or written twice.

    Args:
        target: The sidecar's address: `127.0.0.1:50051`, `unix:/run/session-notes.sock`. None: the environment variable
            `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
        token: What the sidecar knows this caller by, or a function that gives it at every call, such as `TokenFile`.
            None: the environment variable `SESSION_NOTES_TOKEN`, else the file that `SESSION_NOTES_TOKEN_FILE` names.
        tls: How to encrypt the connection. None: with what `SESSION_NOTES_TLS_CA`, `SESSION_NOTES_TLS_CERT` and
            `SESSION_NOTES_TLS_KEY` name, else not at all. Without it a token is sent to this machine only.
        observer: Who observes; empty: `default`.
        timeout: How long a call goes on trying; those of the client itself can say otherwise.
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
        self._transport = Transport(target, token, tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. Calls under way in other threads end as Unavailable, later ones as UsageError."""
        self._transport.close()

    def run(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        observed_turn: int | None = None,
        lease: timedelta | None = None,
        only_if_idle: bool = False,
        include_transcript: bool = True,
    ) -> RunBlock:
        """One run: begins it, hands over the transcript, and makes sure that it ends.

        A block that raises, or ends without notes, is recorded as a run that failed; its own exception goes on.

            >>> with observer.run("session-1") as run:
            ...     run.write(analyse(run.transcript))

        Args:
            session_id: The session to observe; started where there is none.
            run_id: The run's id; None: a new one. Give your own where a supervisor may start the same work again: a run
                that was begun and has not ended goes on, and what is done is not done again.
            observed_turn: How many turns the run is going to see; None: as many as are stored.
            lease: How long it may take before it counts as abandoned; None: 5 minutes.
            only_if_idle: Whether to begin only if no other run of this observer is at work on the session.
            include_transcript: Whether to hand over the transcript.

        Raises:
            RunAlreadyWritten: The run of this `run_id` has written its notes, current ones or not: the work is done.
            RunAlreadyFailed: The run of this `run_id` has failed. To try again is another run, with another id.
            RunInFlight: Another run is at work, and `only_if_idle` was asked for.
            SessionDeleted: The run was known when the session was deleted.
            SessionNotesError: The run could not begin.
        """
        begin = functools.partial(
            self.begin_run,
            session_id,
            run_id=run_id,
            observed_turn=observed_turn,
            lease=lease,
            only_if_idle=only_if_idle,
            include_transcript=include_transcript,
        )
        return RunBlock(self, session_id, begin)

    def begin_run(
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
        """Begins a run and nothing more: as `run`, but ending it is yours. Its state says if it has ended before."""
        call = _calls.begin_run(
            session_id,
            self.observer,
            run_id or _calls.new_run_id(),
            observed_turn,
            lease,
            only_if_idle,
            include_transcript,
        )
        return self._transport.send(call, timeout, self._timeout)

    def write_notes(
        self,
        session_id: str,
        notes: Notes,
        *,
        run_id: str | None = None,
        observed_turn: int | None = None,
        ttl: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> WriteResult:
        """Writes the notes of a run, begun or not.

            >>> observer.write_notes("session-1", Notes(summary="Goals are clear."), observed_turn=12).outcome
            <WriteOutcome.ACCEPTED: 'accepted'>

        Args:
            session_id: The session they are about; started where there is none.
            notes: What was concluded.
            run_id: The run that concluded them; None: a new one.
            observed_turn: How many turns it has seen; None: as it said when it began.
            ttl: How long the notes count; None: as long as the session.
            timeout: How long to go on trying; None: as the client was told.

        Raises:
            RunAlreadyWritten: The run has written other notes.
            RunAlreadyFailed: The run has ended without notes.
            SessionDeleted: The run was known when the session was deleted.
            Unavailable: Nobody answered; whether they were written is not known. The same again is safe, with `run_id`.
            SessionNotesError: Anything else.
        """
        call = _calls.write_notes(session_id, self.observer, run_id or _calls.new_run_id(), notes, observed_turn, ttl)
        return self._transport.send(call, timeout, self._timeout)

    def fail_run(
        self,
        session_id: str,
        run_id: str,
        reason: str | BaseException | None = "",
        *,
        timeout: timedelta | None = None,
    ) -> Run:
        """Record that a run ended without notes, and why. Idempotent.

        Args:
            session_id: The session it is about.
            run_id: The run's id.
            reason: What went wrong, as for `ActiveRun.fail`.
            timeout: How long to go on trying; None: as the client was told.

        Raises:
            RunNotFound: There is no such run.
            RunAlreadyWritten: The run has written notes.
            SessionNotesError: Anything else.
        """
        call = _calls.fail_run(session_id, self.observer, run_id, storable(reason))
        return self._transport.send(call, timeout, self._timeout)

    def list_runs(
        self, session_id: str, *, include_notes: bool = False, page_size: int = 0, timeout: timedelta | None = None
    ) -> Iterator[Run]:
        """The last 20 runs, newest first, fetched page by page; `timeout` is for each.

        >>> [(run.number, run.state.value) for run in observer.list_runs("session-1")]
        [(2, 'running'), (1, 'written')]
        """
        token = ""
        while True:
            call = _calls.list_runs(session_id, self.observer, include_notes, page_size, token)
            page, token = self._transport.send(call, timeout, self._timeout)
            yield from page
            if not token:
                return
