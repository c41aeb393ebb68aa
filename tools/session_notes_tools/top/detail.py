"""The details of one session: the notes and runs of its observers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from session_notes import Reading, Run, Session

from session_notes_tools.cli import output, phrases, views
from session_notes_tools.top.client import TopClient
from session_notes_tools.top.model import Moment

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_OBSERVERS = 10


class SessionDetail:
    """One session, as last read.

    Args:
        client: The client to read with.
        session_id: The session.
        observer: The observer to show first.
    """

    def __init__(self, client: TopClient, session_id: str, observer: str) -> None:
        self.session_id = session_id
        self._client = client
        self._observer = observer
        self._session: Session | None = None
        self._size_bytes = 0
        self._runs: dict[str, list[Run]] = {}
        self._read_at = 0.0

    async def read(self, now: float) -> None:
        """Read the session with one GetSession, and one ListRuns per observer shown.

        Args:
            now: The monotonic time in seconds.

        Raises:
            SessionNotesError: If a call fails. The previous data remains.
        """
        session, size_bytes = await self._client.get_session(self.session_id)
        observers = sorted(session.notes, key=lambda name: (name != self._observer, name))[:MAX_OBSERVERS]
        runs = {observer: await self._client.list_runs(self.session_id, observer) for observer in observers}
        self._session, self._size_bytes, self._runs, self._read_at = session, size_bytes, runs, now

    def render(self, moment: Moment) -> Iterator[RenderableType]:
        """Return the session as rich renderables."""
        yield output.line((self.session_id, "bold"))
        session = self._session
        if session is None:
            yield output.line(("reading …", "dim"))
            return
        if session.create_time is None:
            yield output.line(("this session no longer exists: it was deleted or has expired", "yellow"))
            return
        elapsed = moment.since(self._read_at)
        remaining = phrases.remaining(_subtract(session.expires_in, elapsed))
        changed = moment.age_of(session.update_time)
        yield output.line(
            f"{phrases.count(session.turn_count, 'turn')}, version {session.version}, changed ",
            phrases.ago(changed) if changed is not None else phrases.moment(session.update_time),
            f", expires in {remaining}",
        )
        fields = phrases.count(len(session.fields), "field")
        yield output.line((f"{self._size_bytes:,} bytes as served: {fields} and all notes, no transcript", "dim"))
        if not session.notes:
            yield output.line("")
            yield output.line("no observer has run on this session")
        for observer, runs in self._runs.items():
            yield output.line("")
            yield from _render_observer(session.notes[observer], runs, elapsed, moment)
        if hidden := len(session.notes) - len(self._runs):
            text = f"{phrases.count(hidden, 'more observer')}: session-notes session get {self.session_id}"
            yield output.line("")
            yield output.line((text, "yellow"))


def _render_observer(
    reading: Reading, runs: Sequence[Run], elapsed: timedelta, moment: Moment
) -> Iterator[RenderableType]:
    """Render an observer, `elapsed` after the reading arrived."""
    reading = replace(reading, age=_add(reading.age, elapsed), snapshot_age=_add(reading.snapshot_age, elapsed))
    yield output.line(("observer ", "bold"), (reading.observer, "bold"))
    yield output.line((phrases.reading_summary(reading), views.READINESS_STYLES.get(reading.readiness.value, "")))
    if reading.notes is not None:
        remaining = phrases.remaining(_subtract(reading.expires_in, elapsed))
        source = f"notes of run {reading.run.number}, " if reading.run else "notes, "
        yield output.line((f"{source}expire in {remaining}", "dim"))
        yield output.line("")
        yield from views.notes_parts(reading.notes)
    yield output.line("")
    columns = {
        **views.RUN_COLUMNS,
        "BEGAN": lambda run: output.line(_began(run, moment)),
        "TOOK": lambda run: output.line(_duration(run, moment)),
        "RUN": lambda run: output.Id(run.run_id, "dim"),
    }
    yield views.runs_table(runs, ("NUMBER", "STATE", "SAW", "BEGAN", "TOOK", "FAILURE", "RUN"), columns)


def _began(run: Run, moment: Moment) -> str:
    age = moment.age_of(run.begin_time)
    return phrases.ago(age) if age is not None else phrases.moment(run.begin_time)


def _duration(run: Run, moment: Moment) -> str:
    if run.begin_time is None:
        return "-"
    if run.end_time is not None:
        seconds = (run.end_time - run.begin_time).total_seconds()
        return f"{seconds:.1f} s" if seconds < 10 else phrases.amount(timedelta(seconds=seconds))
    age = moment.age_of(run.begin_time)
    return "-" if age is None else f"{phrases.amount(age)} so far"


def _add(age: timedelta | None, elapsed: timedelta) -> timedelta | None:
    return None if age is None else age + elapsed


def _subtract(remaining: timedelta | None, elapsed: timedelta) -> timedelta | None:
    return None if remaining is None else max(timedelta(), remaining - elapsed)
