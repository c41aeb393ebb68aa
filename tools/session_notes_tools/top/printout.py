"""The table printed once as text or JSON, for scripts and pipes."""

from __future__ import annotations

from collections.abc import Sequence

import click

from session_notes_tools.cli import documents, output
from session_notes_tools.top.cache import MAX_SESSIONS, SessionCache
from session_notes_tools.top.client import TopClient
from session_notes_tools.top.columns import IDLE, OBSERVER, SESSION, Column, row_document
from session_notes_tools.top.layout import lay_out
from session_notes_tools.top.query import sort_rows


async def read_all(client: TopClient, cache: SessionCache) -> None:
    """Read all sessions.

    Raises:
        SessionNotesError: If a call fails.
    """
    async with client:
        await cache.read_all()


def print_rows(cache: SessionCache, columns: Sequence[Column], *, as_json: bool) -> None:
    """Print all rows, most recently changed first. On a terminal, only the columns that fit are printed."""
    moment = cache.moment()
    rows = sort_rows(cache.rows.values(), moment, IDLE, reverse=False)
    if cache.truncated:
        click.echo(f"warning: only {MAX_SESSIONS:,} sessions are shown; the sidecar has more", err=True)
    if as_json:
        documents.write([row_document(row, moment) for row in rows])
        return
    if not rows:
        output.echo(output.line("no sessions"))
        return
    # Without a terminal, lines are as long as needed and ids are complete.
    layout, _ = lay_out(columns, rows, output.width() - len(columns))
    table = output.headed_table(*(column.title for column, _ in layout), ids={SESSION.title, OBSERVER.title})
    for (column, _), rendered in zip(layout, table.columns, strict=True):
        rendered.justify = "right" if column.align_right else "left"
    for row in rows:
        table.add_row(*(output.Id(*column.cell(row, moment)) for column, _ in layout))
    output.echo(table)
