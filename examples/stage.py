"""What the demo looks like, and how long it leaves its reader for what."""

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.panel import Panel
from rich.text import Text


class Stage:
    """Shows things, and waits until they are read.

    Args:
        fast: Wait for nobody.
    """

    CHARACTERS_PER_SECOND = 115
    MOST_CHARACTERS = 300
    WIDTH = 80
    INDENT = 10

    def __init__(self, *, fast: bool) -> None:
        self._console = Console(highlight=False)
        # Into a pipe or a file, lines stay whole, for whoever looks for something in them.
        self._wrap_at = self._console.width if sys.stdout.isatty() else sys.maxsize
        self._fast = fast

    def scene(self, title: str, text: str) -> None:
        """Opens a scene."""
        self._console.print()
        self._console.print(Panel(text, title=title, title_align="left", border_style="cyan", width=self.WIDTH))
        self.pause(len(text))

    def line(self, label: str, text: str, style: str = "") -> None:
        """Shows what somebody says or does."""
        self._show(label, Text(text, style))

    def returns(self, result: dict[str, Any], *, whole: bool = False) -> None:
        """Shows what came back, as JSON; notes in it are left out unless the whole is wanted."""
        if whole:
            text = _as_lines(result)
        else:
            text = json.dumps(result | ({"notes": "…"} if "notes" in result else {}), ensure_ascii=False)
        self._show("returns", JSONHighlighter()(text))

    def _show(self, label: str, text: Text) -> None:
        margin = Text(f"{label:>{self.INDENT - 2}}  ", "dim")
        for line in text.split("\n"):
            depth = len(line.plain) - len(line.plain.lstrip())
            for part in line.wrap(self._console, self._wrap_at - self.INDENT - depth):
                self._console.print(margin + part, soft_wrap=True)
                margin = Text(" " * (self.INDENT + depth))
            margin = Text(" " * self.INDENT)
        self.pause(len(text))

    def pause(self, characters: int) -> None:
        """Waits while the reader reads that much. Nothing else in the demo waits for the sake of time."""
        if not self._fast:
            time.sleep(min(characters, self.MOST_CHARACTERS) / self.CHARACTERS_PER_SECOND)


def _as_lines(result: dict[str, Any], indent: str = "") -> str:
    """JSON with a line for each entry, and for each entry of the notes in it."""
    parts = [
        f"{indent}  {json.dumps(name)}: {_as_lines(part, indent + '  ') if name == 'notes' else json.dumps(part)}"
        for name, part in result.items()
    ]
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
