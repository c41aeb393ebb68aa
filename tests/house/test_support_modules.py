"""Helpers that several tests use are in support modules."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_test_module_is_imported() -> None:
    """No test imports another test module, so that test modules can be moved and deleted."""
    imports = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+.*$", re.MULTILINE)
    offenders = [
        f"{path.relative_to(TESTS)}: {line.strip()}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in imports.findall(path.read_text())
    ]
    assert not offenders, "\n".join(offenders)
