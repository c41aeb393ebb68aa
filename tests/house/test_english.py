"""Phrases typical of translated text do not return."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIS_FILE = Path(__file__).relative_to(ROOT).as_posix()

MARKS = re.compile(r"\b(is to be|are to be|beside|at work|nobody|somebody|whoever|what there is)\b", re.IGNORECASE)
BINARY = (".png", ".svg", ".lock", ".binpb")


def texts() -> list[tuple[str, str]]:
    """Return every text file under version control, with its content."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.splitlines() if not name.endswith(BINARY) and name != THIS_FILE]
    return [(name, (ROOT / name).read_text()) for name in names if (ROOT / name).is_file()]


def test_no_text_has_a_mark_of_translation() -> None:
    """No file contains one of the marks, in code, comments or docs."""
    offenders = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MARKS.search(line)
    ]
    assert not offenders, "\n".join(offenders)
