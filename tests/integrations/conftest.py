"""What the tests of packaging and deployment share: what has been built."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integrations.container import build

ROOT = Path(__file__).parents[2]

# They are for the environment of `make test-integrations`; in another, `pytest tests` goes without them.
collect_ignore_glob = [] if find_spec("kubernetes_validate") else ["test_*.py", "frameworks/*"]


def _once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one worker of xdist makes, and all share."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / name).exists():
            make(shared / name)
    return shared / name


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist, as `make dist` builds them; the wheel is built from the sdist."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)

    return _once(tmp_path_factory, "dist", make)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image has in /opt/session-notes."""
    if os.geteuid():
        pytest.skip("only root makes namespaces and changes users")
    return _once(tmp_path_factory, "image", lambda folder: build(folder / "session-notes")) / "session-notes"
