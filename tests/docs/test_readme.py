"""Documentation tests: commands and Python on the pages run, settings are complete, links resolve."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from session_notes import PrimaryClient

from tests.support import Sidecar, program

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text()
PYTHON = (ROOT / "docs" / "python.md").read_text()
# Values that differ from run to run.
VARYING = {"age", "expires_in"}


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of each code block on a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def fresh() -> Iterator[Sidecar]:
    """A sidecar as `make run` starts it, for these tests only."""
    with Sidecar() as sidecar:
        yield sidecar


def grpcurl(command: str, target: str) -> str:
    """Run a grpcurl command from a page against the test's sidecar."""
    installed = shutil.which("grpcurl", path=str(Path(sys.executable).parent))
    executable = installed or shutil.which("grpcurl")
    if executable is None:
        pytest.skip("no grpcurl: neither from PyPI for this platform nor on PATH")
    assert "localhost:50051" in command
    words = shlex.split(command.replace("localhost:50051", target))
    return subprocess.run([executable, *words[1:]], check=True, capture_output=True, text=True, timeout=20).stdout


def commands_and_answers(page: str) -> Iterator[tuple[list[str], dict[str, Any] | None]]:
    """Yield the grpcurl commands of each block on a page, with the JSON printed below the block, if any."""
    code = blocks(page)
    for (language, text), after in zip(code, [*code[1:], ("", "")], strict=True):
        lines = text.replace("\\\n", "").splitlines()
        commands = [line.partition("  #")[0] for line in lines if re.match(r"(\.venv/bin/)?grpcurl ", line)]
        if language == "sh" and commands:
            yield commands, json.loads(after[1]) if after[0] == "json" else None


def snake_case(answer: Any) -> Any:
    """Return a document with field names as in the protos; newer versions of grpcurl print camelCase."""
    if isinstance(answer, dict):
        return {re.sub(r"([A-Z])", r"_\1", name).lower(): snake_case(value) for name, value in answer.items()}
    return [snake_case(value) for value in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize(("page", "answers"), [(README, 2), (COMMAND_LINE, 0)], ids=["README", "command-line"])
def test_the_grpcurl_commands_print_what_the_page_shows(fresh: Sidecar, page: str, answers: int) -> None:
    """Each command succeeds and prints the JSON shown below it, ages aside."""
    run = checked = 0
    for commands, shown in commands_and_answers(page):
        for command in commands:
            answer = grpcurl(command, fresh.target)
            run += 1
        if shown is None:
            assert answer.strip()
            continue
        real = snake_case(json.loads(answer))
        assert set(shown) <= set(real)
        assert {k: v for k, v in shown.items() if k not in VARYING} == {
            k: v for k, v in real.items() if k in shown and k not in VARYING
        }
        checked += 1
    assert checked == answers
    assert run


@pytest.mark.parametrize("page", [README, PYTHON], ids=["README", "python"])
def test_the_python_prints_what_the_page_shows(fresh: Sidecar, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python on the page runs in order and prints what the comments after `print`, or the text below it, show."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", fresh.target)
    code = blocks(page)
    space: dict[str, Any] = {}
    for (language, block), (below, shown) in zip(code, [*code[1:], ("", "")], strict=True):
        if language != "python":
            continue
        expected = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
        if not expected and below == "text":
            expected = shown.splitlines()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "page.md", "exec"), space)
        assert printed.getvalue().splitlines() == expected, block
    assert space


def test_the_readme_starts_with_code() -> None:
    """The first two screens show the recorder, the observer with brakes, and the feed, in at most 25 lines of code."""
    (code,) = (text for language, text in blocks(README) if language == "python")
    assert README.index(code) + len(code) < len("\n".join(README.splitlines()[:60]))
    assert len(code.splitlines()) <= 25
    assert all(name in code for name in ("TurnRecorder(", "BackgroundObserver(", "min_interval=", "NotesFeed("))


def test_the_readme_is_short() -> None:
    """The README has at most 150 lines."""
    assert len(README.splitlines()) <= 150


def test_the_readme_names_both_commands() -> None:
    """The README names the commands that run and test the project."""
    assert {"make run", "make test"} <= set(re.findall(r"^make \w+", README, re.MULTILINE))


def test_the_settings_are_those_of_serve() -> None:
    """The table of settings lists exactly the flags and variables of `session-notes serve`."""
    answer = subprocess.run(
        [*program(), "serve", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "TERM": "dumb"},
    ).stdout
    page = (ROOT / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `(--[a-z-]+)[^|]*\| `(SESSION_NOTES_\w+)` \|", page, re.MULTILINE)
    flags = set(re.findall(r"--[a-z-]+", answer)) - {"--help", "--verbose", "--dev"}
    assert {flag for flag, _ in rows} == flags
    assert {variable for _, variable in rows} == set(re.findall(r"SESSION_NOTES_\w+", answer))


def test_the_make_targets_named_exist() -> None:
    """Every `make` target named in the docs exists."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
        assert named
        assert named <= targets


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    """Every link to a file or a heading resolves."""
    for link, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text()):
        path = page.parent / link if link else page
        assert path.exists(), link
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{link}{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: its headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_hooks_for_claude_code(fresh: Sidecar, tmp_path: Path) -> None:
    """They record what the user and the agent wrote, cut if it is too long, and nothing else."""
    if not shutil.which("jq"):
        pytest.skip("no jq on PATH")
    page = (ROOT / "docs" / "integrations-frameworks.md").read_text()
    hooks = next(json.loads(text)["hooks"] for language, text in blocks(page) if language == "json")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(tmp_path), "SESSION_NOTES_TARGET": fresh.target}

    def run(event: str, **fields: object) -> None:
        command = hooks[event][0]["hooks"][0]["command"].replace("--timeout 1s", "--timeout 30s")
        document = json.dumps({"session_id": "code", **fields})
        subprocess.run(["sh", "-c", command], input=document, env=env, text=True, check=True, timeout=90)

    said = 'It\'s "quoted", `$HOME` \\n %s\nline 2 é 😀'
    for prompt in ("", "<task-notification>\n<summary>Done</summary>\n</task-notification>", said, "😀" * 70_000):
        run("UserPromptSubmit", prompt=prompt)
    for message in (None, "", said):
        run("Stop", last_assistant_message=message)
    with PrimaryClient(fresh.target) as primary:
        turns = primary.get_session("code", include_turns=True).turns
    expected = [("user", said), ("user", "😀" * 16_000), ("primary", said)]
    assert [(turn.speaker, turn.text) for turn in turns] == expected
