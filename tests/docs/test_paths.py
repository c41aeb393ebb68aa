"""The files that ARCHITECTURE and CONTRIBUTING name exist, and both pages stay short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABBREVIATIONS = {
    "S/": "server/session_notes_server/",
    "C/": "clients/python/session_notes/",
    "T/": "tools/session_notes_tools/",
    "TS/": "clients/typescript/src/",
}
SUFFIXES = (".py", ".lua", ".proto", ".ts", ".md", ".json", ".yaml", ".toml")
PAGES = {"ARCHITECTURE.md": "server/session_notes_server/", "CONTRIBUTING.md": ""}


def named_files(page: str) -> list[str]:
    """Return the paths in backticks on a page, with abbreviations spelled out."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    names = [name for name in re.findall(r"`([\w./-]+)`", text) if name.endswith(("/", *SUFFIXES))]
    names = [name for name in names if "/" in name]
    for short, long in ABBREVIATIONS.items():
        names = [long + name.removeprefix(short) if name.startswith(short) else name for name in names]
    return names


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_a_page_exist(page: str) -> None:
    """Every file or folder in backticks exists, in the repository or in the sidecar's package."""
    names = named_files(page)
    assert len(names) > 20
    assert [name for name in names if not any((ROOT / base / name).exists() for base in ("", PAGES[page]))] == []


def test_the_architecture_is_short() -> None:
    """ARCHITECTURE has at most 150 lines."""
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 150
