"""The table's columns: what is in them, how they sort, and which stay where there is not room for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from session_notes import RunState

from session_notes_tools.cli import output, phrases
from session_notes_tools.cli.views import READINESS_STYLES
from session_notes_tools.top.watch import Moment, Row

Cell = tuple[str, str]
"""A text and its style."""

_TROUBLE_FIRST = ("failed", "expired", "never_run", "running", "ready")
_ENDED_WITHOUT_NOTES = {RunState.FAILED, RunState.ABANDONED}
_NONE: Cell = ("-", "dim")
_NOT_READ: Cell = ("…", "dim")


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its heading.
        key: The letter of the title that sorts by it.
        help: What is in it.
        cell: A row's text in it.
        sort_value: What it sorts by; None: not known, which comes last in either direction.
        width: The least it needs.
        goes: Which column gives way first where there is not room for all, the highest; 0: it stays.
        to_the_right: Whether its text stands at its right end.
        largest_first: Which direction is the natural one.
    """

    title: str
    key: str
    help: str
    cell: Callable[[Row, Moment], Cell]
    sort_value: Callable[[Row, Moment], Any]
    width: int
    goes: int = 0
    to_the_right: bool = True
    largest_first: bool = True


def readiness(row: Row) -> str:
    """Whether there are notes, and if not, why, in the contract's words; empty: not read yet."""
    if not row.observer:
        return "never_run"
    return row.reading.readiness.value if row.reading else ""


def age(row: Row, moment: Moment) -> timedelta | None:
    """The age of the notes: as it was told, and the time since."""
    if row.reading is None or row.reading.age is None:
        return None
    return row.reading.age + moment.since(row.read_at)


def expires_in(row: Row, moment: Moment) -> timedelta | None:
    """What is left of the session: as it was told, less the time since."""
    told = row.session.expires_in
    return None if told is None else max(timedelta(), told - moment.since(row.listed_at))


def at_work(row: Row) -> int | None:
    """How many runs are at work; before they are counted, whether the newest is."""
    if row.latest_run and row.latest_run.state is RunState.RUNNING:
        return max(row.at_work or 0, 1)
    return row.at_work if row.observer else 0


def _short(span: timedelta | None) -> Cell:
    return _NONE if span is None else (phrases.amount(span).replace(" min", "m").replace(" ", ""), "")


def _bytes(count: int) -> str:
    if count < 1000:
        return str(count)
    for unit in "kM":
        count_, count = count / 1000, count // 1000
        if count < 1000:
            return f"{count_:.1f}{unit}" if count < 10 else f"{count}{unit}"
    return f"{count}M"


def _readiness_cell(row: Row, moment: Moment) -> Cell:
    word = readiness(row)
    return (word.replace("_", " "), READINESS_STYLES.get(word, "")) if word else _NOT_READ


def _readiness_value(row: Row, moment: Moment) -> int | None:
    word = readiness(row)
    return _TROUBLE_FIRST.index(word) if word in _TROUBLE_FIRST else None


def _if_read(cell: Callable[[Row, Moment], Cell]) -> Callable[[Row, Moment], Cell]:
    return lambda row, moment: cell(row, moment) if row.reading else _NOT_READ if row.observer else _NONE


def _behind(row: Row, moment: Moment) -> int | None:
    return row.reading.turns_behind if row.reading else None


def _behind_cell(row: Row, moment: Moment) -> Cell:
    behind = _behind(row, moment)
    return _NONE if behind is None else (str(behind), "yellow" if behind else "")


def _fresh(row: Row, moment: Moment) -> bool | None:
    return row.reading.fresh if row.reading else None


def _runs_cell(row: Row, moment: Moment) -> Cell:
    if count := at_work(row):
        return f"{count} busy", "cyan"
    if row.latest_run and row.latest_run.state in _ENDED_WITHOUT_NOTES:
        return "failed", "bold red"
    return _NONE


def _size(row: Row, moment: Moment) -> int | None:
    return row.notes_bytes if row.reading and row.reading.ready else None


def _size_cell(row: Row, moment: Moment) -> Cell:
    size = _size(row, moment)
    return _NONE if size is None else (_bytes(size), "")


def _idle(row: Row, moment: Moment) -> timedelta | None:
    return moment.age_of(row.session.update_time)


def _idle_cell(row: Row, moment: Moment) -> Cell:
    # As long as nobody has told how late it is, the time itself: this machine's clock has no say in it.
    time = row.session.update_time
    return _short(_idle(row, moment)) if moment.store or time is None else (f"{time:%H:%MZ}", "")


SESSION = Column(
    "SESSION",
    "S",
    "the session's id, its middle left out where room is short",
    lambda row, moment: (row.session.session_id, ""),
    lambda row, moment: row.session.session_id,
    width=12,
    to_the_right=False,
    largest_first=False,
)
OBSERVER = Column(
    "OBSERVER",
    "O",
    "whose notes; -: no observer ever ran on the session",
    lambda row, moment: (row.observer, "") if row.observer else _NONE,
    lambda row, moment: row.observer or None,
    width=8,
    goes=5,
    to_the_right=False,
    largest_first=False,
)
FRESH = Column(
    "FRESH",
    "F",
    "within --max-age and --max-turns-behind, if given",
    _if_read(lambda row, moment: ("yes", "green") if _fresh(row, moment) else ("no", "red")),
    _fresh,
    width=5,
    goes=2,
    largest_first=False,
)
IDLE = Column(
    "IDLE",
    "I",
    "since anybody last changed the session",
    _idle_cell,
    lambda row, moment: -row.session.update_time.timestamp() if row.session.update_time else None,
    width=4,
    goes=6,
    largest_first=False,
)
COLUMNS = (
    SESSION,
    OBSERVER,
    Column(
        "READINESS",
        "R",
        "whether there are notes, and if not, why",
        _readiness_cell,
        _readiness_value,
        width=9,
        to_the_right=False,
        largest_first=False,
    ),
    Column("AGE", "A", "since the notes were written", lambda row, moment: _short(age(row, moment)), age, width=4),
    Column("BEHIND", "B", "turns since those that the notes' run had seen", _behind_cell, _behind, width=6, goes=1),
    FRESH,
    Column(
        "RUNS",
        "U",
        "at work; else whether the newest failed or was abandoned",
        _runs_cell,
        lambda row, moment: at_work(row),
        width=7,
        goes=3,
        to_the_right=False,
    ),
    Column(
        "TURNS",
        "T",
        "turns ever appended",
        lambda row, moment: (str(row.session.turn_count), ""),
        lambda row, moment: row.session.turn_count,
        width=5,
        goes=7,
    ),
    Column(
        "SIZE",
        "Z",
        "bytes of the current notes as they are served; k: 1,000",
        _size_cell,
        _size,
        width=4,
        goes=8,
    ),
    Column(
        "EXPIRES",
        "E",
        "until the session expires, if nobody changes it",
        lambda row, moment: _short(expires_in(row, moment)),
        expires_in,
        width=7,
        goes=4,
        largest_first=False,
    ),
    IDLE,
)


def arranged(rows: Iterable[Row], moment: Moment, column: Column, *, backwards: bool) -> list[Row]:
    """Rows in the order of a column; what is not known comes last, equals by session and observer."""
    known: list[Row] = []
    unknown: list[Row] = []
    for row in sorted(rows, key=lambda row: row.key):
        (unknown if column.sort_value(row, moment) is None else known).append(row)
    known.sort(key=lambda row: column.sort_value(row, moment), reverse=column.largest_first != backwards)
    return [*known, *unknown]


def matches(row: Row, words: Sequence[str]) -> bool:
    """Whether each word is in the session's id, the observer's name or the readiness; case does not matter."""
    text = f"{row.session.session_id} {row.observer} {readiness(row)} {readiness(row).replace('_', ' ')}".lower()
    return all(word in text for word in words)


def layout(columns: Sequence[Column], rows: Sequence[Row], width: int) -> tuple[list[tuple[Column, int]], list[Column]]:
    """The columns there is room for with their widths, and those there is none for.

    Between columns, and after the last, is a gap of one cell, which the mark of the sorted one may stand in.
    """
    shown = list(columns)
    while sum(column.width + 1 for column in shown) > width and any(column.goes for column in shown):
        shown.remove(max(shown, key=lambda column: column.goes))
    widths = {column.title: column.width for column in shown}
    # Ids and names get what is left, as far as they need it.
    for column, longest in (
        (SESSION, max((len(row.session.session_id) for row in rows), default=0)),
        (OBSERVER, max((len(row.observer) for row in rows), default=0)),
    ):
        if column in shown:
            room = width - sum(widths.values()) - len(shown)
            widths[column.title] += max(0, min(room, longest - column.width))
    return [(column, widths[column.title]) for column in shown], [column for column in columns if column not in shown]


def fitted(text: str, width: int, *, to_the_right: bool = False) -> str:
    """Return a text in exactly so many cells; what is too long loses its middle."""
    text = output.without_middle(text, width)
    return text.rjust(width) if to_the_right else text.ljust(width)
