"""The columns of the table in display order: the title, help, cells, sort order and JSON of each.

To add a column:

1. If it shows a property of the notes, such as the highest severity of their issues, add that property to
   `NotesFigures` in `model.py`, since readings are stored without their notes.
2. Add a `Column` to `COLUMNS` below. The live table, `--once`, `--json` and the help page then include it.
3. Add its row to docs/top.md. A test compares that table with `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from session_notes import RunState

from session_notes_tools.cli import documents, phrases
from session_notes_tools.cli.views import READINESS_STYLES
from session_notes_tools.top.model import Moment, Row

Cell = tuple[str, str]
"""A text and its style."""

_READINESS_ORDER = ("failed", "expired", "never_run", "running", "ready")
"""The sort order of READINESS: problems first."""

_ENDED_WITHOUT_NOTES = {RunState.FAILED, RunState.ABANDONED}
_NONE: Cell = ("-", "dim")
_NOT_READ: Cell = ("…", "dim")


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: The title.
        key: The letter of the title that sorts by this column.
        help: The description on the help page.
        cell: Returns a row's text and style.
        sort_value: Returns the value to sort by; None if unknown, which sorts last in either direction.
        json: The keys of a row's JSON document, each with a function that returns its value.
        width: The minimum width.
        drop_order: Columns with higher numbers are dropped first if space is short; 0: never dropped.
        align_right: Whether the text is aligned to the right.
        descending: Whether the largest value is first by default.
    """

    title: str
    key: str
    help: str
    cell: Callable[[Row, Moment], Cell]
    sort_value: Callable[[Row, Moment], Any]
    json: Mapping[str, Callable[[Row, Moment], Any]]
    width: int
    drop_order: int = 0
    align_right: bool = True
    descending: bool = True


def columns_for(*, bounded: bool) -> list[Column]:
    """Return the columns to show, with `FRESH` only if a freshness bound is set."""
    return [column for column in COLUMNS if column is not FRESH or bounded]


def row_document(row: Row, moment: Moment) -> dict[str, Any]:
    """Return a row as JSON."""
    return {name: value(row, moment) for column in COLUMNS for name, value in column.json.items()}


def _span_cell(span: timedelta | None) -> Cell:
    return _NONE if span is None else (phrases.amount(span).replace(" min", "m").replace(" ", ""), "")


def _size_text(count: int) -> str:
    if count < 1000:
        return str(count)
    size, unit = (count / 1000, "k") if count < 1_000_000 else (count / 1_000_000, "M")
    return f"{size:.1f}{unit}" if size < 10 else f"{int(size)}{unit}"


def _readiness_cell(row: Row, moment: Moment) -> Cell:
    word = row.readiness
    return (word.replace("_", " "), READINESS_STYLES.get(word, "")) if word else _NOT_READ


def _readiness_value(row: Row, moment: Moment) -> int | None:
    return _READINESS_ORDER.index(row.readiness) if row.readiness in _READINESS_ORDER else None


def _behind_cell(row: Row, moment: Moment) -> Cell:
    behind = row.turns_behind
    return _NONE if behind is None else (str(behind), "yellow" if behind else "")


def _fresh(row: Row, moment: Moment) -> bool | None:
    return row.reading.fresh if row.reading else None


def _fresh_cell(row: Row, moment: Moment) -> Cell:
    if row.reading is None:
        return _NOT_READ if row.observer else _NONE
    return ("yes", "green") if row.reading.fresh else ("no", "red")


def _runs_cell(row: Row, moment: Moment) -> Cell:
    if count := row.running_runs:
        return f"{count} busy", "cyan"
    if row.latest_run and row.latest_run.state in _ENDED_WITHOUT_NOTES:
        return "failed", "bold red"
    return _NONE


def _size_cell(row: Row, moment: Moment) -> Cell:
    return _NONE if row.notes_bytes is None else (_size_text(row.notes_bytes), "")


def _idle_cell(row: Row, moment: Moment) -> Cell:
    # Until the store's clock is known, show the time itself. It must not be compared with this machine's clock.
    time = row.session.update_time
    return _span_cell(moment.age_of(time)) if moment.store or time is None else (f"{time:%H:%MZ}", "")


SESSION = Column(
    title="SESSION",
    key="S",
    help="session id, without its middle if space is short",
    cell=lambda row, moment: (row.session.session_id, ""),
    sort_value=lambda row, moment: row.session.session_id,
    json={"session_id": lambda row, moment: row.session.session_id},
    width=12,
    align_right=False,
    descending=False,
)
OBSERVER = Column(
    title="OBSERVER",
    key="O",
    help="observer; - if none has run on the session",
    cell=lambda row, moment: (row.observer, "") if row.observer else _NONE,
    sort_value=lambda row, moment: row.observer or None,
    json={"observer": lambda row, moment: row.observer or None},
    width=8,
    drop_order=5,
    align_right=False,
    descending=False,
)
FRESH = Column(
    title="FRESH",
    key="F",
    help="whether notes are within --max-age and --max-turns-behind",
    cell=_fresh_cell,
    sort_value=_fresh,
    json={"fresh": lambda row, moment: row.reading.fresh if row.reading else False},
    width=5,
    drop_order=2,
    descending=False,
)
IDLE = Column(
    title="IDLE",
    key="I",
    help="time since the last change of the session",
    cell=_idle_cell,
    sort_value=lambda row, moment: -row.session.update_time.timestamp() if row.session.update_time else None,
    json={"update_time": lambda row, moment: documents.time(row.session.update_time)},
    width=4,
    drop_order=6,
    descending=False,
)
COLUMNS = (
    SESSION,
    OBSERVER,
    Column(
        title="READINESS",
        key="R",
        help="whether notes are ready, and if not, why",
        cell=_readiness_cell,
        sort_value=_readiness_value,
        json={"readiness": lambda row, moment: row.readiness or None},
        width=9,
        align_right=False,
        descending=False,
    ),
    Column(
        title="AGE",
        key="A",
        help="time since the notes were written",
        cell=lambda row, moment: _span_cell(row.age(moment)),
        sort_value=lambda row, moment: row.age(moment),
        json={"age_seconds": lambda row, moment: documents.seconds(row.age(moment))},
        width=4,
    ),
    Column(
        title="BEHIND",
        key="B",
        help="turns appended since the snapshot of the notes' run",
        cell=_behind_cell,
        sort_value=lambda row, moment: row.turns_behind,
        json={"turns_behind": lambda row, moment: row.turns_behind},
        width=6,
        drop_order=1,
    ),
    FRESH,
    Column(
        title="RUNS",
        key="U",
        help="runs in flight, or whether the latest failed or was abandoned",
        cell=_runs_cell,
        sort_value=lambda row, moment: row.running_runs,
        json={
            "running_runs": lambda row, moment: row.running_runs,
            "latest_run": lambda row, moment: documents.run(row.latest_run),
        },
        width=7,
        drop_order=3,
        align_right=False,
    ),
    Column(
        title="TURNS",
        key="T",
        help="turns ever appended",
        cell=lambda row, moment: (str(row.session.turn_count), ""),
        sort_value=lambda row, moment: row.session.turn_count,
        json={"turn_count": lambda row, moment: row.session.turn_count},
        width=5,
        drop_order=7,
    ),
    Column(
        title="SIZE",
        key="Z",
        help="bytes of the current notes as served; k: 1,000",
        cell=_size_cell,
        sort_value=lambda row, moment: row.notes_bytes,
        json={"notes_bytes": lambda row, moment: row.notes_bytes},
        width=4,
        drop_order=8,
    ),
    Column(
        title="EXPIRES",
        key="E",
        help="time until the session expires if nothing changes it",
        cell=lambda row, moment: _span_cell(row.expires_in(moment)),
        sort_value=lambda row, moment: row.expires_in(moment),
        json={"expires_in_seconds": lambda row, moment: documents.seconds(row.expires_in(moment))},
        width=7,
        drop_order=4,
        descending=False,
    ),
    IDLE,
)
