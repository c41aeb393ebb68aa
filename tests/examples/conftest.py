"""Fixtures that run the examples as separate programs, as their readers do."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.examples.programs import EXAMPLES
from tests.support import Sidecar, leaks


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Callable[..., subprocess.Popen[str]]:
    """Start a program in `examples/` on the shared sidecar. Keyword arguments are environment variables."""

    def start_program(name: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        sidecar: Sidecar = request.getfixturevalue("sidecar")
        env = {key: text for key, text in os.environ.items() if not key.startswith(("SESSION_NOTES_", "OPENAI_"))}
        process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *arguments],
            env=env | {"SESSION_NOTES_TARGET": sidecar.target} | variables,
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

    return start_program


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Run a program in `examples/` until it exits with 0, and return its output."""

    def run_program(name: str, *arguments: str, stdin: str = "", **variables: str) -> str:
        process = start(name, *arguments, **variables)
        out, err = process.communicate(stdin, timeout=60)
        assert (process.returncode, "Traceback" in err) == (0, False), out + err
        assert not leaks(err), err
        return out + err

    return run_program
