"""Fixtures for packaging and deployment: the distributions and the image's packages, built once per test run."""

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

# These tests need the environments of `make test-integrations`. `pytest tests` in another environment skips them.
collect_ignore_glob = [] if find_spec("kubernetes_validate") else ["test_*.py", "frameworks/test_*.py"]
collect_ignore_glob += [] if find_spec("google.adk") else ["frameworks/google_adk/*"]


def _shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that one xdist worker makes and all workers share."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / name).exists():
            make(shared / name)
    return shared / name


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel built from it, as from `make dist`."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)

    return _shared_folder(tmp_path_factory, "dist", make)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of /opt/session-notes in an image."""
    if os.geteuid():
        pytest.skip("only root can make namespaces and change users")
    return _shared_folder(tmp_path_factory, "image", lambda folder: build(folder / "session-notes")) / "session-notes"
