"""The table widget. It renders only the visible rows, so that ten thousand rows cost no more than forty."""

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

from session_notes_tools.top.columns import Column
from session_notes_tools.top.layout import Layout, fit
from session_notes_tools.top.model import Key, Moment, Row


def heading(layout: Layout, sorted_by: Column, *, reverse: bool) -> Text:
    """Return the line of titles, with the sort keys underlined and the sorted column marked."""
    text = Text(no_wrap=True, end="")
    for column, width in layout:
        title = Text(fit(column.title, width, align_right=column.align_right), style="bold")
        index = title.plain.index(column.key)
        title.stylize("underline", index, index + 1)
        text.append_text(title)
        text.append(("▼" if column.descending != reverse else "▲") if column is sorted_by else " ", "bold")
    return text


class SessionTable(ScrollView, can_focus=True):
    """A table of sessions with one selected row.

    The selection follows its row. Until the user selects a row, the top row stays selected, even if the order changes.
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
    COMPONENT_CLASSES: ClassVar[set[str]] = {"selected"}
    DEFAULT_CSS = """
    SessionTable { height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    SessionTable > .selected { background: $primary-muted; text-style: bold; }
    SessionTable:nocolor > .selected { text-style: bold reverse; }
    """

    class Opened(Message):
        """Posted when the user opens a row."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[Row] = ()
        self._columns: Layout = ()
        self._moment = Moment(0, None)
        self._outdated = False
        self._index = 0
        self._selected: Key | None = None

    def draw(self, rows: Sequence[Row], layout: Layout, moment: Moment, *, outdated: bool) -> None:
        """Show rows, dimmed and without colours if they are outdated."""
        self._rows, self._columns, self._moment, self._outdated = rows, layout, moment, outdated
        self.virtual_size = Size(self.scrollable_content_region.width, len(rows))
        if self._selected is None:
            self._index = 0
        else:
            indices = (index for index, row in enumerate(rows) if row.key == self._selected)
            index = next(indices, min(self._index, len(rows) - 1))
            if index != self._index:
                self._select(index)
        self.refresh()

    @property
    def visible_keys(self) -> list[Key]:
        """The keys of the rows on the screen."""
        top = self.scroll_offset.y
        return [row.key for row in self._rows[top : top + self.size.height]]

    def render_line(self, y: int) -> Strip:
        """Render one line of the screen."""
        index = self.scroll_offset.y + y
        base = self.rich_style
        if index >= len(self._rows):
            return Strip.blank(self.size.width, base)
        if index == self._index:
            base += self.get_component_rich_style("selected", partial=True)
        segments = []
        for column, width in self._columns:
            text, name = column.cell(self._rows[index], self._moment)
            style = _style("dim" if self._outdated else name)
            style = base + (style.without_color if self.app.no_color else style)
            segments += [Segment(fit(text, width, align_right=column.align_right), style), Segment(" ", base)]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def _select(self, index: int) -> None:
        if not self._rows:
            return
        self._index = max(0, min(index, len(self._rows) - 1))
        self._selected = self._rows[self._index].key
        top, height = self.scroll_offset.y, self.size.height
        if not top <= self._index < top + height:
            offset = self._index if self._index < top else self._index - height + 1
            self.scroll_to(y=offset, animate=False, immediate=True)
        self.refresh()

    def action_move(self, lines: int) -> None:
        """Move the selection by lines."""
        self._select(self._index + lines)

    def action_page(self, pages: int) -> None:
        """Move the selection by pages."""
        self._select(self._index + pages * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """Select the top row, and keep the selection at the top."""
        self._select(0)
        self._selected = None

    def action_last(self) -> None:
        """Select the last row."""
        self._select(len(self._rows) - 1)

    def action_open(self) -> None:
        """Open the selected row."""
        if self._index < len(self._rows):
            self.post_message(self.Opened(self._rows[self._index]))

    def on_click(self, event: Click) -> None:
        """Select the row under the mouse; open it on a double click."""
        self._select(self.scroll_offset.y + event.y)
        if event.chain == 2:
            self.action_open()


@cache
def _style(name: str) -> Style:
    return Style.parse(name)
