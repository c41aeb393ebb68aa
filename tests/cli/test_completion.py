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
# Works only within a real completion; what it is asked for is shown.
compopt() { COMPREPLY+=("$@"); }
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
    """What somebody in that shell would evaluate."""
    shown = subprocess.run([*program(), "completion", shell], capture_output=True, text=True, env=env, timeout=30)
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout


@pytest.fixture(scope="module")
def bash(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script, as bash gets it."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash on PATH")
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
        (["serve", "--tls-cert", "x"], {"-o", "default"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bash(bash: Path, env: dict[str, str], words: list[str], offered: set[str]) -> None:
    """Commands, options and fixed values are completed; ids are not, and for files bash is asked to do it."""
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", str(bash), "session-notes", *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == offered


def test_a_line_in_bashrc_is_enough(bash: Path, env: dict[str, str], tmp_path: Path) -> None:
    """The line that the help gives, and the next shell knows it."""
    (tmp_path / ".bashrc").write_text('eval "$(session-notes completion bash)"\n')
    home = env | {"HOME": str(tmp_path)}
    known = subprocess.run(
        ["bash", "-ic", "complete -p session-notes"], env=home, capture_output=True, text=True, timeout=30
    )
    assert known.stdout.endswith(" session-notes\n")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(env: dict[str, str], shell: str) -> None:
    """Zsh and fish get scripts of their own, which are right by their own judgement, and ask as they know how."""
    text = script(env, shell)
    assert f"_SESSION_NOTES_COMPLETE={shell}_complete" in text
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=text, check=True, text=True, timeout=30)
    asked = {"_SESSION_NOTES_COMPLETE": f"{shell}_complete", "COMP_WORDS": "session-notes heal", "COMP_CWORD": "1"}
    asked |= {"COMP_CWORD": "heal"} if shell == "fish" else {}
    done = subprocess.run(program(), capture_output=True, text=True, env=env | asked, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert "health" in done.stdout


def test_it_does_not_wait_for_what_it_does_not_need(env: dict[str, str]) -> None:
    """Neither gRPC, redis, the server nor rich is imported at a Tab."""
    asked = {"_SESSION_NOTES_COMPLETE": "bash_complete", "COMP_WORDS": "session-notes serve --", "COMP_CWORD": "2"}
    done = subprocess.run(
        program(), capture_output=True, text=True, env=env | asked | {"PYTHONPROFILEIMPORTTIME": "1"}, timeout=30
    )
    assert "plain,--listen" in done.stdout.split()
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in modules
    assert not modules & {"grpc", "redis", "google.protobuf", "session_notes", "rich", "asyncio"}
