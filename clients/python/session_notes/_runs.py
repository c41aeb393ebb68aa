"""Runs in flight: what `with observer.run(...) as run` hands out, how a run's failure is told, and the log."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from session_notes import _forks
from session_notes._errors import RunAlreadyFailed, RunAlreadyWritten, SessionDeleted, UsageError, for_logs
from session_notes._text import shortened
from session_notes._types import BeginResult, Notes, Run, RunState, Turn, WriteResult

if TYPE_CHECKING:
    from session_notes._async_observer import AsyncObserverClient
    from session_notes._observer import ObserverClient

LOGGER = logging.getLogger("session_notes")

ENDED_WITHOUT_NOTES = "ended without notes"

FAIL_TIMEOUT = timedelta(seconds=2)
"""How long a run that is lost anyway may hold up its process to say so; its lease says it otherwise."""

_MAX_REASON_BYTES = 4096
_CUT = "…"

# What FailRun says where there is no failure to be recorded: the run is gone with its session, or has written.
_NO_FAILURE = (SessionDeleted, RunAlreadyWritten)


def log(level: int, text: str, *content: object) -> None:
    """Log, for those who must go on whatever happens: a handler or a filter of the application may raise."""
    with suppress(Exception):
        LOGGER.log(level, text, *content)


def log_name(session_id: object) -> str:
    """Return what a session is called in logs: ids are chosen by callers, and may say who the user is.

    It is the start of the id's SHA-256, as `printf %s ID | sha256sum | cut -c1-8` prints it too. Never raises.
    """
    import hashlib  # A tenth of the time that importing this package takes, and most processes never log one.

    try:
        return hashlib.sha256(str(session_id).encode(errors="replace")).hexdigest()[:8]
    except Exception:
        return "?"


def storable(reason: object) -> str:
    """Return a run's failure as the sidecar takes it: valid text of at most 4 KiB. An exception is `Type: text`."""
    try:
        if isinstance(reason, BaseException):
            text = f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__
        else:
            text = "" if reason is None else str(reason)
    except Exception:
        text = type(reason).__name__
    return shortened(text, _MAX_REASON_BYTES, _CUT)[0]


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
        self._state: Literal["open", "writing", "written", "failed", "deleted"] = "open"
        self._failure = ""
        self._inherited = False
        _forks.register(self)

    def _forked(self) -> None:
        # It may be written here, but ends with the process that began it, not with the first child.
        self._inherited = True
        self._lock = threading.Lock()

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
        """Whether its notes are written, it has failed, or its session is deleted."""
        return self._state in ("written", "failed", "deleted")

    def _start_writing(self) -> None:
        with self._lock:
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
            self._state = "writing"

    def _stop_writing(self, *, written: bool) -> None:
        # After a write that was refused or not answered, another one may follow: the run id makes it safe.
        with self._lock:
            if self._state == "writing":
                self._state = "written" if written else "open"

    def _session_deleted(self) -> None:
        """End the run without a word to the sidecar: nothing that is written from now on reaches the session."""
        with self._lock:
            if self._state in ("open", "writing"):
                self._state = "deleted"

    def _start_failing(self, reason: str) -> bool:
        """End the run; False where something else has, or is about to."""
        with self._lock:
            if self._state != "open":
                return False
            self._state, self._failure = "failed", reason
            return True

    def _start_failing_quietly(self, reason: str) -> bool:
        return not self._inherited and self._start_failing(reason)

    def _start_failing_again(self, reason: str) -> None:
        # Once failed, failing again is harmless: the first reason stays, as it does in the sidecar.
        if self._start_failing(reason) or self._state == "failed":
            return
        if self._state == "deleted":
            raise SessionDeleted("the session was deleted")
        raise UsageError("a run that writes its notes cannot fail")

    def _log_unrecorded(self, error: Exception) -> None:
        # Its lease runs out instead.
        log(
            logging.WARNING,
            "session %s, run %d: its failure could not be recorded: %s",
            log_name(self.session_id),
            self.number,
            for_logs(error),
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

    def fail(self, reason: str | BaseException | None) -> Run:
        """Record that the run ends without notes, and why. People will read the reason: nothing of what the user said.

        Args:
            reason: What went wrong. Of an exception it is `Type: text`, so give the text yourself where the exception's
                may hold what the user said. Text beyond 4 KiB is cut, with `…` at its end.

        Raises:
            UsageError: The run has written its notes.
            SessionNotesError: Anything else.
        """
        text = storable(reason)
        self._start_failing_again(text)
        return self._client.fail_run(self.session_id, self.run_id, text)

    def _fail_quietly(self, reason: str, timeout: timedelta = FAIL_TIMEOUT) -> bool:
        """End the run without raising, unless it has ended; return whether this ended it."""
        if not self._start_failing_quietly(reason):
            return False
        try:
            self._client.fail_run(self.session_id, self.run_id, reason, timeout=timeout)
        except _NO_FAILURE:
            pass
        except Exception as error:  # Whatever it is: that of a token function, for example.
            self._log_unrecorded(error)
        return True


class RunBlock:
    """The block of `with observer.run(...)`: its run begins when it is entered, and ends when it is left."""

    def __init__(self, client: "ObserverClient", session_id: str, begin: Callable[[], BeginResult]) -> None:
        self._client = client
        self._session_id = session_id
        self._begin = begin

    def __enter__(self) -> ActiveRun:
        self._run = ActiveRun(self._client, self._session_id, self._begin())
        return self._run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run._fail_quietly(_why_left(error))

    async def __aenter__(self) -> NoReturn:
        raise UsageError("a run of an ObserverClient is entered by `with`; AsyncObserverClient is for asyncio")

    async def __aexit__(self, *_: object) -> None:
        pass


class AsyncActiveRun(RunAtWork):
    """A run at work, for asyncio.

    >>> async with observer.run("session-1") as run:
    ...     notes = await analyse(run.transcript)
    ...     await run.write(notes)
    """

    def __init__(
        self, client: "AsyncObserverClient", session_id: str, begun: BeginResult, deadline: float | None = None
    ) -> None:
        super().__init__(session_id, begun, deadline)
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

    async def fail(self, reason: str | BaseException | None) -> Run:
        """Record that the run ends without notes, and why: as `ActiveRun.fail`."""
        text = storable(reason)
        self._start_failing_again(text)
        return await self._client.fail_run(self.session_id, self.run_id, text)

    async def _fail_quietly(self, reason: str, timeout: timedelta = FAIL_TIMEOUT) -> bool:  # noqa: ASYNC109
        """End the run without raising, unless it has ended; return whether this ended it."""
        if not self._start_failing_quietly(reason):
            return False
        try:
            await finish(self._client.fail_run(self.session_id, self.run_id, reason, timeout=timeout))
        except _NO_FAILURE:
            pass
        except Exception as error:  # Whatever it is: that of a token function, for example.
            self._log_unrecorded(error)
        return True


async def finish(work: Coroutine[Any, Any, object]) -> None:
    """Await some short work to its end, and only then pass on a cancellation that came meanwhile.

    A cancelled scope of anyio cancels every await in it, so a run that is left by such a scope could not be recorded as
    failed.
    """
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        task.cancelled() or task.exception()  # So that nothing is logged of an exception nobody asked for.
        raise cancellation
    await task


# How long a cancellation is held up by the end of the run that was about to begin. A healthy sidecar takes about two
# milliseconds; with another, it ends after the cancellation.
_END_SECONDS = 0.2
_ending: set[asyncio.Task[None]] = set()


class AsyncRunBlock:
    """The block of `async with observer.run(...)`: as `RunBlock`."""

    def __init__(
        self, client: "AsyncObserverClient", session_id: str, begin: Callable[[], Awaitable[BeginResult]]
    ) -> None:
        self._client = client
        self._session_id = session_id
        self._begin = begin

    async def __aenter__(self) -> AsyncActiveRun:
        begin = asyncio.ensure_future(self._begin())
        try:
            begun = await asyncio.shield(begin)
        except asyncio.CancelledError as error:
            # The sidecar may have begun the run already, and it would be running for its whole lease.
            end = asyncio.ensure_future(self._end(begin, for_logs(error)))
            _ending.add(end)
            end.add_done_callback(_ending.discard)
            await finish(asyncio.wait([end], timeout=_END_SECONDS))
            raise
        self._run = AsyncActiveRun(self._client, self._session_id, begun)
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._run._fail_quietly(_why_left(error))

    async def _end(self, begin: "asyncio.Future[BeginResult]", reason: str) -> None:
        """Record that a run failed whose beginning nobody waits for any more."""
        await asyncio.wait([begin])
        if not begin.cancelled() and begin.exception() is None:
            await AsyncActiveRun(self._client, self._session_id, begin.result())._fail_quietly(reason)

    def __enter__(self) -> NoReturn:
        raise UsageError("a run of an AsyncObserverClient is entered by `async with`")

    def __exit__(self, *_: object) -> None:
        pass


def _why_left(error: BaseException | None) -> str:
    # Not the text of an exception, which may hold what the user said: others can read a run's failure.
    return ENDED_WITHOUT_NOTES if error is None else for_logs(error)
