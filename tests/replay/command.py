"""The command `session-notes replay` as a child process."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import leaks, program


@dataclass
class Result:
    """The result of a replay."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        """The document that `--json` printed."""
        return json.loads(self.out)

    def broken(self) -> dict[str, str]:
        """Return the examples of each broken promise."""
        return {
            promise["promise"]: str(promise["examples"]) for promise in self.report["promises"] if promise["broken"]
        }


def start(*arguments: str | Path, **env: str) -> subprocess.Popen[str]:
    """Start a replay."""
    return subprocess.Popen(
        [*program(), "replay", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    )


def finish(process: subprocess.Popen[str], timeout: float = 100) -> Result:
    """Wait for the end of a replay."""
    out, err = process.communicate(timeout=timeout)
    assert not leaks(err), err
    return Result(process.returncode, out, err)


def replay(*arguments: str | Path, **env: str) -> Result:
    """Run a replay to its end."""
    return finish(start(*arguments, **env))
