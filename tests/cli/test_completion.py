"""Completion in real shells: the script is sourced, and its function is called as on Tab."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.completion import environment, script
from tests.support import SERVICES, program

# On Tab, bash calls the function registered for the command with the words.
TAB = """
set -e
source "$1"
words=("${@:2}")
# The real compopt works only within a completion. This one prints its arguments.
compopt() { COMPREPLY+=("$@"); }
COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
function=$(complete -p session-notes | sed -E 's/.*-F ([^ ]+).*/\\1/')
COMPREPLY=()
$function session-notes "${words[-1]}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """Return an environment with the program on PATH."""
    return environment()


@pytest.fixture(scope="module")
def bash(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the script for bash."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not on PATH")
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
        (["serve", "--engine", ""], {"auto", "native", "grpcio"}),
        (["health", "--service", "session"], set(SERVICES)),
        (["session", "get", ""], set()),
        (["serve", "--tls-cert", "x"], {"-o", "default"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bash(bash: Path, env: dict[str, str], words: list[str], offered: set[str]) -> None:
    """Commands, options and fixed values are completed, ids are not, and file names are left to bash."""
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", str(bash), "session-notes", *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == offered


def test_line_for_bashrc(bash: Path, env: dict[str, str], tmp_path: Path) -> None:
    """A new shell completes the command if .bashrc contains the line from the help."""
    (tmp_path / ".bashrc").write_text('eval "$(session-notes completion bash)"\n')
    home = env | {"HOME": str(tmp_path)}
    completion = subprocess.run(
        ["bash", "-ic", "complete -p session-notes"], env=home, capture_output=True, text=True, timeout=30
    )
    assert completion.stdout.endswith(" session-notes\n")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(env: dict[str, str], shell: str) -> None:
    """The scripts for zsh and fish complete commands, and parse in these shells if they are installed."""
    text = script(env, shell)
    assert f"_SESSION_NOTES_COMPLETE={shell}_complete" in text
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=text, check=True, text=True, timeout=30)
    variables = {"_SESSION_NOTES_COMPLETE": f"{shell}_complete", "COMP_WORDS": "session-notes heal", "COMP_CWORD": "1"}
    variables |= {"COMP_CWORD": "heal"} if shell == "fish" else {}
    done = subprocess.run(program(), capture_output=True, text=True, env=env | variables, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert "health" in done.stdout


def test_imports(env: dict[str, str]) -> None:
    """Completion does not import gRPC, redis, the clients or rich."""
    variables = {"_SESSION_NOTES_COMPLETE": "bash_complete", "COMP_WORDS": "session-notes serve --", "COMP_CWORD": "2"}
    done = subprocess.run(
        program(), capture_output=True, text=True, env=env | variables | {"PYTHONPROFILEIMPORTTIME": "1"}, timeout=30
    )
    assert "plain,--listen" in done.stdout.split()
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in modules
    assert not modules & {"grpc", "redis", "google.protobuf", "session_notes", "rich", "asyncio"}
