"""One session: its observers' notes and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from session_notes import Reading, Run, Session

from session_notes_tools.cli import output, phrases, views
from session_notes_tools.top.reads import Reads
from session_notes_tools.top.watch import Moment

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_OBSERVERS = 10


class Detail:
    """What is known of one session.

    Args:
        reads: Whom to ask.
        session_id: The session.
        observer: The observer to show first.
    """

    def __init__(self, reads: Reads, session_id: str, observer: str) -> None:
        self.session_id = session_id
        self._reads = reads
        self._observer = observer
        self._session: Session | None = None
        self._bytes = 0
        self._runs: dict[str, list[Run]] = {}
        self._read_at = 0.0

    async def read(self, now: float) -> None:
        """Ask for it, at `now` by the monotonic clock: one GetSession, and one ListRuns for each observer shown.

        Raises:
            SessionNotesError: Something was not answered; what was answered before is kept.
        """
        session, size = await self._reads.session(self.session_id)
        shown = sorted(session.notes, key=lambda name: (name != self._observer, name))[:MOST_OBSERVERS]
        runs = {observer: await self._reads.runs(self.session_id, observer) for observer in shown}
        self._session, self._bytes, self._runs, self._read_at = session, size, runs, now

    def parts(self, moment: Moment) -> Iterator[RenderableType]:
        """All of it, for people."""
        yield output.line((self.session_id, "bold"))
        session = self._session
        if session is None:
            yield output.line(("reading …", "dim"))
            return
        if session.create_time is None:
            yield output.line(("the session is not there any more: it was deleted, or it has expired", "yellow"))
            return
        since = moment.since(self._read_at)
        left = phrases.remaining(_less(session.expires_in, since))
        changed = moment.age_of(session.update_time)
        yield output.line(
            f"{phrases.count(session.turn_count, 'turn')}, version {session.version}, changed ",
            phrases.ago(changed) if changed is not None else phrases.moment(session.update_time),
            f", expires in {left}",
        )
        fields = phrases.count(len(session.fields), "field")
        yield output.line((f"{self._bytes:,} bytes as served: {fields}, all notes; without the transcript", "dim"))
        if not session.notes:
            yield output.line("")
            yield output.line("no observer ever ran on it")
        for observer, runs in self._runs.items():
            yield output.line("")
            yield from _observer_parts(session.notes[observer], runs, since, moment)
        if more := len(session.notes) - len(self._runs):
            yield output.line("")
            yield output.line(
                (f"{phrases.count(more, 'more observer')}: session-notes session get {self.session_id}", "yellow")
            )


def _observer_parts(told: Reading, runs: Sequence[Run], since: timedelta, moment: Moment) -> Iterator[RenderableType]:
    reading = replace(told, age=_more(told.age, since), snapshot_age=_more(told.snapshot_age, since))
    yield output.line(("observer ", "bold"), (reading.observer, "bold"))
    yield output.line((phrases.reading_summary(reading), views.READINESS_STYLES.get(reading.readiness.value, "")))
    if reading.notes is not None:
        left = phrases.remaining(_less(reading.expires_in, since))
        run = f"notes of run {reading.run.number}, " if reading.run else "notes, "
        yield output.line((f"{run}expire in {left}", "dim"))
        yield output.line("")
        yield from views.notes_parts(reading.notes)
    yield output.line("")
    columns = {
        **views.RUN_COLUMNS,
        "BEGAN": lambda run: output.line(_began(run, moment)),
        "TOOK": lambda run: output.line(_took(run, moment)),
        "RUN": lambda run: output.Id(run.run_id, "dim"),
    }
    yield views.runs_table(runs, ("NUMBER", "STATE", "SAW", "BEGAN", "TOOK", "FAILURE", "RUN"), columns)


def _began(run: Run, moment: Moment) -> str:
    began = moment.age_of(run.begin_time)
    return phrases.ago(began) if began is not None else phrases.moment(run.begin_time)


def _took(run: Run, moment: Moment) -> str:
    if run.begin_time is None:
        return "-"
    if run.end_time is not None:
        seconds = (run.end_time - run.begin_time).total_seconds()
        return f"{seconds:.1f} s" if seconds < 10 else phrases.amount(timedelta(seconds=seconds))
    so_far = moment.age_of(run.begin_time)
    return "-" if so_far is None else f"{phrases.amount(so_far)} so far"


def _more(age: timedelta | None, since: timedelta) -> timedelta | None:
    return None if age is None else age + since


def _less(left: timedelta | None, since: timedelta) -> timedelta | None:
    return None if left is None else max(timedelta(), left - since)
