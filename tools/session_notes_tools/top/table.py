"""The table on the screen. It draws the rows in sight and no others, so that ten thousand cost what forty do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from session_notes_tools.top.columns import Column, fitted
from session_notes_tools.top.watch import Key, Moment, Row

Layout = Sequence[tuple[Column, int]]
"""Columns and their widths."""


def heading(layout: Layout, by: Column, *, backwards: bool) -> Text:
    """The line of titles: the letter that sorts is underlined, the sorted column marked."""
    text = Text(no_wrap=True, end="")
    for column, width in layout:
        title = Text(fitted(column.title, width, to_the_right=column.to_the_right), style="bold")
        place = title.plain.index(column.key)
        title.stylize("underline", place, place + 1)
        text.append_text(title)
        text.append(("▼" if column.largest_first != backwards else "▲") if column is by else " ", "bold")
    return text


class SessionTable(ScrollView, can_focus=True):
    """Rows, one of them chosen.

    The choice stays with its row wherever that goes. Until somebody makes one, it is the top row, whichever that is.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Details"),
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown,space", "page(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"chosen"}
    DEFAULT_CSS = """
    SessionTable { height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    SessionTable > .chosen { background: $primary-muted; text-style: bold; }
    SessionTable:nocolor > .chosen { text-style: bold reverse; }
    """

    class Opened(Message):
        """A row's details are wanted."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[Row] = ()
        self._layout_: Layout = ()
        self._moment = Moment(0, None)
        self._faded = False
        self._place = 0
        self._chosen: Key | None = None

    def draw(self, rows: Sequence[Row], layout: Layout, moment: Moment, *, faded: bool) -> None:
        """Show these rows; `faded`: they are not what is there now."""
        self._rows, self._layout_, self._moment, self._faded = rows, layout, moment, faded
        self.virtual_size = Size(self.scrollable_content_region.width, len(rows))
        if self._chosen is None:
            self._place = 0
        else:
            places = (place for place, row in enumerate(rows) if row.key == self._chosen)
            moved = next(places, min(self._place, len(rows) - 1))
            if moved != self._place:
                self._choose(moved)
        self.refresh()

    @property
    def in_sight(self) -> list[Key]:
        """The rows on the screen."""
        top = self.scroll_offset.y
        return [row.key for row in self._rows[top : top + self.size.height]]

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        place = self.scroll_offset.y + y
        base = self.rich_style
        if place >= len(self._rows):
            return Strip.blank(self.size.width, base)
        if place == self._place:
            base += self.get_component_rich_style("chosen", partial=True)
        segments = []
        for column, width in self._layout_:
            text, style = column.cell(self._rows[place], self._moment)
            # One that is faded has no colours: nobody is to take it for news.
            look = _style("dim" if self._faded else style)
            look = base + (look.without_color if self.app.no_color else look)
            segments += [Segment(fitted(text, width, to_the_right=column.to_the_right), look), Segment(" ", base)]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def _choose(self, place: int) -> None:
        if not self._rows:
            return
        self._place = max(0, min(place, len(self._rows) - 1))
        self._chosen = self._rows[self._place].key
        top, height = self.scroll_offset.y, self.size.height
        if not top <= self._place < top + height:
            to = self._place if self._place < top else self._place - height + 1
            self.scroll_to(y=to, animate=False, immediate=True)
        self.refresh()

    def action_move(self, by: int) -> None:
        """Choose the row so many lines below."""
        self._choose(self._place + by)

    def action_page(self, by: int) -> None:
        """Choose the row so many screens below."""
        self._choose(self._place + by * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """Choose whatever row is the top one."""
        self._choose(0)
        self._chosen = None

    def action_last(self) -> None:
        """Choose the last row."""
        self._choose(len(self._rows) - 1)

    def action_open(self) -> None:
        """Ask for the chosen row's details."""
        if self._place < len(self._rows):
            self.post_message(self.Opened(self._rows[self._place]))

    def on_click(self, event: Click) -> None:
        """Choose the row under the mouse; twice: its details."""
        self._choose(self.scroll_offset.y + event.y)
        if event.chain == 2:
            self.action_open()


@cache
def _style(name: str) -> Style:
    return Style.parse(name)
