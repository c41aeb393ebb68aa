"""The figures in the docs are those that were measured."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_results() -> None:
    """README and docs/performance.md say what the JSON in benchmarks/results says."""
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_figure_that_is_not_measured_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A table that somebody has changed by hand is not what the results say, and is made anew."""
    page = tmp_path / "page.md"
    changed = (
        (ROOT / "docs" / "performance.md").read_text().replace("GetNotes | session-notes (tcp)", "GetNotes | moon")
    )
    page.write_text(changed)
    monkeypatch.setattr(tables, "PAGES", (page,))
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    assert tables.main() == 1
    assert page.read_text() == changed
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    assert tables.main() == 0
    assert "moon" not in page.read_text()
