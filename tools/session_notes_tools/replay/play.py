"""Puts a replay on: the sidecar, the two programs, and what is asked at the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, cast

from session_notes import AsyncObserverClient, AsyncPrimaryClient, SessionNotesError, Unavailable
from session_notes_server.child_process import Program

from session_notes_tools.replay.history import History, OutOfReach, Read, from_line
from session_notes_tools.replay.plan import OBSERVER, PlannedSession
from session_notes_tools.replay.programs import Stopwatch
from session_notes_tools.replay.readback import EndOfReplay, each
from session_notes_tools.temporary_sidecar import REACH_TIMEOUT, temporary_sidecar, wait_until_reachable

OWN_PATIENCE = timedelta(seconds=20)
"""The same for our own, whose store is just starting."""

FORGET_SECONDS = 10.0
"""How long the sessions of a replay that was broken off may take to delete."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to replay.

    Attributes:
        target: The sidecar to use; None: a temporary one.
        concurrency: How many sessions at a time.
        observers: How many threads observe.
        turn_interval: Seconds between two turns of a session, on average.
        seed: Of everything that is left to chance.
        keep: Whether to leave the sessions where they are.
    """

    target: str | None
    concurrency: int
    observers: int
    turn_interval: float
    seed: int
    keep: bool


class Audience(Protocol):
    """Who is told how it is going."""

    def begin(self, what: str, total: int) -> None:
        """Something begins that takes so many beats."""

    def beat(self) -> None:
        """One more of them is done."""

    def say(self, text: str) -> None:
        """Something worth a line."""


async def play(plans: Sequence[PlannedSession], settings: Settings, audience: Audience) -> tuple[History, float]:
    """Replays → what happened, and how many seconds the playing took.

    Whatever ends it, Ctrl-C, SIGTERM and a terminal that is closed included, nothing is left running, and no session
    is left behind unless asked for.

    Raises:
        Unavailable: The sidecar is out of reach.
        ProgramError: A program of ours, the temporary sidecar included, ended as it must not.
    """
    playing = cast(asyncio.Task[None], asyncio.current_task())
    # Ctrl-C does the same by itself; what `nohup` has us ignore stays ignored.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    history, stopwatch = History(plans), Stopwatch()
    async with contextlib.AsyncExitStack() as stack:
        target = settings.target
        if target is None:
            target = (await stack.enter_async_context(temporary_sidecar())).target
            audience.say(f"a temporary sidecar of its own is listening on {target}")
        await wait_until_reachable(target, REACH_TIMEOUT if settings.target else OWN_PATIENCE)
        try:
            started = time.monotonic()
            audience.begin("playing", sum(plan.turn_count for plan in plans))
            await _perform(target, plans, settings, history, audience)
            if not any(read.answered for session in history.sessions.values() for read in session.reads):
                raise Unavailable("not one read was answered")
            elapsed = time.monotonic() - started
            async with _end_of_replay(target, stopwatch) as end:
                audience.begin("reading back", len(plans))
                await each(end.read_back, history.sessions.values(), audience.beat)
                if not settings.keep:
                    audience.begin("deleting", len(plans))
                    await each(end.delete, history.sessions.values(), audience.beat)
        except BaseException:
            if settings.target and not settings.keep:
                await _forget(target, history, audience)
            raise
    for latencies in stopwatch.latencies():
        history.add(latencies)
    return history, elapsed


async def _perform(
    target: str, plans: Sequence[PlannedSession], settings: Settings, history: History, audience: Audience
) -> None:
    """Both programs, from their start to their end."""
    async with _program("observer") as observer, _program("primary") as primary:

        async def follow_primary() -> None:
            job = {
                "target": target,
                "seed": settings.seed,
                "concurrency": settings.concurrency,
                "turn_interval": settings.turn_interval,
            }
            await primary.give(job, (plan.as_json() for plan in plans))
            await _follow(primary, history, audience)
            # Nobody speaks any more; the observer would not notice by itself.
            observer.stop()

        async def follow_observer() -> None:
            # Of the sessions it learns their ids alone: the rest it has from the sidecar, or not at all.
            job = {"target": target, "seed": settings.seed, "threads": settings.observers}
            await observer.give(job, ({"session_id": plan.session_id} for plan in plans))
            await _follow(observer, history, audience)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(follow_observer())
                group.create_task(follow_primary())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


def _program(name: str) -> Program:
    return Program(name, ("-m", f"session_notes_tools.replay.{name}"))


async def _follow(program: Program, history: History, audience: Audience) -> None:
    program.listen_on()
    async for line in program.lines():
        record = from_line(line)
        history.add(record)
        match record:
            case Read():
                audience.beat()
            case OutOfReach():
                raise Unavailable(record.error, reason=record.reason)


@contextlib.asynccontextmanager
async def _end_of_replay(target: str, stopwatch: Stopwatch) -> AsyncIterator[EndOfReplay]:
    async with AsyncPrimaryClient(target) as primary, AsyncObserverClient(target, observer=OBSERVER) as observer:
        yield EndOfReplay(primary, observer, stopwatch)


async def _forget(target: str, history: History, audience: Audience) -> None:
    """Deletes the sessions, if that can be done."""
    try:
        async with asyncio.timeout(FORGET_SECONDS), _end_of_replay(target, Stopwatch()) as end:
            await each(end.forget, history.sessions.values(), lambda: None)
    except (SessionNotesError, TimeoutError):
        common = next(iter(history.sessions)).rpartition("-")[0]
        audience.say(f"not all sessions could be deleted: those named {common}-… expire by themselves")
