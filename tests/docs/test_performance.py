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


def test_without_results_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has measured yet: no traceback, and no page is touched."""
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: machine -->\nas it was\n<!-- end -->\n")
    monkeypatch.setattr(tables, "PAGES", (page,))
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    assert tables.main() == 1
    assert "make bench" in capsys.readouterr().out
    assert "as it was" in page.read_text()
