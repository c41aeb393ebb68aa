"""Throwaway sidecars for users' own tests: they start, end with their test in any case, and leave nothing."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from session_notes import InvalidArgument, PrimaryClient, Turn
from session_notes.testing import ThrowawaySidecar, throwaway_sidecar

from tests.support import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def is_gone(target: str, home: Path) -> bool:
    """Return whether a sidecar no longer listens and its files are removed."""
    host, _, port = target.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1):
        return False
    return not home.exists()


def home_of(sidecar: ThrowawaySidecar) -> Path:
    """Return the directory with the files of a sidecar."""
    return Path(sidecar._log).parent


def test_sessions_can_expire_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecar accepts calls at once, forgets sessions when told to, and ignores the environment's settings."""
    monkeypatch.setenv("SESSION_NOTES_REDIS_URL", "redis://127.0.0.1:1")
    with (
        throwaway_sidecar(session_ttl=timedelta(seconds=0.5)) as sidecar,
        PrimaryClient(sidecar.target, timeout=timedelta(seconds=5)) as primary,
    ):
        assert primary.append_turns("session", [Turn("user", "x")]) == 1
        eventually(lambda: primary.get_session("session").turn_count == 0)
        assert "listening on" in sidecar.log


def test_a_unix_socket(tmp_path: Path) -> None:
    """The sidecar listens where it is told to."""
    target = f"unix:{os.path.relpath(tmp_path)}/s.sock" if len(str(tmp_path)) > 90 else f"unix:{tmp_path}/s.sock"
    with throwaway_sidecar(listen=target) as sidecar, PrimaryClient(sidecar.target) as primary:
        assert primary.get_session("session").turn_count == 0


def test_a_module_of_the_project_hides_none_of_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar starts in a project with a file such as `token.py`, which Python's own modules would import."""
    for name in ("token", "signal"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError")
    monkeypatch.chdir(tmp_path)
    with throwaway_sidecar() as sidecar, PrimaryClient(sidecar.target) as primary:
        assert primary.get_session("session").turn_count == 0


def test_a_wrong_argument_is_named() -> None:
    """A number for a span, or a string for a list, raises an error that names the argument."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"session_ttl": 5}, "session_ttl must be a datetime.timedelta, not int"),
        ({"flags": "--dev"}, "flags must be a list of strings, not str"),
    ]
    for options, message in wrong:
        with pytest.raises(InvalidArgument, match=message), throwaway_sidecar(**options):
            pass


def test_two_sidecars_share_nothing() -> None:
    """Each sidecar has its own address and its own data."""
    with throwaway_sidecar() as first, throwaway_sidecar() as second:
        with PrimaryClient(first.target) as primary:
            primary.append_turns("session", [Turn("user", "x")])
        with PrimaryClient(second.target) as primary:
            assert primary.get_session("session").turn_count == 0


def test_it_ends_if_the_test_fails() -> None:
    """After a block that raises, nothing runs and no file is left."""
    started: list[ThrowawaySidecar] = []

    def fail() -> None:
        with throwaway_sidecar() as sidecar:
            started.append(sidecar)
            raise AssertionError("a failing test")

    with pytest.raises(AssertionError, match="a failing test"):
        fail()
    assert is_gone(started[0].target, home_of(started[0]))


def test_it_ends_if_the_process_is_killed() -> None:
    """SIGKILL of the test's process leaves neither a process nor a file."""
    program = (
        "import time\nfrom session_notes.testing import throwaway_sidecar\n"
        "with throwaway_sidecar() as sidecar:\n    print(sidecar.target, sidecar._log, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        target, log = process.stdout.readline().split()
        assert not is_gone(target, Path(log).parent)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: is_gone(target, Path(log).parent), 20)


def test_a_failed_start_shows_the_log() -> None:
    """If the sidecar does not start, the error has its log."""
    with (
        pytest.raises(RuntimeError, match=r"exit status 2\).*\n.*no such option"),
        throwaway_sidecar(flags=["--no-such-flag"]),
    ):
        pass


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the extra `server` is not installed, the error says what to install."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"needs click: pip install '\.\[server\]'"), throwaway_sidecar():
        pass


def test_the_example_in_the_docs(tmp_path: Path) -> None:
    """The fixture works as documented, also with several workers."""
    files = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["conftest.py", "test_bot.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    (tmp_path / "test_more.py").write_text((tmp_path / "test_bot.py").read_text().replace("s1", "s2"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
