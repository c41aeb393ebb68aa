"""The demo's output: layout, and pauses for reading."""

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.panel import Panel
from rich.text import Text


class Screen:
    """Prints scenes and labelled lines, and pauses after each for long enough to read it.

    Args:
        fast: Print without pauses.
    """

    CHARACTERS_PER_SECOND = 90
    MAX_CHARACTERS = 300
    WIDTH = 80
    INDENT = 10

    def __init__(self, *, fast: bool) -> None:
        self._console = Console(highlight=False)
        # Output to a pipe or a file is not wrapped, so that it can be searched.
        self._wrap_at = self._console.width if sys.stdout.isatty() else sys.maxsize
        self._fast = fast

    def scene(self, title: str, text: str) -> None:
        """Print the opening of a scene."""
        self._console.print()
        self._console.print(Panel(text, title=title, title_align="left", border_style="cyan", width=self.WIDTH))
        self.pause(len(text))

    def line(self, label: str, text: str, style: str = "") -> None:
        """Print a line with its label, such as the speaker."""
        self._print(label, Text(text, style))

    def result(self, result: dict[str, Any], *, with_notes: bool = False) -> None:
        """Print the result of a call as JSON, with its notes abbreviated unless `with_notes` is set."""
        if with_notes:
            text = _as_lines(result)
        else:
            text = json.dumps(result | ({"notes": "…"} if "notes" in result else {}), ensure_ascii=False)
        self._print("returns", JSONHighlighter()(text))

    def pause(self, characters: int) -> None:
        """Pause for long enough to read this many characters. The demo has no other fixed delays."""
        if not self._fast:
            time.sleep(min(characters, self.MAX_CHARACTERS) / self.CHARACTERS_PER_SECOND)

    def _print(self, label: str, text: Text) -> None:
        margin = Text.assemble((f"{label:>{self.INDENT - 2}}  ", "dim"))
        for line in text.split("\n"):
            depth = len(line.plain) - len(line.plain.lstrip())
            for part in line.wrap(self._console, self._wrap_at - self.INDENT - depth):
                self._console.print(margin + part, soft_wrap=True)
                margin = Text(" " * (self.INDENT + depth))
            margin = Text(" " * self.INDENT)
        self.pause(len(text))


def _as_lines(result: dict[str, Any], indent: str = "") -> str:
    """Return JSON with one line per entry, including those of the notes."""
    parts = [
        f"{indent}  {json.dumps(name)}: {_as_lines(part, indent + '  ') if name == 'notes' else json.dumps(part)}"
        for name, part in result.items()
    ]
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
