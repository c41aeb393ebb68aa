"""A terminal with a program in it, and eyes and hands for tests."""

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

# A keyboard protocol of newer terminals, which it would show as a letter.
_UNKNOWN_TO_PYTE = re.compile(rb"\x1b\[[<>=][0-9;]*u")


class Terminal:
    """The real program on a terminal of its own, as long as the `with` block lasts.

    Args:
        command: What to run.
        columns: How wide the terminal is.
        lines: How high.
        env: Further environment variables.
    """

    def __init__(
        self, command: Sequence[str], *, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None
    ) -> None:
        self._command = list(command)
        ours = {name: text for name, text in ENV.items() if name not in {"COLUMNS", "LINES"}}
        self._env = ours | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | dict(env or {})
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, self._its = pty.openpty()
        self._set_size(columns, lines)
        self.before = termios.tcgetattr(self._its)
        self.written = b""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            env=self._env,
            start_new_session=True,
            # So that it is told of a new size, and of Ctrl-C where it does not take the key itself.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        finally:
            os.close(self._its)
            if self._ours != -1:
                self.close()

    def close(self) -> None:
        """Close the window."""
        os.close(self._ours)
        self._ours = -1

    @property
    def lines(self) -> list[str]:
        """What is on the screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    @property
    def settings(self) -> list[object]:
        """How the terminal is set: echo, line by line, and so on."""
        return list(termios.tcgetattr(self._its))

    def line_of(self, text: str) -> str:
        """The first line that holds a text; empty: none does."""
        return next((line for line in self.lines if text in line), "")

    def colour_of(self, text: str) -> str:
        """The colour of a text's first letter, wherever it is on the screen."""
        number = next(number for number, line in enumerate(self.lines) if text in line)
        return str(self._screen.buffer[number][self.lines[number].index(text)].fg)

    def is_reversed(self, text: str) -> bool:
        """Whether a text's first letter is shown in reverse, wherever it is on the screen."""
        number = next(number for number, line in enumerate(self.lines) if text in line)
        return bool(self._screen.buffer[number][self.lines[number].index(text)].reverse)

    def see(self, what: str | Callable[[], object], seconds: float = 20) -> None:
        """Wait until a text is on the screen, or until something holds."""
        holds = (lambda: what in self.text) if isinstance(what, str) else what
        deadline = time.monotonic() + seconds
        while not holds():
            left = deadline - time.monotonic()
            assert left > 0, f"not seen within {seconds} s: {what}\n{self.text}"
            self._read(min(left, 0.2))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Make the terminal larger or smaller."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def ended(self, seconds: float = 20) -> int:
        """Wait for its end; its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still there:\n{self.text}"
            self._read(0.1)
        self._read(0)
        return self.process.returncode

    def is_given_back(self) -> bool:
        """Whether the terminal is as it was: main screen, a cursor, no mouse, and settings as before."""
        modes = (b"?1049h", b"?1000h", b"?1003h", b"?2004h", b"?25l")
        back = {b"h": b"l", b"l": b"h"}
        ended = all(self.written.rfind(mode) <= self.written.rfind(mode[:-1] + back[mode[-1:]]) for mode in modes)
        return ended and self.settings == self.before

    def _read(self, seconds: float) -> None:
        while select.select([self._ours], [], [], seconds)[0]:
            read = os.read(self._ours, 65536)
            self.written += read
            self._stream.feed(_UNKNOWN_TO_PYTE.sub(b"", read))
            seconds = 0

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
