"""Active runs: a run that has begun, how it ends, and the block of `with observer.run(...)`.

`_async_runs` is the counterpart for asyncio. The rules are in `BaseRun`, which both share. The blocks are written
separately because only asyncio has cancellation. tests/clients/test_counterparts.py compares their signatures and
docstrings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn

from session_notes import _forks
from session_notes._errors import (
    RunAlreadyFailed,
    RunAlreadyWritten,
    RunNotFound,
    SessionDeleted,
    UsageError,
    for_logs,
)
from session_notes._limits import FAIL_TIMEOUT
from session_notes._logs import session_digest, warn
from session_notes._results import BeginResult, Reading, RenewResult, Run, WriteResult
from session_notes._text import failure_text
from session_notes._types import Notes, RunState, Turn

if TYPE_CHECKING:
    from session_notes._observer import ObserverClient

ENDED_WITHOUT_NOTES = "ended without notes"


class BaseRun:
    """A run that has begun, and whether it has ended: the state that `ActiveRun` and `AsyncActiveRun` share.

    Attributes:
        session_id: The session.
        observer: Name of the observer.
        run_id: Id of the run.
        number: Number of the run.
        observed_turn: Number of turns that the run sees. None: unknown.
        begin_time: When the run took its snapshot, by the store's clock.
        transcript: The conversation as of the snapshot, or the requested part of it, oldest turn first.
        first_turn: Number of the first turn in `transcript`, from 1. None: it is empty, or the sidecar is older than
            this client and ignores requests for a part.
        current: Reading of the notes that were current at the snapshot. None: not requested, or the sidecar is older.
        obsolete: Whether the run's write would be superseded, or its session is gone, as of the last renewal. The
            analysis may end early.

    Raises:
        RunAlreadyWritten: If the run has already written its notes.
        RunAlreadyFailed: If the run has already failed.
    """

    def __init__(self, session_id: str, begun: BeginResult, deadline: float | None = None) -> None:
        run = begun.run
        if run.state in (RunState.WRITTEN, RunState.SUPERSEDED):
            raise RunAlreadyWritten(f"run {run.number} has written its notes")
        if run.state is RunState.FAILED:
            raise RunAlreadyFailed(f"run {run.number} has failed")
        self.session_id = session_id
        self.observer: str = run.observer
        self.run_id: str = run.run_id
        self.number: int = run.number
        self.observed_turn: int | None = run.observed_turn
        self.begin_time: datetime | None = run.begin_time
        self.transcript: tuple[Turn, ...] = begun.transcript
        self.first_turn: int | None = begun.first_turn
        self.current: Reading | None = begun.current
        self.obsolete = False
        self._deadline = deadline
        # A thread that ends the run from outside does so in this context, so that its span belongs to the run's trace.
        self._context = copy_context()
        # The analysis and its watchdog may end the run at the same time. The first one wins.
        self._lock = threading.RLock()
        self._state: Literal["open", "writing", "written", "failed", "deleted"] = "open"
        self._failure = ""
        self._inherited = False
        _forks.register(self)

    def _forked(self) -> None:
        # The child may write the notes, but the run ends with the parent, not with the first child.
        self._inherited = True
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        # A digest, because this text may end up in logs.
        session = session_digest(self.session_id)
        return f"<{type(self).__name__}: run {self.number} of observer {self.observer!r} on session {session}>"

    @property
    def remaining(self) -> timedelta | None:
        """Time until the time limit, not below 0. None: no time limit.

        >>> model.ask(prompt, timeout=run.remaining.total_seconds())
        """
        if self._deadline is None:
            return None
        return timedelta(seconds=max(0.0, self._deadline - time.monotonic()))

    @property
    def ended(self) -> bool:
        """Whether the run has written its notes or failed, or its session was deleted."""
        return self._state in ("written", "failed", "deleted")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Enclose a call that writes the notes.

        If it raises, another write may follow. The run id makes that safe.
        """
        with self._lock:
            self._check_writable()
            self._state = "writing"
        after: Literal["open", "written"] = "open"
        try:
            yield
            after = "written"
        finally:
            with self._lock:
                if self._state == "writing":
                    self._state = after

    def _check_writable(self) -> None:
        if self._state == "deleted":
            raise SessionDeleted("the session was deleted")
        if self._state == "failed":
            error = UsageError(f"the run has failed: {self._failure}")
            error._for_logs = "the run has failed"
            raise error
        if self._state != "open":
            raise UsageError("a run writes its notes once")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise UsageError("the time limit of the run has passed")

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Enclose a RenewRun. A run that can no longer write is obsolete."""
        try:
            yield
        except (RunNotFound, RunAlreadyFailed, SessionDeleted):
            if not self.ended:
                self.obsolete = True
            raise

    def _session_deleted(self) -> None:
        """End the run without a call: no later write reaches the session."""
        self.obsolete = True
        with self._lock:
            if self._state in ("open", "writing"):
                self._state = "deleted"

    def _start_failing(self, reason: str) -> None:
        """Mark the run as failed. Failing twice is harmless: the first reason stays, as in the sidecar."""
        if self._fails_now(reason) or self._state == "failed":
            return
        if self._state == "deleted":
            raise SessionDeleted("the session was deleted")
        raise UsageError("a run that writes its notes cannot fail")

    def _starts_failing_quietly(self, reason: str) -> bool:
        """Mark the run as failed. Return False if it has already ended, or belongs to the parent process."""
        return not self._inherited and self._fails_now(reason)

    def _fails_now(self, reason: str) -> bool:
        with self._lock:
            if self._state != "open":
                return False
            self._state, self._failure = "failed", reason
            return True

    @contextmanager
    def _recording_failure(self) -> Iterator[None]:
        """Enclose a FailRun whose errors must not propagate. Without the record, the run's lease expires."""
        try:
            yield
        except (SessionDeleted, RunAlreadyWritten):
            pass  # The run has ended in another way: there is no failure to record.
        except Exception as error:  # Any exception, such as that of a token function.
            warn(
                "session %s, run %d: its failure could not be recorded: %s",
                session_digest(self.session_id),
                self.number,
                for_logs(error),
            )


class ActiveRun(BaseRun):
    """A run in flight.

    >>> with observer.run("session-1") as run:
    ...     notes = analyse(run.transcript)
    ...     run.write(notes)
    """

    def __init__(
        self, client: ObserverClient, session_id: str, begun: BeginResult, deadline: float | None = None
    ) -> None:
        super().__init__(session_id, begun, deadline)
        self._client = client

    def write(self, notes: Notes, *, observed_turn: int | None = None, ttl: timedelta | None = None) -> WriteResult:
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
            return self._client.write_notes(
                self.session_id, notes, run_id=self.run_id, observed_turn=observed_turn, ttl=ttl
            )

    def fail(self, reason: str | BaseException | None) -> Run:
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
        return self._client.fail_run(self.session_id, self.run_id, text)

    def renew(self, lease: timedelta | None = None) -> RenewResult:
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
        return self._renew(lease)

    def _renew(self, lease: timedelta | None, timeout: timedelta | None = None) -> RenewResult:
        with self._renewing():
            result = self._client.renew_run(self.session_id, self.run_id, lease=lease, timeout=timeout)
        self.obsolete = result.obsolete
        return result

    def _fail_quietly(self, reason: str, timeout: timedelta = FAIL_TIMEOUT) -> bool:
        """Fail the run without raising, and return whether it had not ended before."""
        if not self._starts_failing_quietly(reason):
            return False
        with self._recording_failure():
            self._client.fail_run(self.session_id, self.run_id, reason, timeout=timeout)
        return True


class RunBlock:
    """The block of `with observer.run(...)`: the run begins on entry and ends on exit."""

    def __init__(self, client: ObserverClient, session_id: str, begin: Callable[[], BeginResult]) -> None:
        self._client = client
        self._session_id = session_id
        self._begin = begin

    def __enter__(self) -> ActiveRun:
        self._run = ActiveRun(self._client, self._session_id, self._begin())
        return self._run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run._fail_quietly(block_failure(error))

    async def __aenter__(self) -> NoReturn:
        raise UsageError("enter a run of an ObserverClient with `with`; for asyncio, use AsyncObserverClient")

    async def __aexit__(self, *_: object) -> None:
        pass


def block_failure(error: BaseException | None) -> str:
    """Return the failure of a run whose block was left without notes.

    It omits the exception's text, which may contain what the user said: a run's failure can be read by others.
    """
    return ENDED_WITHOUT_NOTES if error is None else for_logs(error)
