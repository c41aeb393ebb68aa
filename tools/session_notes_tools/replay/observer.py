"""The observer process of a replay: a thread pool that visits the sessions on its own schedule.

It receives the sessions' ids and learns everything else from the sidecar. Each round reads the drift of many sessions
at once and visits those with new turns. Analyses take a simulated time. Some runs are slow enough for newer ones to
overtake them, some write twice, some fail, and some are abandoned.

Run by `playback` as `python -m session_notes_tools.replay.observer`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from session_notes import (
    ActiveRun,
    Notes,
    ObserverClient,
    PrimaryClient,
    Readiness,
    Run,
    SessionNotesError,
    Unavailable,
    WriteResult,
)

from session_notes_tools.replay.analysis import analyse
from session_notes_tools.replay.pipes import Report, read_job, wait_for_stop
from session_notes_tools.replay.plan import OBSERVER
from session_notes_tools.replay.records import (
    NotesWrite,
    Outage,
    Rejection,
    RunWithoutNotes,
    Write,
    notes_json,
    time_us,
)
from session_notes_tools.replay.visits import Fate, ObservedSession, Visit

CALL_TIMEOUT = timedelta(seconds=20)
ROUND_SECONDS = 0.2
EMPTY_VISITS = 50
"""The number of sessions without turns to visit per round."""

MAX_IDLE_ROUNDS = 10
"""The maximum number of rounds that skip a session without changes."""

BATCH = 1000
SHORT_LEASE = timedelta(milliseconds=20)


_FATES = {Fate.WRITES: 78, Fate.SLOW: 9, Fate.TWICE: 8, Fate.FAILS: 3, Fate.ABANDONED: 2}
_ANALYSIS_SECONDS = {Fate.WRITES: (0.005, 0.08), Fate.SLOW: (0.4, 1.2), Fate.TWICE: (0.005, 0.05)}
_REPEAT_SECONDS = (0.0, 0.6)
_EARLY_SHARE = 0.15
"""The share of sessions with a run before their first turn. Such a run fails."""


@dataclass(frozen=True, slots=True)
class ObserverJob:
    """The observer's settings, apart from the session ids."""

    target: str
    seed: int
    threads: int


class Observer:
    """Visits sessions in rounds until `stop` is set."""

    def __init__(
        self, client: ObserverClient, primary: PrimaryClient, job: ObserverJob, sessions: Sequence[str], report: Report
    ) -> None:
        self._client = client
        self._primary = primary
        self._job = job
        self._sessions = [ObservedSession(index, session_id) for index, session_id in enumerate(sessions)]
        self._rng = random.Random(job.seed)  # noqa: S311 - not a secret
        self._report = report
        self._crash: BaseException | None = None
        self._round = 0
        self.stop = threading.Event()

    def work(self) -> None:
        """Run rounds until `stop` is set, then finish the visits in progress without their simulated time."""
        try:
            with ThreadPoolExecutor(self._job.threads) as pool:
                try:
                    while not self.stop.is_set():
                        for session in self._due():
                            pool.submit(self._visit, session, session.begin_visit()).add_done_callback(
                                self._finish_visit
                            )
                        self.stop.wait(ROUND_SECONDS)
                finally:
                    self.stop.set()
            if self._crash is not None:
                raise self._crash
        except Unavailable as error:
            self._report.add(Outage(str(error), error.reason))

    def _due(self) -> list[ObservedSession]:
        """Return a sample of the sessions without turns, and all sessions whose notes are behind or not ready."""
        self._round += 1
        available = [session for session in self._sessions if session.blocking_visit is None]
        empty = [session for session in available if not session.has_turns]
        active = [session for session in available if session.has_turns and session.next_round <= self._round]
        due = self._rng.sample(empty, min(EMPTY_VISITS, len(empty)))
        for start in range(0, len(active), BATCH):
            batch = active[start : start + BATCH]
            with self._report.timed("BatchGetNotes"):
                readings = self._primary.batch_get_notes(
                    [session.session_id for session in batch],
                    observer=OBSERVER,
                    timeout=CALL_TIMEOUT,
                    unavailable_ok=True,
                )
            for session, reading in zip(batch, readings, strict=True):
                if reading.readiness is Readiness.UNAVAILABLE:
                    continue  # The next round reads it again.
                if reading.turns_behind or not reading.ready:
                    session.idle_rounds = 0
                    due.append(session)
                else:
                    session.idle_rounds += 1
                    session.next_round = self._round + min(session.idle_rounds, MAX_IDLE_ROUNDS)
        return due

    def _visit(self, session: ObservedSession, visit: int) -> None:
        try:
            if not self.stop.is_set():
                rng = random.Random(f"{self._job.seed}/{session.index}/{visit}")  # noqa: S311 - not a secret
                fate = self._fate(session, visit, rng)
                if fate is not None:
                    self._run(Visit(session, visit, fate, rng))
        finally:
            session.release(visit)

    def _fate(self, session: ObservedSession, visit: int, rng: random.Random) -> Fate | None:
        """Draw the course of the visit's run; None if the session has no turns to analyse."""
        if not session.has_turns:
            with self._report.timed("GetSession"):
                session.has_turns = self._primary.get_session(session.session_id, timeout=CALL_TIMEOUT).turn_count > 0
        if session.has_turns:
            return rng.choices(list(_FATES), list(_FATES.values()))[0]
        return Fate.FAILS if visit == 1 and rng.random() < _EARLY_SHARE else None

    def _run(self, visit: Visit) -> None:
        try:
            if visit.fate is Fate.ABANDONED:
                self._abandon(visit)
            else:
                self._observe(visit)
        except Unavailable:
            raise
        except SessionNotesError as error:
            text = f"{type(error).__name__}: {error}"
            self._report.add(Rejection(visit.session.session_id, "the observer's calls", text))

    def _abandon(self, visit: Visit) -> None:
        session_id, sent = visit.session.session_id, time.monotonic()
        run = self._client.begin_run(session_id, run_id=visit.run_id, lease=SHORT_LEASE).run
        self._report_begin(session_id, run, sent)
        self._report.add(RunWithoutNotes(session_id, run.run_id, run.number, failed=False))

    def _observe(self, visit: Visit) -> None:
        session_id, sent = visit.session.session_id, time.monotonic()
        with self._client.run(session_id, run_id=visit.run_id) as run:
            self._report_begin(session_id, run, sent)
            if visit.fate is Fate.FAILS:
                with self._report.timed("FailRun"):
                    run.fail("no result, as planned")
                self._report.add(RunWithoutNotes(session_id, run.run_id, run.number, failed=True))
                return
            notes = analyse(session_id, run.run_id, run.transcript)
            if visit.fate is Fate.SLOW:
                visit.session.release(visit.number)
            self.stop.wait(visit.rng.uniform(*_ANALYSIS_SECONDS[visit.fate]))
            self._write(run, notes)
        if visit.fate is Fate.TWICE:
            visit.session.release(visit.number)
            self.stop.wait(visit.rng.uniform(*_REPEAT_SECONDS))
            self._write(run, notes, repeated=True)

    def _report_begin(self, session_id: str, run: Run | ActiveRun, sent: float) -> None:
        received = time.monotonic()
        self._report.add_duration("BeginRun", received - sent)
        names, number = [run.run_id], run.number
        self._report.add(Write(session_id, "run", names, sent, received, "acknowledged", number, run.observed_turn))

    def _write(self, run: ActiveRun, notes: Notes, *, repeated: bool = False) -> None:
        sent = time.monotonic()
        with self._report.timed("WriteNotes"):
            result: WriteResult = (
                self._client.write_notes(run.session_id, notes, run_id=run.run_id) if repeated else run.write(notes)
            )
        self._report.add(
            NotesWrite(
                session_id=run.session_id,
                run_id=run.run_id,
                number=result.run.number,
                observed_turn=result.run.observed_turn,
                outcome=result.outcome.value,
                write_time_us=time_us(result.write_time),
                sent=sent,
                received=time.monotonic(),
                repeated=repeated,
                notes=notes_json(notes),
            )
        )

    def _finish_visit(self, visit: Future[None]) -> None:
        if (error := visit.exception()) is not None:
            self._crash = self._crash or error
            self.stop.set()


def main() -> None:
    """Run the process."""
    settings, sessions = read_job()
    job, report = ObserverJob(**settings), Report()
    with (
        ObserverClient(job.target, observer=OBSERVER, timeout=CALL_TIMEOUT) as client,
        PrimaryClient(job.target) as primary,
    ):
        observer = Observer(client, primary, job, [session["session_id"] for session in sessions], report)

        def stop_on_request() -> None:
            wait_for_stop()
            observer.stop.set()

        threading.Thread(target=stop_on_request, daemon=True).start()
        observer.work()
    report.finish()


if __name__ == "__main__":
    main()
