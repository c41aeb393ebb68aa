"""Readings, notes, runs and sessions printed for people."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from session_notes_tools.cli.output import Id, echo, grid, headed_table, id_line, line, plain, width
from session_notes_tools.cli.phrases import count, moment, reading_summary, remaining, unknown_session_summary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from session_notes import DueSession, Notes, Reading, Run, Session, SessionSummary, Turn

READINESS_STYLES = {
    "ready": "green",
    "running": "cyan",
    "failed": "bold red",
    "expired": "yellow",
    "never_run": "dim",
}
_STATE_STYLES = {"written": "green", "running": "cyan", "failed": "red", "abandoned": "red", "superseded": "yellow"}
_SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_BAR_CELLS = 10
_WIDE_CELLS = 110

RunColumn = Callable[["Run"], "RenderableType"]

RUN_COLUMNS: Mapping[str, RunColumn] = {
    "NUMBER": lambda run: line(str(run.number)),
    "RUN": lambda run: Id(run.run_id),
    "STATE": lambda run: line((run.state.value, _STATE_STYLES.get(run.state.value, ""))),
    "SAW": lambda run: line("-" if run.observed_turn is None else count(run.observed_turn, "turn")),
    "BEGAN": lambda run: line(moment(run.begin_time)),
    "ENDED": lambda run: line(moment(run.end_time)),
    "FAILURE": lambda run: line(run.failure or "-"),
}
"""The columns of a table of runs, by heading."""


def runs_table(
    runs: "Iterable[Run]", headers: Sequence[str], columns: Mapping[str, RunColumn] = RUN_COLUMNS
) -> "Table":
    """Return a table with one row per run.

    Args:
        runs: The runs.
        headers: The headings, in order.
        columns: The columns by heading.
    """
    table = headed_table(*headers, ids=["RUN"], folded=["FAILURE"])
    for run in runs:
        table.add_row(*(columns[header](run) for header in headers))
    return table


def show_run(run: "Run") -> None:
    """Print a run on one line."""
    observed = "" if run.observed_turn is None or run.end_time else f", sees {count(run.observed_turn, 'turn')}"
    echo(id_line((f"run {run.number}", "bold"), f" ({run.run_id}) of {run.observer}: {run.state.value}{observed}"))


def show_runs(runs: "Sequence[Run]", *, notes: bool) -> None:
    """Print a table of runs and, with `notes`, the notes of each run below it."""
    # On a narrow terminal, end times would leave no room for ids.
    hidden = () if width() >= _WIDE_CELLS else ("ENDED",)
    echo(runs_table(runs, [header for header in RUN_COLUMNS if header not in hidden]))
    for run in runs if notes else ():
        if run.notes is not None:
            echo(id_line((f"run {run.number} ({run.run_id})", "bold")), *notes_parts(run.notes))


def show_reading(
    reading: "Reading", *, session_exists: bool, max_age: timedelta | None, max_turns_behind: int | None
) -> None:
    """Print current notes with their age and drift.

    Args:
        reading: The reading.
        session_exists: Whether the store has any data of the session.
        max_age: The bound on the age of the notes, if one was given.
        max_turns_behind: The bound on their drift, if one was given.
    """
    echo(id_line((reading.session_id, "bold"), "  observer ", (reading.observer, "bold")))
    verdict = ("", "")
    if reading.ready and (max_age is not None or max_turns_behind is not None):
        reasons = ", and ".join(_stale_reasons(reading, max_age, max_turns_behind))
        verdict = (", fresh", "green") if reading.fresh else (f", stale: {reasons}", "red")
    summary = reading_summary(reading) if session_exists else unknown_session_summary(reading)
    echo(line((summary, READINESS_STYLES.get(reading.readiness.value, "")), verdict))
    if reading.notes:
        echo(*notes_parts(reading.notes))
    if reading.run:
        observed = "" if reading.observed_turn is None else f", saw {count(reading.observed_turn, 'turn')}"
        expiry = f", expires in {remaining(reading.expires_in)}" if reading.expires_in is not None else ""
        echo(id_line((f"from run {reading.run.number} ({reading.run.run_id}){observed}{expiry}", "dim")))
    latest = reading.latest_run
    if latest and (reading.run is None or latest.number > reading.run.number):
        failure = f": {latest.failure}" if latest.failure else ""
        state = (latest.state.value, _STATE_STYLES.get(latest.state.value, ""))
        echo(id_line(f"latest run {latest.number} ({latest.run_id}): ", state, failure))


def _stale_reasons(reading: "Reading", max_age: timedelta | None, max_turns_behind: int | None) -> Iterator[str]:
    if max_age is not None and reading.age is not None and reading.age > max_age:
        yield f"older than {max_age.total_seconds():g} s"
    if max_turns_behind is None:
        return
    if reading.turns_behind is not None:
        if reading.turns_behind > max_turns_behind:
            yield f"more than {count(max_turns_behind, 'turn')} behind"
    elif reading.observed_turn is None:
        yield "drift unknown, because the run did not record how many turns it saw"
    else:
        yield "drift unknown, because no turn is stored; give --current-turn"


def notes_parts(notes: "Notes") -> "Iterator[RenderableType]":
    """Yield the parts of notes as lines and tables."""
    from rich.text import Text

    if notes.summary:
        yield Text("\n".join(f"  {text}" for text in plain(notes.summary, lines=True).split("\n")))
    if notes.coverage:
        yield line(("  coverage", "bold"))
        table = grid()
        for topic, share in sorted(notes.coverage.items()):
            full = round(share * _BAR_CELLS)
            table.add_row(line("    ", topic), line("█" * full + "░" * (_BAR_CELLS - full)), line(f"{share:.0%}"))
        yield table
    if notes.issues:
        yield line(("  issues", "bold"))
        table = grid()
        for issue in notes.issues:
            severity = issue.severity.value if issue.severity.value != "unspecified" else "-"
            turn = line((f"turn {issue.turn}", "dim") if issue.turn is not None else "")
            table.add_row(line("    ", (severity, _SEVERITY_STYLES.get(severity, ""))), line(issue.text), turn)
        yield table
    if notes.follow_up_suggestions:
        yield line(("  suggestions", "bold"))
        for number, suggestion in enumerate(notes.follow_up_suggestions, 1):
            yield line(f"    {number}. {suggestion}")
    if notes.extra:
        yield line(("  extra", "bold"), f"  {_json(notes.extra)}")
    if not any((notes.summary, notes.coverage, notes.issues, notes.follow_up_suggestions, notes.extra)):
        yield line(("  the notes are empty", "dim"))


def show_session(session: "Session") -> None:
    """Print a session."""
    times = f"started {moment(session.create_time)}, changed {moment(session.update_time)}"
    echo(id_line((session.session_id, "bold"), f"  version {session.version}, {count(session.turn_count, 'turn')}"))
    echo(line((f"{times}, expires in {remaining(session.expires_in)}", "dim")))
    if session.fields:
        echo(line(("fields", "bold")))
        table = grid()
        for name, content in sorted(session.fields.items()):
            table.add_row(line("  ", name), line(_json(content)))
        echo(table)
    if session.notes:
        echo(line(("notes", "bold")))
        table = grid()
        for observer, reading in sorted(session.notes.items()):
            table.add_row(line("  ", observer), line(reading_summary(reading)))
        echo(table)
    if session.turns:
        echo(line(("turns", "bold")))
        show_turns(session.turns, last=session.turn_count)


def show_turns(turns: "Sequence[Turn]", *, last: int) -> None:
    """Print numbered turns. `last` is the number of the last one."""
    table = grid()
    for number, turn in enumerate(turns, last - len(turns) + 1):
        table.add_row(line((f"  {number}", "dim")), line((turn.speaker or "-", "bold")), line(turn.text))
    echo(table)


def show_sessions(sessions: "Iterable[SessionSummary]") -> None:
    """Print a table of sessions."""
    table = headed_table(
        "SESSION", "VERSION", "TURNS", "CHANGED", "EXPIRES IN", "OBSERVERS", ids=["SESSION", "OBSERVERS"]
    )
    for session in sessions:
        table.add_row(
            Id(session.session_id),
            line(str(session.version)),
            line(str(session.turn_count)),
            line(moment(session.update_time)),
            line(remaining(session.expires_in)),
            Id(", ".join(session.observers) or "-"),
        )
    echo(table if table.row_count else line("no sessions"))


def show_due(sessions: "Iterable[DueSession]") -> None:
    """Print a table of sessions on which an observer has work to do."""
    table = headed_table("SESSION", "TURNS", "BEHIND", "QUIET FOR", "LATEST RUN", ids=["SESSION"])
    for session in sessions:
        latest = session.latest_run
        table.add_row(
            Id(session.session_id),
            line(str(session.turn_count)),
            line(str(session.turns_behind)),
            line(remaining(session.quiet)),
            line("-" if latest is None else (latest.state.value, _STATE_STYLES.get(latest.state.value, ""))),
        )
    echo(table if table.row_count else line("no session is due"))


def _json(content: Any) -> str:
    from session_notes_tools.cli.documents import value

    return json.dumps(value(content), ensure_ascii=False)
