"""The observer of a replay, a program of its own: a thread pool that goes over the sessions on its own schedule.

It knows the sessions' ids and nothing else of them; what was said it has from the sidecar. A round asks for many
sessions at once how far their notes are behind, and has a look at those that moved on. The analysis takes a simulated
time; some runs are slow, so that newer ones overtake them, some write twice, some fail, some go silent.

Run by `play`, as `python -m session_notes_tools.replay.observer`.
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

from session_notes import (
    ActiveRun,
    Notes,
    ObserverClient,
    PrimaryClient,
    Readiness,
    SessionNotesError,
    Unavailable,
    WriteResult,
)

from session_notes_tools.replay.analysis import analyse
from session_notes_tools.replay.history import Begun, OutOfReach, Refused, Unwritten, Written, notes_json, time_us
from session_notes_tools.replay.plan import OBSERVER
from session_notes_tools.replay.programs import Report, read_job, wait_for_stop

CALL_TIMEOUT = timedelta(seconds=20)
ROUND_SECONDS = 0.2
GLANCES_A_ROUND = 50
"""How many sessions in which nothing was said yet it looks at in a round."""

LONGEST_REST_ROUNDS = 10
"""How many rounds at most it leaves a session alone."""

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
    """A session as the observer knows it.

    Attributes:
        spoken: Whether something has been said in it.
        visits: How many looks it had.
        holder: The visit that keeps others away; None: the next round may have a look.
        idle_looks: How many times in a row there was nothing new.
        next_round: The round that is to have a look again.
    """

    index: int
    session_id: str
    spoken: bool = False
    visits: int = 0
    holder: int | None = None
    idle_looks: int = 0
    next_round: int = 0

    def hold(self) -> int:
        """Begins a visit."""
        self.visits += 1
        self.holder = self.visits
        return self.visits

    def release(self, visit: int) -> None:
        """Lets the next visit come, unless it has."""
        if self.holder == visit:
            self.holder = None


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at a session; `number` counts from 1, and `chance` is its own, whichever thread it runs in."""

    session: Observed
    number: int
    fate: Fate
    chance: random.Random

    @property
    def run_id(self) -> str:
        """The id of its run."""
        return f"run-{self.number}"


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
        self._round = 0
        self.stop = threading.Event()

    def work(self) -> None:
        """Rounds until it is to stop; then what is under way is brought to its end, without its simulated time."""
        try:
            with ThreadPoolExecutor(self._job.threads) as pool:
                try:
                    while not self.stop.is_set():
                        for session in self._due():
                            pool.submit(self._visit, session, session.hold()).add_done_callback(self._visited)
                        self.stop.wait(ROUND_SECONDS)
                finally:
                    self.stop.set()
            if self._crash is not None:
                raise self._crash
        except Unavailable as error:
            self._report.add(OutOfReach(str(error), error.reason))

    def _due(self) -> list[Observed]:
        """Some of the sessions in which nothing was said yet, and of the others those whose notes are behind."""
        self._round += 1
        free = [session for session in self._sessions if session.holder is None]
        silent = [session for session in free if not session.spoken]
        spoken = [session for session in free if session.spoken and session.next_round <= self._round]
        due = self._chance.sample(silent, min(GLANCES_A_ROUND, len(silent)))
        for start in range(0, len(spoken), BATCH):
            part = spoken[start : start + BATCH]
            with self._report.timed("BatchGetNotes"):
                readings = self._primary.batch_get_notes(
                    [session.session_id for session in part],
                    observer=OBSERVER,
                    timeout=CALL_TIMEOUT,
                    unavailable_ok=True,
                )
            for session, reading in zip(part, readings, strict=True):
                if reading.readiness is Readiness.UNAVAILABLE:
                    continue  # The next round asks again.
                if reading.turns_behind or not reading.ready:
                    session.idle_looks = 0
                    due.append(session)
                else:
                    # Where nobody speaks any more, a look now and then is enough.
                    session.idle_looks += 1
                    session.next_round = self._round + min(session.idle_looks, LONGEST_REST_ROUNDS)
        return due

    def _visit(self, session: Observed, visit: int) -> None:
        try:
            if not self.stop.is_set():
                chance = random.Random(f"{self._job.seed}/{session.index}/{visit}")  # noqa: S311 - no secret in it
                fate = self._fate(session, visit, chance)
                if fate is not None:
                    self._run(Visit(session, visit, fate, chance))
        finally:
            session.release(visit)

    def _fate(self, session: Observed, visit: int, chance: random.Random) -> Fate | None:
        """What is to become of the run; None: there is to be none, for there is nothing to look at."""
        if not session.spoken:
            with self._report.timed("GetSession"):
                session.spoken = self._primary.get_session(session.session_id, timeout=CALL_TIMEOUT).turn_count > 0
        if session.spoken:
            return chance.choices(list(_FATES), list(_FATES.values()))[0]
        return Fate.FAILS if visit == 1 and chance.random() < _EARLY_BIRDS else None

    def _run(self, visit: Visit) -> None:
        try:
            if visit.fate is Fate.GOES_SILENT:
                self._go_silent(visit)
            else:
                self._observe(visit)
        except Unavailable:
            raise
        except SessionNotesError as error:
            refused = Refused(visit.session.session_id, "the observer's calls", f"{type(error).__name__}: {error}")
            self._report.add(refused)

    def _go_silent(self, visit: Visit) -> None:
        with self._report.timed("BeginRun"):
            run, _ = self._client.begin_run(visit.session.session_id, run_id=visit.run_id, lease=SHORT_LEASE)
        self._report.add(Begun(visit.session.session_id, visit.run_id, run.number, run.observed_turn))
        self._report.add(Unwritten(visit.session.session_id, visit.run_id, run.number, failed=False))

    def _observe(self, visit: Visit) -> None:
        session_id, sent = visit.session.session_id, time.monotonic()
        with self._client.run(session_id, run_id=visit.run_id) as run:
            self._report.took("BeginRun", time.monotonic() - sent)
            self._report.add(Begun(session_id, run.run_id, run.number, run.observed_turn))
            if visit.fate is Fate.FAILS:
                with self._report.timed("FailRun"):
                    run.fail("came to nothing, as planned")
                self._report.add(Unwritten(session_id, run.run_id, run.number, failed=True))
                return
            notes = analyse(session_id, run.run_id, run.transcript)
            if visit.fate is Fate.SLOW:
                visit.session.release(visit.number)
            self.stop.wait(visit.chance.uniform(*_ANALYSIS_SECONDS[visit.fate]))
            self._write(run, notes)
        if visit.fate is Fate.TWICE:
            visit.session.release(visit.number)
            self.stop.wait(visit.chance.uniform(*_LATER_SECONDS))
            self._write(run, notes, again=True)

    def _write(self, run: ActiveRun, notes: Notes, *, again: bool = False) -> None:
        sent = time.monotonic()
        with self._report.timed("WriteNotes"):
            result: WriteResult = (
                self._client.write_notes(run.session_id, notes, run_id=run.run_id) if again else run.write(notes)
            )
        self._report.add(
            Written(
                session_id=run.session_id,
                run_id=run.run_id,
                number=result.run.number,
                observed_turn=result.run.observed_turn,
                outcome=result.outcome.value,
                write_time_us=time_us(result.write_time),
                sent=sent,
                answered=time.monotonic(),
                repeated=again,
                notes=notes_json(notes),
            )
        )

    def _visited(self, visit: Future[None]) -> None:
        if (error := visit.exception()) is not None:
            self._crash = self._crash or error
            self.stop.set()


def main() -> None:
    """The program."""
    given, sessions = read_job()
    job, report = ObserverJob(**given), Report()
    with (
        ObserverClient(job.target, observer=OBSERVER, timeout=CALL_TIMEOUT) as client,
        PrimaryClient(job.target) as primary,
    ):
        observer = Observer(client, primary, job, [one["session_id"] for one in sessions], report)

        def stop_when_told() -> None:
            wait_for_stop()
            observer.stop.set()

        threading.Thread(target=stop_when_told, daemon=True).start()
        observer.work()
    report.finish()


if __name__ == "__main__":
    main()
