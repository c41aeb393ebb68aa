"""The observer process of a replay: a background observer, to which the sessions with new turns are submitted.

It receives only the ids of sessions, once at the start and once per submission, and learns everything else from the
sidecar. Analyses take a simulated time. Some runs are overtaken by a newer one of another process, some write twice,
some fail, and some are abandoned by a process that has died.

Run by `playback` as `python -m session_notes_tools.replay.observer`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any

from session_notes import (
    ActiveRun,
    BackgroundObserver,
    BeginResult,
    Notes,
    ObserverClient,
    Run,
    SessionNotesError,
    Unavailable,
)

from session_notes_tools.replay.analysis import analyse
from session_notes_tools.replay.brakes import scaled
from session_notes_tools.replay.pipes import Report, read_job, read_lines
from session_notes_tools.replay.plan import OBSERVER
from session_notes_tools.replay.records import (
    NotesWrite,
    Outage,
    Rejection,
    Renewal,
    RunWithoutNotes,
    Submit,
    Window,
    Write,
    notes_json,
    time_us,
)

CALL_TIMEOUT = timedelta(seconds=20)
CLOSE_TIMEOUT = timedelta(seconds=60)
"""Time for the submitted sessions after the last turn, on a busy machine."""

LEASE = timedelta(seconds=1)
"""Short, so that it is renewed during a slow analysis."""

SHORT_LEASE = timedelta(milliseconds=20)


class Fate(Enum):
    """The course of a run."""

    WRITES = auto()
    OVERTAKEN = auto()
    """Another process begins a newer run during the analysis, and writes first."""
    TWICE = auto()
    """Writes the same notes again later, like a client that got no response."""
    FAILS = auto()
    ABANDONED = auto()
    """Another process begins a newer run during the analysis, and dies."""


_FATES = {Fate.WRITES: 78, Fate.OVERTAKEN: 9, Fate.TWICE: 8, Fate.FAILS: 3, Fate.ABANDONED: 2}
_ANALYSIS_SECONDS = (0.005, 0.08)
_SLOW_SECONDS = (0.2, 0.6)
_EARLY_SHARE = 0.15
"""The share of sessions with a run before their first turn. Such a run fails."""


@dataclass(frozen=True, slots=True)
class ObserverJob:
    """The observer's settings, apart from the session ids."""

    target: str
    seed: int
    threads: int
    turn_interval: float
    brakes: bool


class Observer:
    """Analyses submitted sessions until it is closed."""

    def __init__(self, client: ObserverClient, job: ObserverJob, session_ids: Sequence[str], report: Report) -> None:
        self._client = client
        self._report = report
        self._seed = job.seed
        self._indices = {session_id: index for index, session_id in enumerate(session_ids)}
        brakes: dict[str, Any] = scaled(job.turn_interval) if job.brakes else {"brakes": False}
        self._min_interval_us = brakes["min_interval"] // timedelta(microseconds=1) if job.brakes else None
        # When the latest analysis of each session ended, or the session was first submitted: its next run begins later.
        self._free_since: dict[str, float] = {}
        self._closing = threading.Event()
        self._pool = BackgroundObserver(
            self._analyse, client=client, max_workers=job.threads, lease=LEASE, transcript="new", **brakes
        )

    def begin_early(self) -> None:
        """Begin runs that fail on some of the sessions, which have no turns yet."""
        for session_id in self._indices:
            if self._rng(session_id, 0).random() < _EARLY_SHARE:
                run = self._begin(session_id).run
                with self._report.timed("FailRun"):
                    self._client.fail_run(session_id, run.run_id, "no turns, as planned")
                self._report.add(RunWithoutNotes(session_id, run.run_id, run.number, failed=True))

    def submit(self, session_ids: Iterable[str]) -> None:
        """Submit sessions."""
        for session_id in session_ids:
            now = time.monotonic()
            self._free_since.setdefault(session_id, now)
            self._report.add(Submit(session_id, now))
            self._pool.submit(session_id)

    def close(self) -> None:
        """Finish the submitted sessions, without brakes and without simulated time."""
        self._closing.set()
        self._pool.close(CLOSE_TIMEOUT)

    def _analyse(self, run: ActiveRun) -> None:
        """Analyse a run, write its notes, and report both. The background observer writes nothing: it gets no notes."""
        session_id, received = run.session_id, time.monotonic()
        try:
            self._report_begun(
                session_id,
                run,
                run,
                submitted=True,
                sent=self._free_since[session_id],
                received=received,
                min_interval_us=None if self._closing.is_set() else self._min_interval_us,
            )
            self._conclude(run, self._rng(session_id, run.number))
        except Unavailable as error:
            self._report.add(Outage(str(error), error.reason))
        except SessionNotesError as error:
            self._report.add(Rejection(session_id, "the observer's calls", f"{type(error).__name__}: {error}"))
        finally:
            self._free_since[session_id] = time.monotonic()

    def _rng(self, session_id: str, number: int) -> random.Random:
        """Return the random numbers of a run."""
        return random.Random(f"{self._seed}/{self._indices[session_id]}/{number}")  # noqa: S311 - not a secret

    def _conclude(self, run: ActiveRun, rng: random.Random) -> None:
        session_id = run.session_id
        fate = rng.choices(list(_FATES), list(_FATES.values()))[0]
        if fate is Fate.FAILS:
            with self._report.timed("FailRun"):
                run.fail("no result, as planned")
            self._report.add(RunWithoutNotes(session_id, run.run_id, run.number, failed=True))
            return
        notes = analyse(session_id, run.run_id, run.transcript, run.current.notes if run.current else None)
        if fate is Fate.OVERTAKEN:
            self._overtake(run)
            self._closing.wait(rng.uniform(*_SLOW_SECONDS))
        elif fate is Fate.ABANDONED:
            self._abandon(session_id, renewed=rng.random() < 0.5)
        self._closing.wait(rng.uniform(*_ANALYSIS_SECONDS))
        self._write(session_id, run, notes)
        if fate is Fate.TWICE:
            self._closing.wait(rng.uniform(*_SLOW_SECONDS))
            self._write(session_id, run, notes, repeated=True)

    def _overtake(self, run: ActiveRun) -> None:
        """Write a newer run's notes, and renew the slow run's lease before and after."""
        session_id = run.session_id
        self._renew(session_id, run)
        newer = self._begin(session_id)
        current = newer.current.notes if newer.current else None
        self._write(session_id, newer.run, analyse(session_id, newer.run.run_id, newer.transcript, current))
        self._renew(session_id, run)

    def _abandon(self, session_id: str, *, renewed: bool) -> None:
        """Begin a run that is never heard of again, perhaps after a renewal."""
        run = self._begin(session_id, lease=SHORT_LEASE).run
        if renewed:
            self._renew(session_id, run, lease=SHORT_LEASE)
        self._report.add(RunWithoutNotes(session_id, run.run_id, run.number, failed=False))

    def _begin(self, session_id: str, lease: timedelta | None = None) -> BeginResult:
        """Begin a run as another process would."""
        sent = time.monotonic()
        begun = self._client.begin_run(
            session_id, lease=lease, include_transcript=True, after_current_notes=True, include_current_notes=True
        )
        received = time.monotonic()
        self._report.add_duration("BeginRun", received - sent)
        self._report_begun(session_id, begun.run, begun, submitted=False, sent=sent, received=received)
        return begun

    def _report_begun(
        self,
        session_id: str,
        run: Run | ActiveRun,
        begun: BeginResult | ActiveRun,
        *,
        submitted: bool,
        sent: float,
        received: float,
        min_interval_us: int | None = None,
    ) -> None:
        names, number = [run.run_id], run.number
        self._report.add(Write(session_id, "run", names, sent, received, "acknowledged", number, run.observed_turn))
        self._report.add(
            Window.of(
                session_id,
                run,
                begun,
                submitted=submitted,
                sent=sent,
                received=received,
                min_interval_us=min_interval_us,
            )
        )

    def _renew(self, session_id: str, run: Run | ActiveRun, lease: timedelta | None = None) -> None:
        sent = time.monotonic()
        with self._report.timed("RenewRun"):
            renewed = self._client.renew_run(session_id, run.run_id, lease=lease)
        self._report.add(
            Renewal(
                session_id=session_id,
                run_id=run.run_id,
                number=run.number,
                observed_turn=run.observed_turn or 0,
                obsolete=renewed.obsolete,
                turns_behind=renewed.turns_behind,
                sent=sent,
                received=time.monotonic(),
            )
        )

    def _write(self, session_id: str, run: Run | ActiveRun, notes: Notes, *, repeated: bool = False) -> None:
        sent = time.monotonic()
        with self._report.timed("WriteNotes"):
            if isinstance(run, ActiveRun) and not repeated:
                result = run.write(notes)
            else:
                result = self._client.write_notes(session_id, notes, run_id=run.run_id)
        self._report.add(
            NotesWrite(
                session_id=session_id,
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


def main() -> None:
    """Run the process."""
    settings, sessions = read_job()
    job, report = ObserverJob(**settings), Report()
    with ObserverClient(job.target, observer=OBSERVER, timeout=CALL_TIMEOUT) as client:
        observer = Observer(client, job, [session["session_id"] for session in sessions], report)
        try:
            observer.begin_early()
        except Unavailable as error:
            report.add(Outage(str(error), error.reason))
        observer.submit(read_lines())
        observer.close()
    report.finish()


if __name__ == "__main__":
    main()
