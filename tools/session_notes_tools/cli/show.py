"""What people see: ages as "12 s ago", tables, colour where a terminal shows it.

Whatever a user, a primary or an observer wrote is shown as it was written: never as rich's markup, and with characters
that act on a terminal or hide made visible, so that no text can move the cursor, colour the rest or read as another.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from session_notes_tools.terminal_text import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text
    from session_notes import Notes, Reading, Run, Session, SessionSummary, Turn

_BAR_CELLS = 10
_SHORTEST_ID = 9
_WIDE = 110
_SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
STATE_STYLES = {"written": "green", "running": "cyan", "failed": "red", "abandoned": "red", "superseded": "yellow"}
UNKNOWN_SESSION = "nothing is known of this session: its id may be another, or it was deleted or has expired"
_READINESS = {
    "never_run": "no observer of this name has run on this session yet",
    "running": "no notes yet; a run is at work",
    "ready": "there are notes",
    "failed": "no notes; the latest run ended without any",
    "expired": "there were notes, and their time to live has passed",
}


def plain(text: str, *, lines: bool = False) -> str:
    """Return a text that a terminal shows and does not obey; `lines`: whether it may have several."""
    spaced = text.replace("\t", " ") if lines else text.replace("\t", " ").replace("\n", " ")
    return visible(spaced, keep="\n")


def out(*parts: "RenderableType") -> None:
    """Prints on stdout."""
    console = _console()
    if console.is_terminal:
        for part in parts:
            console.print(part, soft_wrap=getattr(part, "no_wrap", None) is True)
        return
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    # Tables fill their cells with spaces, which is of no use here.
    click.echo("\n".join(text.rstrip() for text in captured.get().removesuffix("\n").split("\n")))


def width() -> int:
    """Return how many cells a line has: of a terminal, or more than any line needs."""
    return _console().width


def line(*parts: str | tuple[str, str]) -> "Text":
    """One line of text, or of (text, style)."""
    from rich.text import Text

    return Text.assemble(*((plain(part), "") if isinstance(part, str) else (plain(part[0]), part[1]) for part in parts))


def with_ids(*parts: str | tuple[str, str]) -> "Text":
    """One line that holds ids: only the terminal itself breaks it, so that a copied id is whole."""
    text = line(*parts)
    text.no_wrap = True
    return text


def amount(span: timedelta) -> str:
    """A span in its largest unit, rounded down: `12 s`, `3 min`, `2 h`, `5 d`."""
    seconds = int(span.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 2 * 86400 else f"{seconds // 86400} d"


def ago(age: timedelta) -> str:
    """An age."""
    return f"{amount(age)} ago"


def left(span: timedelta | None) -> str:
    """What is left of something, in two units: of 24 hours just set, no one wants to read 23."""
    if span is None:
        return "-"
    seconds = span.total_seconds()
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return amount(timedelta(seconds=round(seconds) if seconds < 60 else minutes * 60))
    (many, few), units = (divmod(minutes, 60), ("h", "min")) if hours < 48 else (divmod(hours, 24), ("d", "h"))
    return f"{many} {units[0]} {few} {units[1]}" if few else f"{many} {units[0]}"


def moment(time: datetime | None) -> str:
    """A time of the store's clock. No age is made of it: that would mix the clocks of two hosts."""
    return "-" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def count(number: int, noun: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def readings_words(reading: "Reading") -> str:
    """Readiness, age and drift in a few words."""
    if reading.age is None:
        return f"not ready ({reading.readiness.value}): {_READINESS.get(reading.readiness.value, 'not known why')}"
    words = [f"written {ago(reading.age)}"]
    if reading.snapshot_age is not None:
        words.append(f"snapshot {ago(reading.snapshot_age)}")
    if reading.turns_behind is not None:
        words.append(f"{count(reading.turns_behind, 'turn')} behind" if reading.turns_behind else "no turn behind")
    return "ready: " + ", ".join(words)


def show_reading(reading: "Reading", *, known: bool, max_age: timedelta | None, max_turns_behind: int | None) -> None:
    """Show current notes.

    Args:
        reading: The notes.
        known: Whether the store has anything of the session.
        max_age: The bound on their age that was asked for.
        max_turns_behind: The bound on their drift that was asked for.
    """
    out(with_ids((reading.session_id, "bold"), "  observer ", (reading.observer, "bold")))
    verdict = ("", "")
    if reading.ready and (max_age is not None or max_turns_behind is not None):
        reasons = ", and ".join(_why_stale(reading, max_age, max_turns_behind))
        verdict = (", fresh", "green") if reading.fresh else (f", stale: {reasons}", "red")
    words = readings_words(reading) if known else f"not ready ({reading.readiness.value}): {UNKNOWN_SESSION}"
    out(line((words, "green" if reading.ready else "yellow"), verdict))
    if reading.notes:
        out(*notes_parts(reading.notes))
    if reading.run:
        saw = "" if reading.observed_turn is None else f", saw {count(reading.observed_turn, 'turn')}"
        expiry = f", expires in {left(reading.expires_in)}" if reading.expires_in is not None else ""
        out(with_ids((f"from run {reading.run.number} ({reading.run.run_id}){saw}{expiry}", "dim")))
    latest = reading.latest_run
    if latest and (reading.run is None or latest.number > reading.run.number):
        failure = f": {latest.failure}" if latest.failure else ""
        state = (latest.state.value, STATE_STYLES.get(latest.state.value, ""))
        out(with_ids(f"latest run {latest.number} ({latest.run_id}): ", state, failure))


def _why_stale(reading: "Reading", max_age: timedelta | None, max_turns_behind: int | None) -> "Iterator[str]":
    if max_age is not None and reading.age is not None and reading.age > max_age:
        yield f"older than {max_age.total_seconds():g} s"
    if max_turns_behind is None:
        return
    if reading.turns_behind is not None:
        if reading.turns_behind > max_turns_behind:
            yield f"more than {count(max_turns_behind, 'turn')} behind"
    elif reading.observed_turn is None:
        yield "how far behind is not known, as their run did not say which turns it had seen"
    else:
        yield "how far behind is not known, as no turn is stored: give --current-turn"


def notes_parts(notes: "Notes") -> "Iterator[RenderableType]":
    """Notes, part by part."""
    from rich.text import Text

    if notes.summary:
        yield Text("\n".join(f"  {text}" for text in plain(notes.summary, lines=True).split("\n")))
    if notes.coverage:
        yield line(("  coverage", "bold"))
        table = _grid()
        for topic, share in sorted(notes.coverage.items()):
            full = round(share * _BAR_CELLS)
            table.add_row(line("    ", topic), line("█" * full + "░" * (_BAR_CELLS - full)), line(f"{share:.0%}"))
        yield table
    if notes.issues:
        yield line(("  issues", "bold"))
        table = _grid()
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


def show_runs(runs: "Sequence[Run]", *, notes: bool) -> None:
    """Show runs as a table; `notes`: each one's notes below."""
    # In a narrow terminal the times of the ends would leave no room for ids.
    wide = width() >= _WIDE
    headers = ["NUMBER", "RUN", "STATE", "SAW", "BEGAN", *(["ENDED"] if wide else []), "FAILURE"]
    table = headed_table(*headers, ids=["RUN"], folded=["FAILURE"])
    for run in runs:
        state = run.state.value
        saw = "-" if run.observed_turn is None else count(run.observed_turn, "turn")
        table.add_row(
            line(str(run.number)),
            Id(run.run_id),
            line((state, STATE_STYLES.get(state, ""))),
            line(saw),
            line(moment(run.begin_time)),
            *([line(moment(run.end_time))] if wide else []),
            line(run.failure),
        )
    out(table)
    for run in runs if notes else ():
        if run.notes is not None:
            out(with_ids((f"run {run.number} ({run.run_id})", "bold")), *notes_parts(run.notes))


def show_session(session: "Session") -> None:
    """A session."""
    times = f"started {moment(session.create_time)}, changed {moment(session.update_time)}"
    out(with_ids((session.session_id, "bold"), f"  version {session.version}, {count(session.turn_count, 'turn')}"))
    out(line((f"{times}, expires in {left(session.expires_in)}", "dim")))
    if session.fields:
        out(line(("fields", "bold")))
        table = _grid()
        for name, content in sorted(session.fields.items()):
            table.add_row(line("  ", name), line(_json(content)))
        out(table)
    if session.notes:
        out(line(("notes", "bold")))
        table = _grid()
        for observer, reading in sorted(session.notes.items()):
            table.add_row(line("  ", observer), line(readings_words(reading)))
        out(table)
    if session.turns:
        out(line(("turns", "bold")))
        show_turns(session.turns, last=session.turn_count)


def show_turns(turns: "Sequence[Turn]", *, last: int) -> None:
    """Turns; `last`: the number of the last of them."""
    table = _grid()
    for number, turn in enumerate(turns, last - len(turns) + 1):
        table.add_row(line((f"  {number}", "dim")), line((turn.speaker or "-", "bold")), line(turn.text))
    out(table)


def show_sessions(sessions: "Iterable[SessionSummary]") -> None:
    """Sessions as a table."""
    table = headed_table(
        "SESSION", "VERSION", "TURNS", "CHANGED", "EXPIRES IN", "OBSERVERS", ids=["SESSION", "OBSERVERS"]
    )
    for one in sessions:
        table.add_row(
            Id(one.session_id),
            line(str(one.version)),
            line(str(one.turn_count)),
            line(moment(one.update_time)),
            line(left(one.expires_in)),
            Id(", ".join(one.observers) or "-"),
        )
    out(table if table.row_count else line("no sessions"))


def headed_table(*headers: str, ids: Collection[str] = (), folded: Collection[str] = ()) -> "Table":
    """Return a table with headings.

    Args:
        headers: The headings.
        ids: Columns that hold an `Id`, which gives way where room is short.
        folded: Columns whose texts then take several lines.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header not in {*ids, *folded})
    return table


class Id:
    """An id in a table: always one line, and where room is short without its middle, as ids often differ at their ends.

    Args:
        text: The id, or several.
        style: As rich has it.
    """

    def __init__(self, text: str, style: str = "") -> None:
        self._text = plain(text)
        self._style = style

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        """Part of rich's protocol for what can be rendered."""
        from rich.measure import Measurement

        return Measurement(min(len(self._text), _SHORTEST_ID), len(self._text))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        """Part of rich's protocol for what can be rendered."""
        from rich.text import Text

        yield Text(without_middle(self._text, options.max_width), self._style, no_wrap=True, overflow="ellipsis")


def without_middle(text: str, width: int) -> str:
    """Return a text in at most so many cells: `abcd…wxyz`."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _json(content: Any) -> str:
    from session_notes_tools.cli.documents import value

    return json.dumps(value(content), ensure_ascii=False)


def _grid() -> "Table":
    from rich.table import Table

    return Table.grid(padding=(0, 2))


def _console() -> "Console":
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if os.environ.get("NO_COLOR"):
        # rich alone would still write bold and dim.
        console = Console(markup=False, highlight=False, emoji=False, color_system=None)
    if not console.is_terminal:
        # Nobody's screen: lines stay whole, so that grep finds what belongs together.
        console.width = 100_000
    return console
