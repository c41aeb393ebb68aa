"""Mutation check of the guards in `guards.toml`: without its guard, each guard's test must fail.

Run it with `make guards`. It removes one guard at a time from a copy of the code. If a guard is no longer in the
code, or its test still passes, the check fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("server", "tools", "clients/python")


@dataclass(frozen=True)
class Guard:
    """A guard: the promise it keeps, its code, the code without it, and a test (`pytest -k`) that must then fail.

    `file` is the name of the file, needed only if the code is in several files.
    """

    promise: str
    code: str
    without: str
    test: str
    file: str = ""


GUARDS = [Guard(**row) for row in tomllib.loads((ROOT / "tests" / "guards.toml").read_text())["guard"]]


def files_with(guard: Guard, root: Path = ROOT) -> list[Path]:
    """Return the files that contain the guard, once per occurrence."""
    sources: Iterable[Path] = (
        path for package in PACKAGES for kind in ("*.py", "*.lua") for path in (root / package).rglob(kind)
    )
    named = (path for path in sources if guard.file in ("", path.name))
    return [path for path in named for _ in range(path.read_text().count(guard.code))]


def test_files(selected: Iterable[Guard]) -> list[str]:
    """Return the files that may contain tests of these guards: collecting all of them takes longer than most tests."""
    words = {word for guard in selected for word in guard.test.split()} - {"or"}
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path) for path in paths if any(word in path.name or word in path.read_text() for word in words)]


def fault_without(guard: Guard | None, selected: Sequence[Guard]) -> str:
    """Run a guard's test without the guard; with None, run all selected tests on unchanged code.

    Returns:
        The problem, or nothing if the test failed as it should (with None: if all tests passed).
    """
    with tempfile.TemporaryDirectory(prefix="session-notes-guard-") as folder:
        copy = Path(folder)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        if guard is not None:
            files = files_with(guard, copy)
            if len(files) != 1:
                return f"its code is in the tree {len(files)} times, not once"
            files[0].write_text(files[0].read_text().replace(guard.code, guard.without))
        tested = [guard] if guard else selected
        selection = " or ".join(f"({each.test})" for each in tested)
        # The embedded store is enough, except for tests of clusters.
        selection = f"({selection}) and (test_clusters or not (redis or cluster))"
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *test_files(tested), "-k", selection],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(copy / package) for package in PACKAGES),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        if result.returncode == (1 if guard else 0):
            return ""
        return f"pytest returned {result.returncode}: {' '.join(result.stdout.strip().splitlines()[-3:])}"


def main() -> int:
    """Check all guards, or those whose promise contains one of the arguments."""
    selected = [guard for guard in GUARDS if any(word in guard.promise for word in sys.argv[1:] or [""])]
    if fault := fault_without(None, selected):
        print(f"with all guards in place: {fault}")
        return 1
    failures = 0
    with ThreadPoolExecutor(2) as pool:
        faults = pool.map(lambda guard: fault_without(guard, selected), selected)
        for guard, fault in zip(selected, faults, strict=True):
            print(f"{fault or 'red'}: {guard.promise} ← {guard.test}", flush=True)
            failures += bool(fault)
    print(f"{len(selected) - failures} of {len(selected)} guards are tested")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
