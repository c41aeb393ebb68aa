"""The real `session-notes` program, run as a person or a script would."""

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
class Ended:
    """How a command ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """What the one line on stderr says."""
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        assert self.err.endswith("\n"), self
        assert not self.out, self
        return self.err.removeprefix("error: ").rstrip("\n")


class Cli:
    """Runs commands against one sidecar, at once where several are given."""

    def __init__(self, target: str) -> None:
        self.env = ENV | {"SESSION_NOTES_TARGET": target}

    def __call__(
        self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, encoding: str = "utf-8"
    ) -> Ended:
        done = subprocess.run(
            [*program(), *arguments],
            input=stdin.encode(),
            env=self.env | dict(env or {}),
            capture_output=True,
            timeout=30,
        )
        ended = Ended(done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding))
        assert "Traceback" not in ended.err, ended.err
        answered = ended.err
        for typed in sorted(arguments, key=len, reverse=True):
            answered = answered.replace(typed, "")
        assert not leaks(answered), ended.err
        return ended

    def here(self, *arguments: str, stdin: str = "") -> Ended:
        """The same within this process: for the many that only differ in what is wrong with them."""
        done = CliRunner().invoke(app, arguments, input=stdin, env=self.env, prog_name="session-notes")
        return Ended(done.exit_code, done.stdout, done.stderr)

    def together(self, *commands: Sequence[str]) -> list[Ended]:
        """Several commands side by side, in no order; how they ended, in theirs."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda command: self(*command), commands))

    def on_terminal(self, *arguments: str, types: str = "", env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Runs a command on a terminal where somebody types → its exit code, and what is on the screen."""
        ours, its = pty.openpty()
        try:
            fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            environment = self.env | {"TERM": "xterm-256color"} | dict(env or {})
            running = subprocess.Popen([*program(), *arguments], stdin=its, stdout=its, stderr=its, env=environment)
            os.close(its)
            os.write(ours, types.encode())
            screen = b""
            with suppress(OSError):  # how Linux says that nobody is left on the other side
                while read := os.read(ours, 4096):
                    screen += read
            return running.wait(30), screen.decode().replace("\r\n", "\n")
        finally:
            os.close(ours)
