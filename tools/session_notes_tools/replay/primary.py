"""The primary of a replay, a program of its own: speaks in many sessions at once, and reads the notes at every turn.

It waits for no observer: it reads whatever is there. Run by `play`, as `python -m session_notes_tools.replay.primary`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from session_notes import (
    AsyncPrimaryClient,
    SessionNotesError,
    Turn,
    TurnCountMismatch,
    Unavailable,
    VersionMismatch,
)

from session_notes_tools.replay.history import OutOfReach, Read, Refused
from session_notes_tools.replay.patience import patiently
from session_notes_tools.replay.plan import OBSERVER, PlannedSession
from session_notes_tools.replay.programs import Report, read_job, wait_for_stop
from session_notes_tools.replay.transcripts import Slots

CALL_TIMEOUT = timedelta(seconds=20)
"""No user waits here, and a busy machine is no broken promise."""

FRESH_TURNS = 2
"""How many turns behind the primary still calls fresh."""


@dataclass(frozen=True, slots=True)
class PrimaryJob:
    """What the primary needs to know beside its sessions."""

    target: str
    seed: int
    concurrency: int
    turn_interval: float


class Primary:
    """Plays sessions, `concurrency` at a time."""

    def __init__(self, client: AsyncPrimaryClient, job: PrimaryJob, report: Report) -> None:
        self._client = client
        self._job = job
        self._report = report

    async def play_all(self, plans: list[PlannedSession]) -> None:
        """Plays them, each as soon as there is room for it.

        Raises:
            Unavailable: The sidecar is out of reach.
        """
        waiting = iter(enumerate(plans))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._job.concurrency, len(plans))):
                group.create_task(self._play_some(waiting))

    async def _play_some(self, waiting: Iterator[tuple[int, PlannedSession]]) -> None:
        for index, plan in waiting:
            await self._play(plan, random.Random(f"{self._job.seed}/{index}"))  # noqa: S311 - no secret in it

    async def _play(self, plan: PlannedSession, chance: random.Random) -> None:
        known: set[str] = set()
        # People do not all start to speak at the same moment.
        await asyncio.sleep(self._job.turn_interval * chance.random())
        try:
            for count, (turn, spoken) in enumerate(zip(plan.transcript, plan.dialogue.turns, strict=True), start=1):
                await self._take_turn(plan.session_id, count, turn, spoken.slots, known - set(spoken.slots))
                known = set(spoken.slots)
                await asyncio.sleep(self._job.turn_interval * chance.uniform(0.5, 1.5))
        except Unavailable:
            raise
        except SessionNotesError as error:
            self._report.add(Refused(plan.session_id, "the primary's calls", f"{type(error).__name__}: {error}"))

    async def _take_turn(self, session_id: str, count: int, turn: Turn, slots: Slots, gone: set[str]) -> None:
        async def append() -> int:
            return await self._client.append_turns(
                session_id, [turn], expected_turn_count=count - 1, timeout=CALL_TIMEOUT
            )

        async def update() -> int:
            updated = await self._client.update_session(
                session_id, slots, remove=gone, expected_version=count - 1, timeout=CALL_TIMEOUT
            )
            return updated.version

        turn_count = await self._surely("AppendTurns", append, count)
        version = await self._surely("UpdateSession", update, count)
        sent = time.monotonic()
        with self._report.timed("GetNotes"):
            # No second try: a primary that gets no answer goes on without the notes.
            reading = await self._client.get_notes(
                session_id,
                observer=OBSERVER,
                current_turn=count,
                max_turns_behind=FRESH_TURNS,
                timeout=CALL_TIMEOUT,
                unavailable_ok=True,
            )
        self._report.add(
            Read.of(
                reading,
                current_turn=count,
                sent=sent,
                max_turns_behind=FRESH_TURNS,
                turn_count=turn_count,
                version=version,
            )
        )

    async def _surely(self, rpc: str, write: Callable[[], Awaitable[int]], count: int) -> int:
        """What a write counts up to. It says what it expects: so it can be tried again where nobody answers."""
        unsure = False

        async def once() -> int:
            nonlocal unsure
            try:
                with self._report.timed(rpc):
                    return await write()
            except Unavailable:
                unsure = True
                raise
            except (TurnCountMismatch, VersionMismatch) as conflict:
                if unsure and conflict.actual == count:
                    return count  # The try before got through.
                raise

        return await patiently(once)


async def work(job: PrimaryJob, plans: list[PlannedSession], report: Report) -> None:
    """All of it, until it is done or the parent wants an end."""
    loop, playing = asyncio.get_running_loop(), cast(asyncio.Task[None], asyncio.current_task())

    def stop_when_told() -> None:
        wait_for_stop()
        # A loop that is closed has nothing left to stop.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(playing.cancel)

    threading.Thread(target=stop_when_told, daemon=True).start()
    try:
        async with AsyncPrimaryClient(job.target) as client:
            await Primary(client, job, report).play_all(plans)
    except* Unavailable as group:
        for error in group.exceptions[:1]:
            report.add(OutOfReach(str(error), error.reason if isinstance(error, Unavailable) else ""))
    report.finish()


def main() -> None:
    """The program."""
    job, sessions = read_job()
    report = Report()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(work(PrimaryJob(**job), [PlannedSession.from_json(one) for one in sessions], report))


if __name__ == "__main__":
    main()
