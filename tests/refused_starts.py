"""Starts of the sidecar that must fail, and the check that they do not affect a running sidecar."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import pytest

from tests.support import SessionCalls, Sidecar, free_port, new_channel, program

SECRET = "sekrit-8c1f"


def run_serve(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `serve`, which must exit soon, and return its exit code and its output in one line.

    By default it has an address and a data directory of its own. If it starts, it is stopped and the test fails.
    """
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    with tempfile.TemporaryDirectory(prefix="session-notes-") as home:
        defaults = {"HOME": home, "XDG_DATA_HOME": home, "COLUMNS": "200"}
        defaults |= {"SESSION_NOTES_DATA_DIR": f"{home}/data", "SESSION_NOTES_LISTEN": f"127.0.0.1:{free_port()}"}
        process = subprocess.Popen(
            [*program(), "serve", *arguments],
            env={**clean, **defaults, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate(timeout=15)
            pytest.fail(f"it started: {output}")
        return process.returncode, " ".join(output.split())


def assert_refused(text: str, arguments: Sequence[str], *, code: int = 1) -> str:
    """Assert that `serve` exits with a code and an error that contains a text, and return its output."""
    status, output = run_serve(*arguments)
    assert status == code
    assert text in output
    assert "Traceback" not in output
    return output


def assert_serving(sidecar: Sidecar, session_id: str) -> None:
    """Assert that a sidecar still serves calls."""
    assert sidecar.running
    with new_channel(sidecar.target) as channel:
        SessionCalls(channel, session_id).append_turns(1)
