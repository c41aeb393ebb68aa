"""docs/top.md describes the table that `session-notes top` shows."""

import re
from pathlib import Path

from session_notes_tools.top.cache import BATCH_SIZE, BATCHES, MAX_SESSIONS, PAGES, RUNS
from session_notes_tools.top.columns import COLUMNS

PAGE = Path(__file__).parents[2] / "docs" / "top.md"


def test_the_page_lists_all_columns() -> None:
    """The page has one row per column, in the order of the table."""
    assert re.findall(r"^\| ([A-Z]+) \|", PAGE.read_text(), re.MULTILINE) == [column.title for column in COLUMNS]


def test_the_page_states_the_bounds() -> None:
    """The page states the cost of a refresh and the maximum number of sessions as in the code."""
    text = " ".join(PAGE.read_text().split())
    cost = f"{PAGES} ListSessions calls, {BATCHES} BatchGetNotes calls of {BATCH_SIZE} rows and {RUNS} ListRuns calls"
    assert f"at most {cost}" in text
    assert f"At most {MAX_SESSIONS:,} sessions are kept" in text


def test_sort_keys_are_distinct_letters_of_the_titles() -> None:
    """Each column's sort key is a letter of its title that no other column uses."""
    keys = [column.key for column in COLUMNS]
    assert len(set(keys)) == len(keys)
    assert all(column.key in column.title for column in COLUMNS)
