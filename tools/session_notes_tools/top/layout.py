"""The layout of the table: the columns that fit into a width, and the width of each."""

from __future__ import annotations

from collections.abc import Sequence

from session_notes_tools.cli import output
from session_notes_tools.top.columns import OBSERVER, SESSION, Column
from session_notes_tools.top.model import Row

Layout = Sequence[tuple[Column, int]]
"""Columns and their widths."""


def lay_out(columns: Sequence[Column], rows: Sequence[Row], width: int) -> tuple[Layout, list[Column]]:
    """Return the columns that fit with their widths, and the columns that do not fit.

    Each column is followed by one blank cell, where the sorted column has its mark.
    """
    shown = list(columns)
    while sum(column.width + 1 for column in shown) > width and any(column.drop_order for column in shown):
        shown.remove(max(shown, key=lambda column: column.drop_order))
    widths = {column.title: column.width for column in shown}
    # Ids and names get the remaining width, up to the longest of each.
    for column, longest in (
        (SESSION, max((len(row.session.session_id) for row in rows), default=0)),
        (OBSERVER, max((len(row.observer) for row in rows), default=0)),
    ):
        if column in shown:
            remaining = width - sum(widths.values()) - len(shown)
            widths[column.title] += max(0, min(remaining, longest - column.width))
    return [(column, widths[column.title]) for column in shown], [column for column in columns if column not in shown]


def fit(text: str, width: int, *, align_right: bool = False) -> str:
    """Return a text in exactly `width` cells: padded, or without its middle."""
    text = output.without_middle(text, width)
    return text.rjust(width) if align_right else text.ljust(width)
