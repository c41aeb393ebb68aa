"""Text and tables on stdout: coloured and fitted to a terminal, plain and untruncated in a pipe.

Text from users, primaries and observers is printed literally, never parsed as rich markup. Control characters and
invisible characters are escaped, so that no text can move the cursor, change colours or imitate other text.
"""

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

import click

from session_notes_tools.terminal_text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

_MIN_ID_CELLS = 9


def plain(text: str, *, lines: bool = False) -> str:
    """Escape control and invisible characters. Tabs become spaces and, without `lines`, so do line breaks."""
    spaced = text.replace("\t", " ") if lines else text.replace("\t", " ").replace("\n", " ")
    return visible(spaced, keep="\n")


def echo(*parts: "RenderableType") -> None:
    """Print text and tables on stdout."""
    console = _console()
    if console.is_terminal:
        for part in parts:
            console.print(part, soft_wrap=getattr(part, "no_wrap", None) is True)
        return
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    # Tables pad their cells with spaces, which are useless in a pipe.
    click.echo("\n".join(text.rstrip() for text in captured.get().removesuffix("\n").split("\n")))


def width() -> int:
    """Return the width of the terminal in cells; in a pipe, more than any line needs."""
    return _console().width


def line(*parts: str | tuple[str, str]) -> "Text":
    """Return a line composed of texts and (text, style) pairs."""
    from rich.text import Text

    return Text.assemble(*((plain(part), "") if isinstance(part, str) else (plain(part[0]), part[1]) for part in parts))


def id_line(*parts: str | tuple[str, str]) -> "Text":
    """Return a line that contains ids. It is never wrapped, so that ids can be copied whole."""
    text = line(*parts)
    text.no_wrap = True
    return text


def headed_table(*headers: str, ids: Collection[str] = (), folded: Collection[str] = ()) -> "Table":
    """Return an empty table.

    Args:
        headers: The headings.
        ids: Headings of columns of `Id` cells, which shrink if space is short.
        folded: Headings of columns whose text wraps if space is short.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header not in {*ids, *folded})
    return table


def grid() -> "Table":
    """Return an empty table without headings."""
    from rich.table import Table

    return Table.grid(padding=(0, 2))


class Id:
    """An id in a table cell, always on one line.

    If space is short, its middle is cut, since ids often differ at the ends.

    Args:
        text: The id, or several.
        style: A rich style.
    """

    def __init__(self, text: str, style: str = "") -> None:
        self._text = plain(text)
        self._style = style

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        """Implement rich's measuring protocol."""
        from rich.measure import Measurement

        return Measurement(min(len(self._text), _MIN_ID_CELLS), len(self._text))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        """Implement rich's rendering protocol."""
        from rich.text import Text

        yield Text(without_middle(self._text, options.max_width), self._style, no_wrap=True, overflow="ellipsis")


def without_middle(text: str, width: int) -> str:
    """Shorten text to at most `width` cells by cutting its middle: `abcd…wxyz`."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _console() -> "Console":
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if os.environ.get("NO_COLOR"):
        # By itself, rich would still print bold and dim.
        console = Console(markup=False, highlight=False, emoji=False, color_system=None)
    if not console.is_terminal:
        # Do not wrap lines, so that grep finds whole rows.
        console.width = 100_000
    return console
