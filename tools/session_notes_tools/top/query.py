"""Filtering and sorting of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from session_notes_tools.top.columns import Column
from session_notes_tools.top.model import Moment, Row


def matches(row: Row, words: Sequence[str]) -> bool:
    """Return whether the session's id, the observer or the readiness contains each lower-case word."""
    text = f"{row.session.session_id} {row.observer} {row.readiness} {row.readiness.replace('_', ' ')}".lower()
    return all(word in text for word in words)


def sort_rows(rows: Iterable[Row], moment: Moment, column: Column, *, reverse: bool) -> list[Row]:
    """Return rows sorted by a column, then by session and observer, with unknown values last."""
    with_value: list[Row] = []
    without_value: list[Row] = []
    for row in sorted(rows, key=lambda row: row.key):
        (without_value if column.sort_value(row, moment) is None else with_value).append(row)
    with_value.sort(key=lambda row: column.sort_value(row, moment), reverse=column.descending != reverse)
    return [*with_value, *without_value]
