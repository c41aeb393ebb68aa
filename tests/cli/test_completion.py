"""Completion in a real shell: the script is sourced there, and asked as Tab asks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import ENV
from tests.support import program

# What bash does at a Tab: find the function registered for the command, and call it with the words.
TAB = """
set -e
source "$1"
words=("${@:2}")
COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
function=$(complete -p session-notes | sed -E 's/.*-F ([^ ]+).*/\\1/')
COMPREPLY=()
$function session-notes "${words[-1]}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """With the program on PATH."""
    return ENV | {"PATH": f"{Path(program()[0]).parent}{os.pathsep}{os.environ['PATH']}"}


def script(env: dict[str, str], shell: str) -> str:
    """What `--show-completion` prints to somebody in that shell."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell} on PATH")
    shown = subprocess.run(
        # Two commands, so that the shell does not make way for the one.
        [found, "-c", "session-notes --show-completion; true"], capture_output=True, text=True, env=env, timeout=30
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout


@pytest.fixture(scope="module")
def bash(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script, as bash gets it."""
    path = tmp_path_factory.mktemp("completion") / "session-notes.sh"
    path.write_text(script(env, "bash"))
    return path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["heal"], {"health"}),
        (["notes", ""], {"get", "write"}),
        (["notes", "get", "--max-t"], {"--max-turns-behind"}),
        (["health", "--service", "li"], {"live"}),
        (["session", "get", ""], set()),
        (["serve", "--tls-cert", "x"], set()),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bash(bash: Path, env: dict[str, str], words: list[str], offered: set[str]) -> None:
    """Commands, options and fixed values are completed; ids are not, and for files bash is left to do it."""
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", str(bash), "session-notes", *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == offered
    assert "-o default" in bash.read_text(), "files would not be completed"


def test_it_is_installed_where_bash_finds_it(env: dict[str, str], tmp_path: Path) -> None:
    """`--install-completion`, and then the next shell knows it."""
    home = env | {"HOME": str(tmp_path)}
    subprocess.run(
        ["bash", "--norc", "-c", "session-notes --install-completion; true"], check=True, env=home, capture_output=True
    )
    known = subprocess.run(
        ["bash", "-ic", "complete -p session-notes"], env=home, capture_output=True, text=True, timeout=30
    )
    assert "session-notes" in known.stdout


def test_it_does_not_wait_for_what_it_does_not_need(env: dict[str, str]) -> None:
    """Neither gRPC, redis, the server nor rich is imported at a Tab."""
    asked = {"_SESSION_NOTES_COMPLETE": "complete_bash", "COMP_WORDS": "session-notes serve --", "COMP_CWORD": "2"}
    done = subprocess.run(
        program(), capture_output=True, text=True, env=env | asked | {"PYTHONPROFILEIMPORTTIME": "1"}, timeout=30
    )
    assert "--listen" in done.stdout.split()
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in modules
    assert not modules & {"grpc", "redis", "google.protobuf", "session_notes", "rich", "asyncio"}
