"""A program on a pseudo-terminal, for tests that read the screen and press keys."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import pyte

from tests.cli.program import ENV

# Sequences of a newer keyboard protocol, which pyte would show as letters.
_UNKNOWN_TO_PYTE = re.compile(rb"\x1b\[[<>=][0-9;]*u")


class Terminal:
    """A program that runs on its own terminal during a `with` block.

    Args:
        command: The program and its arguments.
        columns: The width of the terminal.
        lines: The height of the terminal.
        env: Additional environment variables.

    Attributes:
        process: The program.
        initial_settings: The terminal's settings before the program started.
        output: All bytes that the program has written.
    """

    def __init__(
        self, command: Sequence[str], *, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None
    ) -> None:
        self._command = list(command)
        inherited = {name: value for name, value in ENV.items() if name not in {"COLUMNS", "LINES"}}
        self._env = inherited | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | dict(env or {})
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self._slave = pty.openpty()
        self._set_size(columns, lines)
        self.initial_settings = termios.tcgetattr(self._slave)
        self.output = b""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=self._env,
            start_new_session=True,
            # The controlling terminal delivers SIGWINCH, and SIGINT where the program does not handle Ctrl-C itself.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        finally:
            os.close(self._slave)
            if self._master != -1:
                self.close()

    def close(self) -> None:
        """Close the terminal window."""
        os.close(self._master)
        self._master = -1

    @property
    def lines(self) -> list[str]:
        """The lines of the screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The text of the screen."""
        return "\n".join(self.lines)

    @property
    def settings(self) -> list[object]:
        """The terminal's current settings, such as echo and line mode."""
        return list(termios.tcgetattr(self._slave))

    def line_of(self, text: str) -> str:
        """Return the first line that contains a text, or an empty string."""
        return next((line for line in self.lines if text in line), "")

    def colour_of(self, text: str) -> str:
        """Return the colour of the first letter of a text on the screen."""
        number = next(number for number, line in enumerate(self.lines) if text in line)
        return str(self._screen.buffer[number][self.lines[number].index(text)].fg)

    def is_reversed(self, text: str) -> bool:
        """Return whether the first letter of a text on the screen is shown in reverse."""
        number = next(number for number, line in enumerate(self.lines) if text in line)
        return bool(self._screen.buffer[number][self.lines[number].index(text)].reverse)

    def see(self, expected: str | Callable[[], object], seconds: float = 20) -> None:
        """Wait until the screen shows a text, or until a condition holds."""
        holds = (lambda: expected in self.text) if isinstance(expected, str) else expected
        deadline = time.monotonic() + seconds
        while not holds():
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"not seen within {seconds} s: {expected}\n{self.text}"
            self._read(min(remaining, 0.2))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Resize the terminal."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def wait(self, seconds: float = 20) -> int:
        """Wait until the program ends, and return its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running:\n{self.text}"
            self._read(0.1)
        self._read(0)
        return self.process.returncode

    def is_restored(self) -> bool:
        """Return whether the terminal is restored: main screen, visible cursor, no mouse reports, initial settings."""
        modes = (b"?1049h", b"?1000h", b"?1003h", b"?2004h", b"?25l")
        opposite = {b"h": b"l", b"l": b"h"}
        reset = all(self.output.rfind(mode) <= self.output.rfind(mode[:-1] + opposite[mode[-1:]]) for mode in modes)
        return reset and self.settings == self.initial_settings

    def _read(self, seconds: float) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            chunk = os.read(self._master, 65536)
            self.output += chunk
            self._stream.feed(_UNKNOWN_TO_PYTE.sub(b"", chunk))
            seconds = 0

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
