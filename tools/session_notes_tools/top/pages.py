"""The pages on the screen: the table, a session, the help."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Input, Static

from session_notes_tools.cli import phrases
from session_notes_tools.top.cache import MAX_SESSIONS
from session_notes_tools.top.columns import COLUMNS, IDLE, Column
from session_notes_tools.top.detail import SessionDetail
from session_notes_tools.top.layout import lay_out
from session_notes_tools.top.model import Row
from session_notes_tools.top.query import matches, sort_rows
from session_notes_tools.top.table import SessionTable, heading

if TYPE_CHECKING:
    from session_notes_tools.top.app import Top

_KEYS = (
    ("↑ ↓ PgUp PgDn", "select a row; Home: stay at the top; End: the last row"),
    ("Enter", "notes and runs of the session; Esc: back"),
    ("Shift+letter", "sort by the column with this letter underlined; again: reverse"),
    ("< >", "sort by the column to the left or right"),
    ("r", "reverse the order"),
    ("/", "filter by session, observer or readiness; Esc: show all"),
    ("p", "pause and resume"),
    ("q, Ctrl-C", "quit"),
)


class Page(Screen[None]):
    """A screen with data from the sidecar."""

    app: Top

    async def read(self) -> None:
        """Read the data from the sidecar."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show the data as last read."""
        raise NotImplementedError

    def set_line(self, kind: str, text: str) -> None:
        """Set a line at the top of the page, or hide it if the text is empty."""
        line = self.query_one(f".{kind}", Static)
        line.update(Text(text))
        line.display = bool(text)

    def refresh_text(self) -> str:
        """Return the refresh state: paused, waiting, or the interval."""
        app = self.app
        if app.paused and app.connection.last_success is not None:
            elapsed = timedelta(seconds=time.monotonic() - app.connection.last_success)
            return f"PAUSED, data is {phrases.amount(elapsed)} old"
        return app.connection.waiting() or f"every {app.interval.total_seconds():g} s"


class TablePage(Page):
    """The table of all sessions."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # The priority makes the keys typed right after it go into the filter.
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("r", "reverse", "Reverse"),
        Binding("less_than_sign", "shift(-1)", show=False),
        Binding("greater_than_sign", "shift(1)", "Sort", key_display="< >"),
        Binding("escape", "clear", show=False),
        *(Binding(column.key, f"sort('{column.key}')", show=False) for column in COLUMNS),
    ]
    AUTO_FOCUS = "SessionTable"

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self._columns = columns
        self._sorted_by = IDLE
        self._reverse = False

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Static(classes="status")
        yield Static(classes="banner")
        yield Static(classes="notice")
        yield Static(id="heading")
        yield SessionTable()
        yield Input(id="filter", placeholder="session, observer or readiness; Enter keeps it, Esc clears it")
        yield Footer()

    async def read(self) -> None:
        """Read the changed rows, visible ones first."""
        await self.app.cache.refresh(self.query_one(SessionTable).visible_keys)

    def draw(self) -> None:
        """Show the rows that match the filter."""
        app, cache = self.app, self.app.cache
        moment = app.moment
        words = self.query_one("#filter", Input).value.lower().split()
        matching = [row for row in cache.rows.values() if matches(row, words)]
        rows = sort_rows(matching, moment, self._sorted_by, reverse=self._reverse)
        layout, hidden = lay_out(self._columns, rows, self.size.width - 1)
        self.query_one(SessionTable).draw(rows, layout, moment, outdated=app.connection.outage)
        self.query_one("#heading", Static).update(heading(layout, self._sorted_by, reverse=self._reverse))
        count = f"{len(rows)} of {len(cache.rows)} rows" if words else phrases.count(len(rows), "row")
        status = [app.client.target, f"{phrases.count(cache.session_count, 'session')}, {count}", self.refresh_text()]
        status += [f"filter: {' '.join(words)}"] if words else []
        self.set_line("status", "  ·  ".join(status))
        self.set_line("banner", app.connection.banner())
        self.set_line("notice", self._notice(rows, hidden))

    def _notice(self, rows: Sequence[Row], hidden: Sequence[Column]) -> str:
        cache = self.app.cache
        notices = []
        if cache.truncated:
            notices.append(f"only {MAX_SESSIONS:,} sessions are shown; the sidecar has more")
        elif not cache.complete and cache.rows:
            notices.append("more sessions are still being listed")
        elif cache.complete and not cache.rows:
            notices.append("no sessions")
        elif not rows and cache.rows:
            notices.append("no row matches the filter; Esc clears it")
        if cache.complete and (unread := cache.unread_count):
            notices.append(f"{phrases.count(unread, 'row')} not read yet")
        if hidden:
            notices.append(f"no room for {', '.join(column.title for column in hidden)}")
        return "; ".join(notices)

    def on_resize(self) -> None:
        """Adapt the table to the new size."""
        self.call_after_refresh(self.draw)

    def action_sort(self, key: str) -> None:
        """Sort by a column, or reverse the order if it is the sorted one."""
        column = next(column for column in COLUMNS if column.key == key)
        if column not in self._columns:
            return
        self._reverse = column is self._sorted_by and not self._reverse
        self._sorted_by = column
        self.draw()

    def action_shift(self, columns: int) -> None:
        """Sort by a neighbouring column."""
        index = (self._columns.index(self._sorted_by) + columns) % len(self._columns)
        self._sorted_by, self._reverse = self._columns[index], False
        self.draw()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._reverse = not self._reverse
        self.draw()

    def action_filter(self) -> None:
        """Open the filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the filter action inside the filter, where / is an ordinary character."""
        return action != "filter" or not isinstance(self.focused, Input)

    def action_clear(self) -> None:
        """Clear the filter."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def on_input_changed(self) -> None:
        """Apply the filter while it is typed."""
        self.draw()

    def on_input_submitted(self) -> None:
        """Close the filter field, and keep its text applied."""
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.set_focus(self.query_one(SessionTable))
        self.draw()

    def on_session_table_opened(self, message: SessionTable.Opened) -> None:
        """Show the details of the opened row."""
        self.app.push_screen(DetailPage(SessionDetail(self.app.client, *message.row.key)))
        self.app.read_soon()


class DetailPage(Page):
    """The details of one session."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,backspace", "back", "Back", key_display="Esc")]
    AUTO_FOCUS = "#detail"

    def __init__(self, detail: SessionDetail) -> None:
        super().__init__()
        self._detail = detail

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Static(classes="status")
        yield Static(classes="banner")
        with VerticalScroll(id="detail"):
            yield Static()
        yield Footer()

    def on_mount(self) -> None:
        """Show that the session is being read."""
        self.draw()

    async def read(self) -> None:
        """Read the session."""
        await self._detail.read(time.monotonic())

    def draw(self) -> None:
        """Show the session as last read."""
        self.set_line("status", f"{self.app.client.target}  ·  {self.refresh_text()}")
        self.set_line("banner", self.app.connection.banner())
        body = self.query_one("#detail > Static", Static)
        body.update(Group(*self._detail.render(self.app.moment)))
        body.styles.text_style = "dim" if self.app.connection.outage else "none"

    def action_back(self) -> None:
        """Return to the table and refresh it, since its rows were not read meanwhile."""
        self.dismiss()
        self.app.read_soon()


class HelpPage(ModalScreen[None]):
    """The keys and the columns."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q", "dismiss", "Back", key_display="Esc")]

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        with VerticalScroll():
            yield Static(_help_text())


def _help_text() -> Text:
    text = Text()
    for keys, meaning in _KEYS:
        text.append(f"{keys:<14}", "bold").append(f"{meaning}\n")
    text.append("\n")
    for column in COLUMNS:
        text.append(f"{column.key}  {column.title:<11}", "bold").append(f"{column.help}\n")
    return text
