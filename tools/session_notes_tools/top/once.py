"""The table once, as text or JSON: for scripts, and where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from session_notes_tools.cli import documents, output
from session_notes_tools.top.columns import (
    IDLE,
    OBSERVER,
    SESSION,
    Column,
    age,
    arranged,
    at_work,
    expires_in,
    layout,
    readiness,
)
from session_notes_tools.top.reads import Reads
from session_notes_tools.top.watch import MOST_SESSIONS, Moment, Row, Watch


async def read_once(reads: Reads, watch: Watch) -> None:
    """Read all there is.

    Raises:
        SessionNotesError: Something was not answered.
    """
    async with reads:
        await watch.everything()


def show_once(watch: Watch, columns: Sequence[Column], *, as_json: bool) -> None:
    """Print all rows, those first whose session changed last; on a terminal as many columns as it has room for."""
    moment = watch.moment()
    rows = arranged(watch.rows.values(), moment, IDLE, backwards=False)
    if watch.more:
        click.echo(f"warning: there are more sessions; {MOST_SESSIONS:,} are shown", err=True)
    if as_json:
        documents.write([document(row, moment) for row in rows])
        return
    if not rows:
        output.echo(output.line("no sessions"))
        return
    # Where nobody's terminal is, a line is as wide as need be, and every id is in full.
    shown, _ = layout(columns, rows, output.width() - len(columns))
    ids = {SESSION.title, OBSERVER.title}
    table = output.headed_table(*(column.title for column, _ in shown), ids=ids)
    for (column, _), made in zip(shown, table.columns, strict=True):
        made.justify = "right" if column.to_the_right else "left"
    for row in rows:
        table.add_row(*(output.Id(*column.cell(row, moment)) for column, _ in shown))
    output.echo(table)


def document(row: Row, moment: Moment) -> dict[str, Any]:
    """A row, for scripts."""
    reading = row.reading
    return {
        "session_id": row.session.session_id,
        "observer": row.observer or None,
        "readiness": readiness(row) or None,
        "age_seconds": documents.seconds(age(row, moment)),
        "turns_behind": reading.turns_behind if reading else None,
        "fresh": reading.fresh if reading else False,
        "running_runs": at_work(row),
        "latest_run": documents.run(row.latest_run),
        "turn_count": row.session.turn_count,
        "notes_bytes": row.notes_bytes if reading and reading.ready else None,
        "expires_in_seconds": documents.seconds(expires_in(row, moment)),
        "update_time": documents.time(row.session.update_time),
    }
