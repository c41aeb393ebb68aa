"""Takes each guard of `guards.toml` out of a copy of the sidecar, and sees the test that should notice go red.

A test that cannot fail proves nothing. Run it with `make guards`; it takes some minutes. A guard that is not found any
more in the code, or a test that stays green, fails the run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Guard:
    """One guard: what it keeps, where it is, what is left without it, and a test that must then fail."""

    promise: str
    file: str
    code: str
    without: str
    test: str


GUARDS = [Guard(**row) for row in tomllib.loads((ROOT / "tests" / "guards.toml").read_text())["guard"]]


def fault_without(guard: Guard | None, tried: Sequence[Guard]) -> str:
    """Run a guard's test without the guard (or those of all tried, with all guards) → what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(prefix="session-notes-guard-") as folder:
        copy = Path(folder)
        for part in ("server", "tools", "clients"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        if guard is not None:
            file = copy / "server" / "session_notes_server" / guard.file
            text = file.read_text()
            if guard.code not in text:
                return "the guard is no longer in the code"
            file.write_text(text.replace(guard.code, guard.without, 1))
        selection = " or ".join(f"({one.test})" for one in ([guard] if guard else tried))
        # The embedded store is enough, but for tests that are about a cluster or Sentinel.
        selection = f"({selection}) and (test_clusters or not (redis or cluster))"
        paths = os.pathsep.join(str(copy / part) for part in ("server", "tools", "clients/python"))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "tests", "-k", selection],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode == (1 if guard else 0):
            return ""
        return f"pytest answered {done.returncode}: {' '.join(done.stdout.strip().splitlines()[-3:])}"


def main() -> int:
    """Try all guards, or those whose promise or file holds a word given."""
    wanted = [guard for guard in GUARDS if any(word in guard.promise + guard.file for word in sys.argv[1:] or [""])]
    if fault := fault_without(None, wanted):
        print(f"with all guards in place: {fault}")
        return 1
    wrong = 0
    with ThreadPoolExecutor(2) as pool:
        for guard, fault in zip(wanted, pool.map(lambda guard: fault_without(guard, wanted), wanted), strict=True):
            print(f"{fault or 'red'}: {guard.promise} ({guard.file}) ← {guard.test}", flush=True)
            wrong += bool(fault)
    print(f"{len(wanted) - wrong} of {len(wanted)} guards are guarded")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
