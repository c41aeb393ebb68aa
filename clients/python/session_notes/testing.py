"""A real sidecar for the tests of an application: on a free port, with its own data, and gone after the tests.

    >>> with throwaway_sidecar() as sidecar, PrimaryClient(sidecar.target) as primary:
    ...     primary.append_turns("session-1", [Turn("user", "Can we start in May?")])

With pytest, import the fixture in `conftest.py`. All tests of a process share a sidecar; each xdist worker has its own:

    >>> from session_notes.testing import session_notes_sidecar

It needs the extra `server`, which contains the sidecar and its embedded store.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from session_notes import InvalidArgument, PrimaryClient, Unavailable

__all__ = ["ThrowawaySidecar", "throwaway_sidecar"]

_START_TIMEOUT = timedelta(seconds=30)
_ATTEMPT_TIMEOUT = timedelta(seconds=0.2)
_STOP_SECONDS = 20

# Longer than the sidecar's defaults, because tests often share few cores.
_STORE_TIMEOUTS = ("--notes-timeout", "5s", "--store-timeout", "5s")

_GUARD = """
import os, shutil, subprocess, sys, threading
home, command = sys.argv[1], sys.argv[2:]
with open(home + "/log", "wb") as log:
    sidecar = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

def stop():
    os.read(0, 1)  # Not sys.stdin, whose lock would abort an exit of the main thread.
    sidecar.terminate()
    try:
        sidecar.wait(10)
    except subprocess.TimeoutExpired:
        sidecar.kill()
    sidecar.wait()
    shutil.rmtree(home, ignore_errors=True)

stopping = threading.Thread(target=stop, daemon=True)
stopping.start()
status = sidecar.wait()
if sidecar.returncode == 0:
    stopping.join()
sys.exit(status)
"""
"""The parent process of the sidecar. It stops the sidecar and removes its files when its own stdin is closed, which the
kernel does however the test process ends."""


class ThrowawaySidecar:
    """A running sidecar.

    Attributes:
        target: Its address, for `PrimaryClient(target)` or the environment variable `SESSION_NOTES_TARGET`.
    """

    def __init__(self, target: str, log: str) -> None:
        self.target = target
        self._log = log

    @property
    def log(self) -> str:
        """The sidecar's log so far."""
        return _read(self._log)


@contextmanager
def throwaway_sidecar(
    *, listen: str = "127.0.0.1:0", session_ttl: timedelta | None = None, flags: Sequence[str] = ()
) -> Iterator[ThrowawaySidecar]:
    """Start a sidecar with an embedded store in a temporary directory, and stop it at the end of the block.

    It accepts calls when the block begins. It also ends, and its files are removed, if the test fails or its process is
    killed. `SESSION_NOTES_*` variables of the environment do not apply to it. A run's lease is short if the test begins
    the run with a short one.

    Args:
        listen: The address to listen on: a host and a port, of which 0 is any free one, or `unix:/path`.
        session_ttl: Time after which an unchanged session expires. None: 24 h.
        flags: Further flags of `session-notes serve`.

    Raises:
        InvalidArgument: If `session_ttl` is not a timedelta, or `flags` is not a list of strings.
        RuntimeError: If the sidecar does not start, for example because the extra `server` is not installed. The
            message contains its log.
    """
    if session_ttl is not None and not isinstance(session_ttl, timedelta):
        raise InvalidArgument(f"session_ttl must be a datetime.timedelta, not {type(session_ttl).__name__}")
    if isinstance(flags, str):
        raise InvalidArgument("flags must be a list of strings, not str")
    home = tempfile.mkdtemp(prefix="session-notes-")
    # With `-P`, no module of the tested project hides one that the sidecar imports.
    command = [sys.executable, "-P", "-m", "session_notes_tools", "serve", "--listen", listen]
    command += ["--data-dir", f"{home}/data", *_STORE_TIMEOUTS]
    if session_ttl is not None:
        command += ["--session-ttl", f"{session_ttl.total_seconds():f}s"]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    guard = subprocess.Popen(
        [sys.executable, "-P", "-c", _GUARD, home, *command, *flags],
        stdin=subprocess.PIPE,
        env=environment,
        # Ctrl-C is for the tests, which then end the sidecar.
        start_new_session=True,
    )
    try:
        yield ThrowawaySidecar(_started(guard, f"{home}/log"), f"{home}/log")
    finally:
        guard.communicate(timeout=_STOP_SECONDS)
        shutil.rmtree(home, ignore_errors=True)


def _started(guard: "subprocess.Popen[bytes]", log: str) -> str:
    """Return the address of a sidecar once it accepts calls."""
    deadline = time.monotonic() + _START_TIMEOUT.total_seconds()
    target = None
    while time.monotonic() < deadline:
        if guard.poll() is not None:
            raise RuntimeError(f"the sidecar did not start (exit status {guard.returncode}):\n{_read(log)}")
        target = target or re.search(r"listening on (\S+)", _read(log))
        if target is None:
            time.sleep(0.02)
            continue
        try:
            with PrimaryClient(target[1]) as client:
                client.get_session("session-notes-testing", timeout=_ATTEMPT_TIMEOUT)
        except Unavailable:
            continue
        return target[1]
    raise RuntimeError(f"the sidecar did not start within {_START_TIMEOUT.total_seconds():g} s:\n{_read(log)}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


try:
    import pytest
except ImportError:  # Other test frameworks use `throwaway_sidecar`.
    pass
else:

    @pytest.fixture(scope="session")
    def session_notes_sidecar() -> Iterator[ThrowawaySidecar]:
        """A real sidecar, shared by the tests of a process. Use a new session id in each test."""
        with throwaway_sidecar() as sidecar:
            yield sidecar
