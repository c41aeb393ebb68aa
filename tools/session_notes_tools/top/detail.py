"""One session: its observers' notes and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from session_notes import Reading, Run, Session

from session_notes_tools.cli import show
from session_notes_tools.top.columns import READINESS_STYLES
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
        yield show.line((self.session_id, "bold"))
        session = self._session
        if session is None:
            yield show.line(("reading …", "dim"))
            return
        if session.create_time is None:
            yield show.line(("the session is not there any more: it was deleted, or it has expired", "yellow"))
            return
        since = moment.since(self._read_at)
        left = show.left(_less(session.expires_in, since))
        changed = moment.age_of(session.update_time)
        yield show.line(
            f"{show.count(session.turn_count, 'turn')}, version {session.version}, changed ",
            show.ago(changed) if changed is not None else show.moment(session.update_time),
            f", expires in {left}",
        )
        fields = show.count(len(session.fields), "field")
        yield show.line((f"{self._bytes:,} bytes as served: {fields}, all notes; without the transcript", "dim"))
        if not session.notes:
            yield show.line("")
            yield show.line("no observer ever ran on it")
        for observer, runs in self._runs.items():
            yield show.line("")
            yield from _observer_parts(session.notes[observer], runs, since, moment)
        if more := len(session.notes) - len(self._runs):
            yield show.line("")
            yield show.line(
                (f"{show.count(more, 'more observer')}: session-notes session get {self.session_id}", "yellow")
            )


def _observer_parts(told: Reading, runs: Sequence[Run], since: timedelta, moment: Moment) -> Iterator[RenderableType]:
    reading = replace(told, age=_more(told.age, since), snapshot_age=_more(told.snapshot_age, since))
    yield show.line(("observer ", "bold"), (reading.observer, "bold"))
    yield show.line((show.readings_words(reading), READINESS_STYLES.get(reading.readiness.value, "")))
    if reading.notes is not None:
        left = show.left(_less(reading.expires_in, since))
        run = f"notes of run {reading.run.number}, " if reading.run else "notes, "
        yield show.line((f"{run}expire in {left}", "dim"))
        yield show.line("")
        yield from show.notes_parts(reading.notes)
    yield show.line("")
    table = show.headed_table(
        "NUMBER", "STATE", "SAW", "BEGAN", "TOOK", "FAILURE", "RUN", ids=["RUN"], folded=["FAILURE"]
    )
    for one in runs:
        state = one.state.value
        table.add_row(
            show.line(str(one.number)),
            show.line((state, show.STATE_STYLES.get(state, ""))),
            show.line("-" if one.observed_turn is None else show.count(one.observed_turn, "turn")),
            show.line(_began(one, moment)),
            show.line(_took(one, moment)),
            show.line(one.failure or "-"),
            show.Id(one.run_id, "dim"),
        )
    yield table


def _began(run: Run, moment: Moment) -> str:
    began = moment.age_of(run.begin_time)
    return show.ago(began) if began is not None else show.moment(run.begin_time)


def _took(run: Run, moment: Moment) -> str:
    if run.begin_time is None:
        return "-"
    if run.end_time is not None:
        seconds = (run.end_time - run.begin_time).total_seconds()
        return f"{seconds:.1f} s" if seconds < 10 else show.amount(timedelta(seconds=seconds))
    so_far = moment.age_of(run.begin_time)
    return "-" if so_far is None else f"{show.amount(so_far)} so far"


def _more(age: timedelta | None, since: timedelta) -> timedelta | None:
    return None if age is None else age + since


def _less(left: timedelta | None, since: timedelta) -> timedelta | None:
    return None if left is None else max(timedelta(), left - since)
