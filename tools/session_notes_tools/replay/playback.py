"""The course of a replay, from starting the sidecar and both processes to auditing the sessions."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, cast

from session_notes import AsyncObserverClient, AsyncPrimaryClient, SessionNotesError, Unavailable

from session_notes_tools.python_process import PythonProcess
from session_notes_tools.replay.audit import Audit, for_each
from session_notes_tools.replay.history import History
from session_notes_tools.replay.pipes import Stopwatch
from session_notes_tools.replay.plan import OBSERVER, PlannedSession
from session_notes_tools.replay.records import NotesRead, Outage, Record, Write, from_line
from session_notes_tools.temporary_sidecar import REACH_TIMEOUT, temporary_sidecar, wait_until_reachable

START_TIMEOUT = timedelta(seconds=20)
"""The time limit for the first response of a temporary sidecar, whose store is still starting."""

DISCARD_SECONDS = 10.0
"""The time limit for an interrupted replay to delete its sessions."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a replay.

    Attributes:
        target: The sidecar to use; None: a temporary one.
        concurrency: The number of sessions to play at a time.
        observers: The number of observer threads.
        turn_interval: The mean seconds between the turns of a session.
        seed: The seed of simulated delays and failures.
        brakes: Whether the observer has brakes.
        keep: Whether to keep the sessions at the end.
    """

    target: str | None
    concurrency: int
    observers: int
    turn_interval: float
    seed: int
    brakes: bool
    keep: bool


class Progress(Protocol):
    """The display of a replay's progress."""

    def begin(self, phase: str, total: int) -> None:
        """Begin a phase of `total` steps."""

    def advance(self) -> None:
        """Count a completed step of the phase."""

    def message(self, text: str) -> None:
        """Print a line."""


async def play(plans: Sequence[PlannedSession], settings: Settings, progress: Progress) -> tuple[History, float]:
    """Run a replay, and return its history and the seconds that playing took.

    Even after Ctrl-C, SIGTERM or a closed terminal, no process is left running, and no session is left behind unless
    `keep` is set.

    Raises:
        Unavailable: If the sidecar stays unavailable.
        ProcessFailed: If a child process fails, including the temporary sidecar.
    """
    playing = cast(asyncio.Task[None], asyncio.current_task())
    # asyncio handles Ctrl-C itself. A signal that `nohup` ignores stays ignored.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    history, stopwatch = History(plans), Stopwatch()
    async with contextlib.AsyncExitStack() as stack:
        target = settings.target
        if target is None:
            target = (await stack.enter_async_context(temporary_sidecar())).target
            progress.message(f"a temporary sidecar is listening on {target}")
        await wait_until_reachable(target, REACH_TIMEOUT if settings.target else START_TIMEOUT)
        try:
            started = time.monotonic()
            progress.begin("playing", sum(plan.turn_count for plan in plans))
            await _run_processes(target, plans, settings, history, progress)
            if not any(read.has_response for session in history.sessions.values() for read in session.of(NotesRead)):
                raise Unavailable("no read got a response")
            elapsed = time.monotonic() - started
            async with _audit(target, stopwatch) as audit:
                progress.begin("reading back", len(plans))
                await for_each(audit.read_back, history.sessions.values(), progress.advance)
                if not settings.keep:
                    progress.begin("deleting", len(plans))
                    await for_each(audit.delete, history.sessions.values(), progress.advance)
        except BaseException:
            if settings.target and not settings.keep:
                await _discard(target, history, progress)
            raise
    for latencies in stopwatch.latencies():
        history.add(latencies)
    return history, elapsed


async def _run_processes(
    target: str, plans: Sequence[PlannedSession], settings: Settings, history: History, progress: Progress
) -> None:
    """Run the primary and observer processes until both end."""
    async with _process("observer") as observer, _process("primary") as primary:
        ready = asyncio.Event()

        def submit(record: Record) -> None:
            if isinstance(record, Write) and record.kind == "turn":
                observer.stdin.write(record.session_id.encode() + b"\n")

        async def follow_primary() -> None:
            await ready.wait()
            job = {
                "target": target,
                "seed": settings.seed,
                "concurrency": settings.concurrency,
                "turn_interval": settings.turn_interval,
            }
            await primary.send_job(job, (plan.as_json() for plan in plans))
            await _follow(primary, history, progress, submit)
            # Ask the observer to finish: it cannot know that no more turns follow.
            observer.stdin.close()

        async def follow_observer() -> None:
            # The observer receives only ids, and must learn everything else from the sidecar.
            job = {
                "target": target,
                "seed": settings.seed,
                "threads": settings.observers,
                "turn_interval": settings.turn_interval,
                "brakes": settings.brakes,
            }
            await observer.send_job(job, ({"session_id": plan.session_id} for plan in plans))
            ready.set()
            await _follow(observer, history, progress)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(follow_observer())
                group.create_task(follow_primary())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


def _process(name: str) -> PythonProcess:
    return PythonProcess(name, ("-m", f"session_notes_tools.replay.{name}"))


async def _follow(
    process: PythonProcess, history: History, progress: Progress, react: Callable[[Record], None] = lambda _: None
) -> None:
    """Record what a process reports, and call `react` with it, until the process ends."""
    process.drain_stderr()
    async for line in process.lines():
        record = from_line(line)
        history.add(record)
        react(record)
        match record:
            case NotesRead():
                progress.advance()
            case Outage():
                raise Unavailable(record.error, reason=record.reason)


@contextlib.asynccontextmanager
async def _audit(target: str, stopwatch: Stopwatch) -> AsyncIterator[Audit]:
    async with AsyncPrimaryClient(target) as primary, AsyncObserverClient(target, observer=OBSERVER) as observer:
        yield Audit(primary, observer, stopwatch)


async def _discard(target: str, history: History, progress: Progress) -> None:
    """Delete the sessions if the sidecar is available."""
    try:
        async with asyncio.timeout(DISCARD_SECONDS), _audit(target, Stopwatch()) as audit:
            await for_each(audit.discard, history.sessions.values(), lambda: None)
    except (SessionNotesError, TimeoutError):
        prefix = next(iter(history.sessions)).rpartition("-")[0]
        progress.message(f"not all sessions could be deleted: those named {prefix}-… will expire")
