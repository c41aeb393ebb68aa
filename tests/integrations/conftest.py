"""What the tests of packaging and deployment share: what has been built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.integrations.container import build

ROOT = Path(__file__).parents[2]


def _once(tmp_path_factory: pytest.TempPathFactory, name: str) -> tuple[Path, FileLock]:
    """A folder that all workers of xdist share, and what to hold while looking whether it is filled."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    return shared / name, FileLock(shared / f"{name}.lock")


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist, as `make dist` builds them; the wheel is built from the sdist."""
    folder, lock = _once(tmp_path_factory, "dist")
    with lock:
        if not folder.exists():
            command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
            subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image has in /opt/session-notes."""
    if os.geteuid():
        pytest.skip("only root makes namespaces and changes users")
    folder, lock = _once(tmp_path_factory, "image")
    with lock:
        if not folder.exists():
            build(folder / "session-notes")
    return folder / "session-notes"
