"""Starts of the sidecar that must fail, and the check that a running sidecar is unharmed by them."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import pytest

from tests.support import SessionCalls, Sidecar, free_port, new_channel, program

SECRET = "sekrit-8c1f"


def run_serve(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `serve`, which must end soon, and return its exit code and its output, with line ends as spaces.

    If it starts after all, it is stopped. Its store and its data are this call's own.
    """
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    with tempfile.TemporaryDirectory(prefix="session-notes-") as home:
        own = {"HOME": home, "XDG_DATA_HOME": home, "COLUMNS": "200"}
        own |= {"SESSION_NOTES_DATA_DIR": f"{home}/data", "SESSION_NOTES_LISTEN": f"127.0.0.1:{free_port()}"}
        process = subprocess.Popen(
            [*program(), "serve", *arguments],
            env={**clean, **own, **(env or {})},
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
    """Assert that `serve` exits with a code and an error that contains a text, and return the whole output."""
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
