"""`make`: errors, and the replacement of unusable environments."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of a fresh checkout that `make` reads."""
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("protos", "server"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def make(checkout: Path, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def old_python() -> str:
    """Return a Python that is too old, or skip the test."""
    others = map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    for python in ("python3.10", *others):
        if subprocess.run(["sh", "-c", '"$0" --version', python], capture_output=True).returncode == 0:
            return python
    pytest.skip("Python 3.10 is not installed")


def test_an_old_python_is_refused_at_once(checkout: Path) -> None:
    """`make PYTHON=python3.10 run` names the required version and creates no environment."""
    python, began = old_python(), time.monotonic()
    status, output = make(checkout, f"PYTHON={python}", "run")
    assert status != 0
    assert f"session-notes needs Python 3.11 or newer, which {python} is not" in output
    assert time.monotonic() - began < 5
    assert not (checkout / ".venv").exists()


def test_an_old_python_does_not_build_the_package(checkout: Path) -> None:
    """The build backend refuses an old Python at once; an old pip would search for other versions for minutes."""
    done = subprocess.run([old_python(), "server/build_backend.py"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 1
    assert "session-notes needs Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize("broken", ["removed", "incomplete", "old"])
def test_an_unusable_environment_is_created_again(broken: str, checkout: Path) -> None:
    """An environment whose Python was removed, whose creation was interrupted, or with an old Python is replaced."""
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    if broken == "removed":
        (binaries / "python").symlink_to("/nowhere/python")
        (checkout / ".venv" / "run").touch()  # It was complete, and is newer than its inputs.
    elif broken == "old":
        (binaries / "python").symlink_to(shutil.which(old_python()) or "")
    else:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    # With pip, it would take half a minute longer and download the requirements.
    python = checkout / "python-without-pip"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" $(test "$2" = venv && echo --without-pip)\n')
    python.chmod(0o755)
    _, output = make(checkout, f"PYTHON={python}", "install")
    assert f"creating .venv with {python}" in output
    assert "No module named pip" in output
    assert subprocess.run([binaries / "python", "-c", ""]).returncode == 0
