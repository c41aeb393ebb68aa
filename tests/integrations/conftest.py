"""Fixtures for packaging and deployment: the distributions and the images, built once per test run."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integrations.images import Image, build, built

ROOT = Path(__file__).parents[2]

# These tests need the environments of `make test-integrations`. `pytest tests` in another environment skips them.
collect_ignore_glob = [] if find_spec("kubernetes_validate") else ["test_*.py", "frameworks/test_*.py"]
collect_ignore_glob += [] if find_spec("google.adk") else ["frameworks/google_adk/*"]


@contextmanager
def _shared_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Iterator[Path]:
    """Yield a folder that one xdist worker makes, all workers share, and the last one removes."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / f"{name}.lock").open("w") as lock, (shared / f"{name}.users").open("w") as users:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / name).exists():
            shutil.rmtree(shared / f"{name}.partial", ignore_errors=True)
            make(shared / f"{name}.partial")
            (shared / f"{name}.partial").rename(shared / name)
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield shared / name
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(shared / name)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the sdist and the wheel built from it, as from `make dist`."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)

    with _shared_folder(tmp_path_factory, "dist", make) as folder:
        yield folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    """The images of the Dockerfile's targets."""
    if os.geteuid():
        pytest.skip("only root can make namespaces and change users")
    with _shared_folder(tmp_path_factory, "images", build) as folder:
        yield built(folder)
