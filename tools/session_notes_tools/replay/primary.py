"""The primary process of a replay: takes part in many sessions at once and reads the notes at every turn.

It never waits for an observer. Run by `playback` as `python -m session_notes_tools.replay.primary`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import cast

from session_notes import (
    AsyncNotesFeed,
    AsyncPrimaryClient,
    SessionNotesError,
    Turn,
    TurnCountMismatch,
    Unavailable,
    VersionMismatch,
)

from session_notes_tools.replay.pipes import Report, read_job, wait_for_stop
from session_notes_tools.replay.plan import OBSERVER, PlannedSession
from session_notes_tools.replay.records import FeedText, NotesRead, Outage, Rejection, Repeat, Write, WriteKind
from session_notes_tools.replay.retry import retry_over_outage
from session_notes_tools.replay.transcripts import Slots

CALL_TIMEOUT = timedelta(seconds=20)
"""Long, since no user is waiting, and a slow response on a busy machine breaks no promise."""

FRESH_TURNS = 2
"""The drift up to which notes count as fresh."""

_REPEATED_SHARE = 0.1
"""The share of appends that are repeated at the same time, and the share of turns after which an earlier one is."""

_STORM = 3
"""The number of repetitions at the same time."""

_RPCS: Mapping[WriteKind, str] = {"turn": "AppendTurns", "field": "UpdateSession"}


@dataclass(frozen=True, slots=True)
class PrimaryJob:
    """The primary's settings, apart from its sessions."""

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
        """Play every session.

        Raises:
            Unavailable: If the sidecar stays unavailable.
        """
        pending = iter(enumerate(plans))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._job.concurrency, len(plans))):
                group.create_task(self._play_pending(pending))

    async def _play_pending(self, pending: Iterator[tuple[int, PlannedSession]]) -> None:
        for index, plan in pending:
            await self._play(plan, random.Random(f"{self._job.seed}/{index}"))  # noqa: S311 - not a secret

    async def _play(self, plan: PlannedSession, rng: random.Random) -> None:
        fields: set[str] = set()
        transcript = plan.transcript
        feed = AsyncNotesFeed(self._client, plan.session_id, observers=[OBSERVER], max_turns_behind=FRESH_TURNS)
        # Conversations must not all start at the same moment.
        await asyncio.sleep(self._job.turn_interval * rng.random())
        try:
            for count, (turn, spoken) in enumerate(zip(transcript, plan.dialogue.turns, strict=True), start=1):
                await self._take_turn(feed, rng, plan.session_id, count, turn, spoken.slots, fields - set(spoken.slots))
                fields = set(spoken.slots)
                if rng.random() < _REPEATED_SHARE:
                    await self._repeat(plan.session_id, rng.choice(transcript[:count]))
                await asyncio.sleep(self._job.turn_interval * rng.uniform(0.5, 1.5))
        except Unavailable:
            raise
        except SessionNotesError as error:
            self._report.add(Rejection(plan.session_id, "the primary's calls", f"{type(error).__name__}: {error}"))

    async def _take_turn(
        self,
        feed: AsyncNotesFeed,
        rng: random.Random,
        session_id: str,
        count: int,
        turn: Turn,
        slots: Slots,
        removed: set[str],
    ) -> None:
        async def update() -> int:
            updated = await self._client.update_session(
                session_id, slots, remove=removed, expected_version=count - 1, timeout=CALL_TIMEOUT
            )
            return updated.version

        append = partial(self._append, session_id, turn)
        storm = [self._repeat(session_id, turn) for _ in range(_STORM)] if rng.random() < _REPEATED_SHARE else []
        await asyncio.gather(self._write(session_id, "turn", [_name(turn)], append, count), *storm)
        await self._write(session_id, "field", [], update, count)
        sent = time.monotonic()
        with self._report.timed("GetNotes"):
            # No retries: without a response, a primary continues without notes.
            reading = await self._client.get_notes(
                session_id,
                observer=OBSERVER,
                current_turn=count,
                max_turns_behind=FRESH_TURNS,
                timeout=CALL_TIMEOUT,
                unavailable_ok=True,
            )
        self._report.add(NotesRead.of(reading, current_turn=count, sent=sent, max_turns_behind=FRESH_TURNS))
        sent = time.monotonic()
        with self._report.timed("NotesFeed.next"):
            text = await feed.next()
        if text is not None:
            self._report.add(FeedText(session_id, count, FRESH_TURNS, sent, time.monotonic(), text))

    async def _append(self, session_id: str, turn: Turn) -> int:
        before = int(_name(turn)) - 1
        return await self._client.append_turns(
            session_id, [turn], expected_turn_count=before, append_id=f"turn-{_name(turn)}", timeout=CALL_TIMEOUT
        )

    async def _repeat(self, session_id: str, turn: Turn) -> None:
        """Repeat an append, as a client does whose response is late or lost."""
        number = await retry_over_outage(partial(self._append, session_id, turn))
        self._report.add(Repeat(session_id, _name(turn), number))

    async def _write(
        self, session_id: str, kind: WriteKind, names: list[str], write: Callable[[], Awaitable[int]], expected: int
    ) -> None:
        """Make a write, and retry it during an outage, which its expected count makes safe."""
        sent, unsure = time.monotonic(), False

        async def attempt() -> int:
            nonlocal unsure
            try:
                with self._report.timed(_RPCS[kind]):
                    return await write()
            except Unavailable:
                unsure = True
                raise
            except (TurnCountMismatch, VersionMismatch) as conflict:
                if unsure and conflict.actual == expected:
                    return expected  # The previous attempt took effect.
                raise

        number = await retry_over_outage(attempt)
        self._report.add(Write(session_id, kind, names, sent, time.monotonic(), "acknowledged", number))


def _name(turn: Turn) -> str:
    return str(turn.extra["name"])


async def work(job: PrimaryJob, plans: list[PlannedSession], report: Report) -> None:
    """Play all sessions, or until the parent closes stdin."""
    loop, playing = asyncio.get_running_loop(), cast(asyncio.Task[None], asyncio.current_task())

    def stop_on_request() -> None:
        wait_for_stop()
        # A closed loop has nothing to stop.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(playing.cancel)

    threading.Thread(target=stop_on_request, daemon=True).start()
    try:
        async with AsyncPrimaryClient(job.target) as client:
            await Primary(client, job, report).play_all(plans)
    except* Unavailable as group:
        for error in group.exceptions[:1]:
            report.add(Outage(str(error), error.reason if isinstance(error, Unavailable) else ""))
    report.finish()


def main() -> None:
    """Run the process."""
    job, sessions = read_job()
    report = Report()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(work(PrimaryJob(**job), [PlannedSession.from_json(session) for session in sessions], report))


if __name__ == "__main__":
    main()
