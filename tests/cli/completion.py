"""The completion script, and an environment in which shells find the program."""

import os
import subprocess
from pathlib import Path

from tests.cli.program import ENV
from tests.support import program


def environment() -> dict[str, str]:
    """Return an environment with the program on PATH."""
    return ENV | {"PATH": f"{Path(program()[0]).parent}{os.pathsep}{os.environ['PATH']}"}


def script(env: dict[str, str], shell: str) -> str:
    """Return the script that `completion` prints for a shell."""
    shown = subprocess.run([*program(), "completion", shell], capture_output=True, text=True, env=env, timeout=30)
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout
