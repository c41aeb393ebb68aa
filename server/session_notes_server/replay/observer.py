"""The observer of a replay, a program of its own: a thread pool that goes over the sessions on its own schedule.

It knows the sessions' ids and nothing else of them; what was said it has from the sidecar. A round asks for all sessions
at once how far their notes are behind, and has a look at those that moved on. The analysis takes a simulated time; some
runs are slow, so that newer ones overtake them, some write twice, some fail, some go silent.

Run by `play`, as `python -m session_notes_server.replay.observer`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from session_notes import ActiveRun, Notes, ObserverClient, PrimaryClient, SessionNotesError, Unavailable, WriteResult

from session_notes_server.replay.analysis import analyse
from session_notes_server.replay.history import Begun, OutOfReach, Refused, Unwritten, Written, notes_json, time_us
from session_notes_server.replay.plan import OBSERVER
from session_notes_server.replay.programs import Report, read_job, wait_for_stop

CALL_TIMEOUT = timedelta(seconds=20)
ROUND_SECONDS = 0.05
GLANCES_A_ROUND = 25
"""How many sessions that have no notes yet it looks at in a round."""

BATCH = 1000
SHORT_LEASE = timedelta(milliseconds=20)


class Fate(Enum):
    """What becomes of a run."""

    WRITES = auto()
    SLOW = auto()
    """Takes so long that a newer run is likely to write before it."""
    TWICE = auto()
    """Writes, and a while later the same again, as one does who got no answer."""
    FAILS = auto()
    GOES_SILENT = auto()


_FATES = {Fate.WRITES: 78, Fate.SLOW: 9, Fate.TWICE: 8, Fate.FAILS: 3, Fate.GOES_SILENT: 2}
_ANALYSIS_SECONDS = {Fate.WRITES: (0.005, 0.08), Fate.SLOW: (0.4, 1.2), Fate.TWICE: (0.005, 0.05)}
_LATER_SECONDS = (0.0, 0.6)
_EARLY_BIRDS = 0.15
"""Share of sessions that are first looked at before anything was said: such a run fails."""


@dataclass(frozen=True, slots=True)
class ObserverJob:
    """What the observer needs to know beside the ids of its sessions."""

    target: str
    seed: int
    threads: int


@dataclass(slots=True)
class Observed:
    """A session as the observer knows it. `visits` counts the looks it had; `held`: one is under way."""

    index: int
    session_id: str
    spoken: bool = False
    visits: int = 0
    held: bool = False


class Observer:
    """Goes over sessions in rounds until `stop` is set."""

    def __init__(
        self,
        client: ObserverClient,
        primary: PrimaryClient,
        job: ObserverJob,
        sessions: Sequence[str],
        report: Report,
    ) -> None:
        self._client = client
        self._primary = primary
        self._job = job
        self._sessions = [Observed(index, session_id) for index, session_id in enumerate(sessions)]
        self._chance = random.Random(job.seed)  # noqa: S311 - no secret in it
        self._report = report
        self._crash: BaseException | None = None
        self.stop = threading.Event()

    def work(self) -> None:
        """Rounds until it is to stop; then what is under way is brought to its end, without its simulated time."""
        try:
            with ThreadPoolExecutor(self._job.threads) as pool:
                try:
                    while not self.stop.is_set():
                        for session in self._due():
                            session.held = True
                            session.visits += 1
                            pool.submit(self._visit, session).add_done_callback(self._visited)
                        self.stop.wait(ROUND_SECONDS)
                finally:
                    self.stop.set()
            if self._crash is not None:
                raise self._crash
        except Unavailable as error:
            self._report.add(OutOfReach(str(error)))

    def _due(self) -> list[Observed]:
        """The sessions whose notes are behind, and some of those that have none."""
        behind, without = [], []
        free = [session for session in self._sessions if not session.held]
        for start in range(0, len(free), BATCH):
            part = free[start : start + BATCH]
            with self._report.timed("BatchGetNotes"):
                readings = self._primary.batch_get_notes(
                    [session.session_id for session in part], observer=OBSERVER, timeout=CALL_TIMEOUT
                )
            for session, reading in zip(part, readings, strict=True):
                if not reading.ready:
                    without.append(session)
                elif reading.turns_behind:
                    behind.append(session)
        return behind + self._chance.sample(without, min(GLANCES_A_ROUND, len(without)))

    def _visit(self, session: Observed) -> None:
        chance = random.Random(f"{self._job.seed}/{session.index}/{session.visits}")  # noqa: S311 - no secret in it
        (fate,) = chance.choices(list(_FATES), list(_FATES.values()))
        if not session.spoken:
            with self._report.timed("GetSession"):
                known = self._primary.get_session(session.session_id, timeout=CALL_TIMEOUT)
            session.spoken = known.turn_count > 0
        if not session.spoken:
            if session.visits > 1 or chance.random() > _EARLY_BIRDS:
                return
            fate = Fate.FAILS
        try:
            self._run(session, f"run-{session.index}-{session.visits}", fate, chance)
        except Unavailable:
            raise
        except SessionNotesError as error:
            self._report.add(Refused(session.session_id, f"a run that {fate.name}", f"{type(error).__name__}: {error}"))

    def _run(self, session: Observed, run_id: str, fate: Fate, chance: random.Random) -> None:
        session_id = session.session_id
        if fate is Fate.GOES_SILENT:
            with self._report.timed("BeginRun"):
                run, _ = self._client.begin_run(session_id, run_id=run_id, lease=SHORT_LEASE)
            self._report.add(Begun(session_id, run_id, run.number, run.observed_turn))
            self._report.add(Unwritten(session_id, run_id, run.number, failed=False))
            return
        began = time.monotonic()
        with self._client.run(session_id, run_id=run_id) as active:
            self._report.add_latency("BeginRun", time.monotonic() - began)
            self._report.add(Begun(session_id, run_id, active.number, active.observed_turn))
            if fate is Fate.FAILS:
                with self._report.timed("FailRun"):
                    active.fail("the analysis came to nothing, as planned")
                self._report.add(Unwritten(session_id, run_id, active.number, failed=True))
                return
            notes = analyse(session_id, run_id, active.transcript)
            if fate is Fate.SLOW:
                session.held = False
            self.stop.wait(chance.uniform(*_ANALYSIS_SECONDS[fate]))
            self._write(active, notes)
        if fate is Fate.TWICE:
            session.held = False
            self.stop.wait(chance.uniform(*_LATER_SECONDS))
            self._write(active, notes, again=True)

    def _write(self, run: ActiveRun, notes: Notes, *, again: bool = False) -> None:
        sent = time.monotonic()
        with self._report.timed("WriteNotes"):
            result: WriteResult = (
                self._client.write_notes(run.session_id, notes, run_id=run.run_id) if again else run.write(notes)
            )
        write_time_us = time_us(result.write_time)
        assert write_time_us is not None
        self._report.add(
            Written(
                session_id=run.session_id,
                run_id=run.run_id,
                number=result.run.number,
                observed_turn=result.run.observed_turn,
                outcome=result.outcome.value,
                write_time_us=write_time_us,
                sent=sent,
                answered=time.monotonic(),
                repeated=again,
                notes=notes_json(notes),
            )
        )

    def _visited(self, visit: Future[None]) -> None:
        ...
