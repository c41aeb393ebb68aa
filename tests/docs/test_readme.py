"""The README does what it says: its grpcurl commands, its Python, its settings and its own first screen."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Sidecar, eventually, program

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# What is different each time.
VARYING = {"age", "expires_in"}
# What needs packages of others is run with them, from the page that has more of it.
PAGES = {"integrations-frameworks.md": ROOT / "docs", "README.md": ROOT / "clients" / "typescript"}
RUN_ELSEWHERE = {text for language, text in BLOCKS if language == "ts" or "integrations.openai_agents" in text}


@pytest.fixture(scope="module")
def fresh() -> Iterator[Sidecar]:
    """A sidecar as `make run` starts it, for the README alone."""
    with Sidecar() as sidecar:
        yield sidecar


def grpcurl(command: str, target: str) -> str:
    """Run a grpcurl command of the README against a target of ours."""
    beside_python = shutil.which("grpcurl", path=str(Path(sys.executable).parent))
    found = beside_python or shutil.which("grpcurl")
    if found is None:
        pytest.skip("no grpcurl: neither from PyPI for this platform nor on PATH")
    assert "localhost:50051" in command
    words = shlex.split(command.replace("localhost:50051", target))
    return subprocess.run([found, *words[1:]], check=True, capture_output=True, text=True, timeout=20).stdout


def commands_and_answers() -> Iterator[tuple[list[str], dict[str, Any] | None]]:
    """The README's grpcurl commands, block by block, and the JSON printed below a block, if any."""
    for (language, text), after in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        lines = text.replace("\\\n", "").splitlines()
        if language == "sh" and lines[0].startswith("grpcurl"):
            yield [line.partition("  #")[0] for line in lines], json.loads(after[1]) if after[0] == "json" else None


def snake_case(answer: Any) -> Any:
    """Field names as in the protos: newer grpcurls print them in camelCase."""
    if isinstance(answer, dict):
        return {re.sub(r"([A-Z])", r"_\1", name).lower(): snake_case(value) for name, value in answer.items()}
    return [snake_case(value) for value in answer] if isinstance(answer, list) else answer


def test_the_grpcurl_commands_print_what_the_readme_shows(fresh: Sidecar) -> None:
    """Each command succeeds; where an answer is shown below it, that is what comes back, ages and the like aside."""
    checked = 0
    for commands, shown in commands_and_answers():
        for command in commands:
            answer = grpcurl(command, fresh.target)
        if shown is None:
            assert answer.strip()
            continue
        real = snake_case(json.loads(answer))
        assert set(shown) <= set(real)
        assert {k: v for k, v in shown.items() if k not in VARYING} == {
            k: v for k, v in real.items() if k in shown and k not in VARYING
        }
        checked += 1
    assert checked == 2


def test_the_python_prints_what_the_readme_says(fresh: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's Python runs as it stands, and prints what the comments behind `print` say."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", fresh.target)
    blocks = [text for language, text in BLOCKS if language == "python" and text not in RUN_ELSEWHERE]
    space: dict[str, Any] = {}
    for block in blocks:
        expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        if "primary.get_notes" in block and "ready" in block and "primary" in space:
            eventually(lambda: space["primary"].get_notes("s2").ready)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README.md", "exec"), space)
        assert printed.getvalue().splitlines() == expected
    space["primary"].close()


def test_what_is_run_elsewhere_is_there() -> None:
    """A line that needs packages of others, or Node.js, is one of a page whose code is run with them."""
    run = "".join((folder / page).read_text() for page, folder in PAGES.items()).splitlines()
    assert len(RUN_ELSEWHERE) == 2
    for text in RUN_ELSEWHERE:
        assert set(text.splitlines()) <= set(run)


def test_the_settings_are_those_of_serve() -> None:
    """The table of settings has every flag and variable of `session-notes serve`, and no other."""
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
    """Every `make` target that the docs name is there."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
        assert named
        assert named <= targets


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file or a heading leads to one that is there."""
    for link, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text()):
        there = page.parent / link if link else page
        assert there.exists(), link
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{link}{anchor}"


def anchors(page: Path) -> set[str]:
    """What can stand behind the # of a link to a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
