"""The pages on the screen: the table, one session, the help."""

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
from session_notes_tools.top.columns import COLUMNS, IDLE, Column, arranged, layout, matches
from session_notes_tools.top.detail import Detail
from session_notes_tools.top.table import SessionTable, heading
from session_notes_tools.top.watch import MOST_SESSIONS, Row

if TYPE_CHECKING:
    from session_notes_tools.top.app import Top

_BY_KEY = {column.key: column for column in COLUMNS}


class Page(Screen[None]):
    """A screen that shows something of the sidecar's."""

    app: Top

    async def read(self) -> None:
        """Ask the sidecar for what is shown."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show what is known."""
        raise NotImplementedError

    def say(self, kind: str, text: str) -> None:
        """Fill a line at the top; without a text it is not there."""
        line = self.query_one(f".{kind}", Static)
        line.update(Text(text))
        line.display = bool(text)

    def state(self) -> str:
        """How it stands with the reading."""
        app = self.app
        if app.paused and app.contact.answered_at is not None:
            since = timedelta(seconds=time.monotonic() - app.contact.answered_at)
            return f"PAUSED, as it was {phrases.ago(since)}"
        return app.contact.waiting() or f"every {app.interval.total_seconds():g} s"


class TablePage(Page):
    """All sessions."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Before any other key is looked at: what is typed right behind it belongs into the filter.
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
        self._by = IDLE
        self._backwards = False

    def compose(self) -> ComposeResult:
        """Put it together."""
        yield Static(classes="status")
        yield Static(classes="banner")
        yield Static(classes="notice")
        yield Static(id="heading")
        yield SessionTable()
        yield Input(id="filter", placeholder="session, observer or readiness; Enter keeps it, Esc clears it")
        yield Footer()

    async def read(self) -> None:
        """Ask for what changed, what is on the screen first."""
        await self.app.watched.refresh(self.query_one(SessionTable).in_sight)

    def draw(self) -> None:
        """Show what is known."""
        app, watch = self.app, self.app.watched
        moment = app.moment
        words = self.query_one("#filter", Input).value.lower().split()
        matching = [row for row in watch.rows.values() if matches(row, words)]
        rows = arranged(matching, moment, self._by, backwards=self._backwards)
        table = self.query_one(SessionTable)
        fitting, left_out = layout(self._columns, rows, self.size.width - 1)
        table.draw(rows, fitting, moment, faded=app.contact.lost)
        self.query_one("#heading", Static).update(heading(fitting, self._by, backwards=self._backwards))
        shown = f"{len(rows)} of {len(watch.rows)} rows" if words else phrases.count(len(rows), "row")
        status = [app.reads.target, f"{phrases.count(watch.sessions, 'session')}, {shown}", self.state()]
        status += [f"filter: {' '.join(words)}"] if words else []
        self.say("status", "  ·  ".join(status))
        self.say("banner", app.contact.banner())
        self.say("notice", self._notice(rows, left_out))

    def _notice(self, rows: Sequence[Row], left_out: Sequence[Column]) -> str:
        watch = self.app.watched
        told = []
        if watch.more:
            told.append(f"there are more sessions: {MOST_SESSIONS:,} are shown")
        elif not watch.complete and watch.rows:
            told.append("not all sessions are here yet")
        elif watch.complete and not watch.rows:
            told.append("no sessions")
        elif not rows and watch.rows:
            told.append("no row matches the filter; Esc clears it")
        if watch.complete and (unread := watch.unread):
            told.append(f"{phrases.count(unread, 'row')} not read yet")
        if left_out:
            told.append(f"no room for {', '.join(column.title for column in left_out)}")
        return "; ".join(told)

    def on_resize(self) -> None:
        """Lay it out anew."""
        self.call_after_refresh(self.draw)

    def action_sort(self, key: str) -> None:
        """Sort by a column; once more: the other way round."""
        column = _BY_KEY[key]
        if column not in self._columns:
            return
        self._backwards = column is self._by and not self._backwards
        self._by = column
        self.draw()

    def action_shift(self, by: int) -> None:
        """Sort by the column beside."""
        place = (self._columns.index(self._by) + by) % len(self._columns)
        self._by, self._backwards = self._columns[place], False
        self.draw()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._backwards = not self._backwards
        self.draw()

    def action_filter(self) -> None:
        """Let somebody type a filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Within the filter, / is a letter like any other."""
        return action != "filter" or not isinstance(self.focused, Input)

    def action_clear(self) -> None:
        """Show all rows."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def on_input_changed(self) -> None:
        """Filter as it is typed."""
        self.draw()

    def on_input_submitted(self) -> None:
        """Keep the filter."""
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.set_focus(self.query_one(SessionTable))
        self.draw()

    def on_session_table_opened(self, message: SessionTable.Opened) -> None:
        """Show a row's session."""
        self.app.push_screen(DetailPage(Detail(self.app.reads, *message.row.key)))
        self.app.read_soon()


class DetailPage(Page):
    """One session."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,backspace", "back", "Back", key_display="Esc")]
    AUTO_FOCUS = "#detail"

    def __init__(self, detail: Detail) -> None:
        super().__init__()
        self._detail = detail

    def compose(self) -> ComposeResult:
        """Put it together."""
        yield Static(classes="status")
        yield Static(classes="banner")
        with VerticalScroll(id="detail"):
            yield Static()
        yield Footer()

    def on_mount(self) -> None:
        """Show that it is being read."""
        self.draw()

    async def read(self) -> None:
        """Ask for the session."""
        await self._detail.read(time.monotonic())

    def draw(self) -> None:
        """Show what is known."""
        self.say("status", f"{self.app.reads.target}  ·  {self.state()}")
        self.say("banner", self.app.contact.banner())
        body = self.query_one("#detail > Static", Static)
        body.update(Group(*self._detail.parts(self.app.moment)))
        body.styles.text_style = "dim" if self.app.contact.lost else "none"

    def action_back(self) -> None:
        """Back to the table, and catch up on what was not read meanwhile."""
        self.dismiss()
        self.app.read_soon()


class Help(ModalScreen[None]):
    """What the keys and columns are."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q", "dismiss", "Back", key_display="Esc")]

    def compose(self) -> ComposeResult:
        """Put it together."""
        with VerticalScroll():
            yield Static(_help())


def _help() -> Text:
    keys = (
        ("↑ ↓ PgUp PgDn", "choose a row; Home: always the top one; End"),
        ("Enter", "the session's notes and runs; Esc: back"),
        ("Shift+letter", "sort by the column it is underlined in; again: reverse"),
        ("< >", "sort by the column beside"),
        ("r", "reverse"),
        ("/", "filter by session, observer or readiness; Esc: show all"),
        ("p", "pause"),
        ("q, Ctrl-C", "quit"),
    )
    text = Text()
    for name, meaning in keys:
        text.append(f"{name:<14}", "bold").append(f"{meaning}\n")
    text.append("\n")
    for column in COLUMNS:
        text.append(f"{column.key}  {column.title:<11}", "bold").append(f"{column.help}\n")
    return text
