"""A run at work: what `with observer.run(...) as run` hands out."""

import logging
import threading
import time
from contextvars import copy_context
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from session_notes._errors import RunAlreadyFailed, RunAlreadyWritten, SessionDeleted, SessionNotesError, UsageError
from session_notes._types import BeginResult, Notes, Run, RunState, Turn, WriteResult

if TYPE_CHECKING:
    from session_notes._async_observer import AsyncObserverClient
    from session_notes._observer import ObserverClient

LOGGER = logging.getLogger("session_notes")

ENDED_WITHOUT_NOTES = "ended without notes"

FAIL_TIMEOUT = timedelta(seconds=2)
"""How long a run that is lost anyway may hold up its process to say so; its lease says it otherwise."""

# What FailRun says where there is no failure to be recorded: the run is gone with its session, or has written.
_NO_FAILURE = (SessionDeleted, RunAlreadyWritten)


def log_name(session_id: str) -> str:
    """What a session is called in logs: ids are chosen by callers, and may say who the user is.

    The start of its SHA-256, as `printf %s ID | sha256sum | cut -c1-8` prints it too.
    """
    import hashlib  # A tenth of the time that importing this package takes, and most processes never log one.

    return hashlib.sha256(session_id.encode()).hexdigest()[:8]


class RunAtWork:
    """A run that has begun, and whether it has ended: what the blocking and the asyncio one share.

    Attributes:
        session_id: The session it is about.
        observer: Whose run.
        run_id: Its id.
        number: Its number.
        observed_turn: How many turns it sees; None: not known.
        begin_time: When it took its snapshot, by the store's clock.
        transcript: The conversation as of then, oldest turn first; empty where not asked for.

    Raises:
        RunAlreadyWritten: It had written its notes before: its work is done.
        RunAlreadyFailed: It had failed before.
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
        self._deadline = deadline
        # Whoever ends it from another thread does so as if from here: see `_spans`.
        self._context = copy_context()
        # An analysis and its watchdog may both want to end the run: the first one does.
        self._lock = threading.Lock()
        self._state: Literal["open", "writing", "written", "failed"] = "open"
        self._failure = ""

    def __repr__(self) -> str:
        # It ends up in logs: see log_name.
        session = log_name(self.session_id)
        return f"<{type(self).__name__}: run {self.number} of observer {self.observer!r} on session {session}>"

    @property
    def remaining(self) -> timedelta | None:
        """How long the analysis may still take, not below 0; None: nobody set a limit.

        >>> model.ask(prompt, timeout=run.remaining.total_seconds())
        """
        if self._deadline is None:
            return None
        return timedelta(seconds=max(0.0, self._deadline - time.monotonic()))

    @property
    def ended(self) -> bool:
        """Whether its notes are written, or it has failed."""
        return self._state in ("written", "failed")

    def _start_writing(self) -> None:
        with self._lock:
            if self._state == "failed":
                raise UsageError(f"the run has failed: {self._failure}")
            if self._state != "open":
                raise UsageError("a run writes its notes once")
            if self._deadline is not None and time.monotonic() >= self._deadline:
                raise UsageError("the time limit of the run has passed")
            self._state = "writing"

    def _stop_writing(self, *, written: bool) -> None:
        # After a write that was refused or not answered, another one may follow: the run id makes it safe.
        with self._lock:
            self._state = "written" if written else "open"

    def _start_failing(self, reason: str) -> bool:
        """Ends the run; False where something else has, or is about to."""
        with self._lock:
            if self._state != "open":
                return False
            self._state, self._failure = "failed", reason
            return True

    def _start_failing_again(self, reason: str) -> None:
        # Once failed, failing again is harmless: the first reason stays, as it does in the sidecar.
        if not self._start_failing(reason) and self._state != "failed":
            raise UsageError("a run that writes its notes cannot fail")

    def _log_unrecorded(self, error: SessionNotesError) -> None:
        # Its lease runs out instead. Names of errors alone: their texts may hold what the user said.
        LOGGER.warning(
            "session %s, run %d: its failure could not be recorded: %s",
            log_name(self.session_id),
            self.number,
            type(error).__name__,
        )


class ActiveRun(RunAtWork):
    """A run at work.

    >>> with observer.run("session-1") as run:
    ...     notes = analyse(run.transcript)
    ...     run.write(notes)
    """

    def __init__(
        self, client: "ObserverClient", session_id: str, begun: BeginResult, deadline: float | None = None
    ) -> None:
        super().__init__(session_id, begun, deadline)
        self._client = client

    def write(self, notes: Notes, *, observed_turn: int | None = None, ttl: timedelta | None = None) -> WriteResult:
        """Writes the notes, once. A newer run's notes stay: the outcome says whether these are current.

        Args:
            notes: What the run concluded.
            observed_turn: How many turns it has seen, where that is not what it began with.
            ttl: How long the notes count; None: as long as the session.

        Raises:
            UsageError: The run has ended.
            SessionDeleted: The session was deleted meanwhile: give up.
            Unavailable: Nobody answered; whether they were written is not known. Writing the same again is safe.
            SessionNotesError: Anything else; nothing was written.
        """
        self._start_writing()
        written = False
        try:
            result = self._client.write_notes(
                self.session_id, notes, run_id=self.run_id, observed_turn=observed_turn, ttl=ttl
            )
            written = True
        finally:
            self._stop_writing(written=written)
        return result

    def fail(self, reason: str) -> Run:
        """Records that the run ends without notes, and why. People will read the reason: nothing of what the user said.

        Raises:
            UsageError: The run has written its notes.
            SessionNotesError: Anything else.
        """
        self._start_failing_again(reason)
        return self._client.fail_run(self.session_id, self.run_id, reason)

    def _fail_quietly(self, reason: str, timeout: timedelta = FAIL_TIMEOUT) -> bool:
        """Ends the run without raising, unless it has ended; whether this ended it."""
        if not self._start_failing(reason):
            return False
        try:
            self._client.fail_run(self.session_id, self.run_id, reason, timeout=timeout)
        except _NO_FAILURE:
            pass
        except SessionNotesError as error:
            self._log_unrecorded(error)
        return True


class AsyncActiveRun(RunAtWork):
    """A run at work, for asyncio.

    >>> async with observer.run("session-1") as run:
    ...     notes = await analyse(run.transcript)
    ...     await run.write(notes)
    """

    def __init__(self, client: "AsyncObserverClient", session_id: str, begun: BeginResult) -> None:
        super().__init__(session_id, begun)
        self._client = client

    async def write(
        self, notes: Notes, *, observed_turn: int | None = None, ttl: timedelta | None = None
    ) -> WriteResult:
        """Writes the notes, once: as `ActiveRun.write`."""
        self._start_writing()
        written = False
        try:
            result = await self._client.write_notes(
                self.session_id, notes, run_id=self.run_id, observed_turn=observed_turn, ttl=ttl
            )
            written = True
        finally:
            self._stop_writing(written=written)
        return result

    async def fail(self, reason: str) -> Run:
        """Records that the run ends without notes, and why: as `ActiveRun.fail`."""
        self._start_failing_again(reason)
        return await self._client.fail_run(self.session_id, self.run_id, reason)

    async def _fail_quietly(self, reason: str) -> bool:
        """Ends the run without raising, unless it has ended; whether this ended it."""
        if not self._start_failing(reason):
            return False
        try:
            await self._client.fail_run(self.session_id, self.run_id, reason, timeout=FAIL_TIMEOUT)
        except _NO_FAILURE:
            pass
        except SessionNotesError as error:
            self._log_unrecorded(error)
        return True
