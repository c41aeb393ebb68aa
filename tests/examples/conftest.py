"""The examples as their readers run them: programs, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import Sidecar, leaks

EXAMPLES = Path(__file__).parents[2] / "examples"

# As Python does for a program started from that folder.
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Callable[..., subprocess.Popen[str]]:
    """Starts a program of `examples/`, which finds the shared sidecar; keywords are further environment variables."""

    def started(name: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        sidecar: Sidecar = request.getfixturevalue("sidecar")
        env = {key: text for key, text in os.environ.items() if not key.startswith(("SESSION_NOTES_", "OPENAI_"))}
        process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *arguments],
            env=env | {"SESSION_NOTES_TARGET": sidecar.target} | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        request.addfinalizer(end)
        return process

    return started


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Runs a program of `examples/` to its end, which must be a good one; what it printed. `said` is its stdin."""

    def finished(name: str, *arguments: str, said: str = "", **more: str) -> str:
        process = start(name, *arguments, **more)
        out, err = process.communicate(said, timeout=60)
        assert (process.returncode, "Traceback" in err) == (0, False), out + err
        assert not leaks(err), err
        return out + err

    return finished
