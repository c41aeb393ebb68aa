"""Shell completion in zsh, at a terminal, and in fish, by its own query command."""

import os
import pty
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.completion import environment, script
from tests.stores import eventually


@pytest.fixture
def env() -> dict[str, str]:
    """An environment with the program on PATH."""
    return environment()


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish on PATH")
def test_fish_completion(env: dict[str, str], tmp_path: Path) -> None:
    """fish completes commands and the values of options."""
    home = env | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    path = tmp_path / "session-notes.fish"
    path.write_text(script(home, "fish"))

    def completions(line: str) -> list[str]:
        query = f"source {path}; complete --do-complete '{line}'"
        return subprocess.run(
            ["fish", "--private", "-c", query], check=True, capture_output=True, text=True, env=home, timeout=60
        ).stdout.splitlines()

    assert [entry.partition("\t")[0] for entry in completions("session-notes heal")] == ["health"]
    assert completions("session-notes health --service li") == ["live"]
    assert {entry.partition("\t")[0] for entry in completions("session-notes notes ")} == {"get", "write"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh on PATH")
def test_zsh_completion(env: dict[str, str], tmp_path: Path) -> None:
    """zsh completes a command and the value of an option when Tab is pressed at a terminal."""
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
