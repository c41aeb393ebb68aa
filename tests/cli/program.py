"""The real `session-notes` program, run as users and scripts run it."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner
from session_notes_tools.command_line import app

from tests.support import leaks, program

ENV = {
    name: text
    for name, text in os.environ.items()
    if not name.startswith("SESSION_NOTES_") and name not in {"FORCE_COLOR", "NO_COLOR", "GITHUB_ACTIONS"}
}


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The error message, which is the only output."""
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        assert self.err.endswith("\n"), self
        assert not self.out, self
        return self.err.removeprefix("error: ").rstrip("\n")


class Cli:
    """The program, configured for one sidecar."""

    def __init__(self, target: str) -> None:
        self.env = ENV | {"SESSION_NOTES_TARGET": target}

    def __call__(
        self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, encoding: str = "utf-8"
    ) -> Result:
        done = subprocess.run(
            [*program(), *arguments],
            input=stdin.encode(),
            env=self.env | dict(env or {}),
            capture_output=True,
            timeout=30,
        )
        result = Result(done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding))
        assert "Traceback" not in result.err, result.err
        unquoted = result.err
        for argument in sorted(arguments, key=len, reverse=True):
            unquoted = unquoted.replace(argument, "")
        assert not leaks(unquoted), result.err
        return result

    def in_process(self, *arguments: str, stdin: str = "") -> Result:
        """Run a command within this process, which is faster."""
        done = CliRunner().invoke(app, arguments, input=stdin, env=self.env, prog_name="session-notes")
        return Result(done.exit_code, done.stdout, done.stderr)

    def run_all(self, *commands: Sequence[str]) -> list[Result]:
        """Run several commands concurrently, and return their results in order."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda command: self(*command), commands))

    def on_terminal(self, *arguments: str, keys: str = "", env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command on a terminal, type keys, and return the exit code and the screen."""
        master, terminal = pty.openpty()
        try:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            environment = self.env | {"TERM": "xterm-256color"} | dict(env or {})
            running = subprocess.Popen(
                [*program(), *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
            )
            os.close(terminal)
            os.write(master, keys.encode())
            screen = b""
            with suppress(OSError):  # On Linux, reading fails once the program has closed the terminal.
                while read := os.read(master, 4096):
                    screen += read
            return running.wait(30), screen.decode().replace("\r\n", "\n")
        finally:
            os.close(master)
