"""Completion in the shells that not every machine has: zsh at a real terminal, and fish as it asks itself."""

import os
import pty
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.test_completion import env, script
from tests.stores import eventually

__all__ = ["env"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish on PATH")
def test_fish(env: dict[str, str], tmp_path: Path) -> None:
    """Commands and fixed values, with what they are for; files where a file belongs."""
    home = env | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    path = tmp_path / "session-notes.fish"
    path.write_text(script(home, "fish"))

    def offered(line: str) -> list[str]:
        ask = f"source {path}; complete --do-complete '{line}'"
        return subprocess.run(
            ["fish", "--private", "-c", ask], check=True, capture_output=True, text=True, env=home, timeout=60
        ).stdout.splitlines()

    assert [one.partition("\t")[0] for one in offered("session-notes heal")] == ["health"]
    assert offered("session-notes health --service li") == ["live"]
    assert {one.partition("\t")[0] for one in offered("session-notes notes ")} == {"get", "write"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh on PATH")
def test_zsh(env: dict[str, str], tmp_path: Path) -> None:
    """A Tab at a real terminal completes a command, and the value of an option."""
    home = env | {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    path = tmp_path / "_session-notes"
    path.write_text(script(home, "zsh"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "--no-rcs", "-i"], home)
    screen = bytearray()

    def read() -> bytes:
        with suppress(BlockingIOError):
            screen.extend(os.read(terminal, 4096))
        return bytes(screen)

    try:
        os.set_blocking(terminal, False)
        for line in ("autoload -U compinit && compinit -u -D", f"source {path}", "echo rea''dy"):
            os.write(terminal, line.encode() + b"\n")
        eventually(lambda: b"\nready" in read(), 30)
        for typed, completed in ((b"session-notes heal\t", b"session-notes health "), (b"--service li\t", b"live")):
            os.write(terminal, typed)
            eventually(lambda completed=completed: completed in read(), 30)  # type: ignore[misc]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
