"""docs/performance.md contains the measured figures."""

import subprocess
import sys
from pathlib import Path

import pytest
from session_notes_tools.bench.goals import compare_with_goals

from benchmarks import tables

ROOT = Path(__file__).parents[2]


def test_the_tables_agree_with_the_results() -> None:
    """The tables of docs/performance.md match the JSON in benchmarks/results."""
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_page_is_short() -> None:
    """The page has at most 200 lines."""
    assert len((ROOT / "docs" / "performance.md").read_text().splitlines()) <= 200


def test_the_goals_of_the_results_are_those_of_the_code() -> None:
    """The goals recorded in each committed run are those that the code derives from its figures."""
    for run in tables.load_runs():
        assert compare_with_goals(run) == run["goals"]


def test_an_edited_table_is_found_and_restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An edited table fails `--check`, and is restored without it."""
    page = tmp_path / "page.md"
    changed = (ROOT / "docs" / "performance.md").read_text().replace("GetNotes | session-notes, ", "GetNotes | moon, ")
    page.write_text(changed)
    monkeypatch.setattr(tables, "PAGES", (page,))
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    assert tables.main() == 1
    assert page.read_text() == changed
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    assert tables.main() == 0
    assert "moon" not in page.read_text()


def test_missing_results_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without results, the script names the next step and leaves the page unchanged."""
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: machine -->\nunchanged\n<!-- end -->\n")
    monkeypatch.setattr(tables, "PAGES", (page,))
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    assert tables.main() == 1
    assert "make bench" in capsys.readouterr().out
    assert "unchanged" in page.read_text()
