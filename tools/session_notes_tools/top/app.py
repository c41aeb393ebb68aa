"""The terminal application and its refresh loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import ClassVar

from rich.terminal_theme import SVG_EXPORT_THEME
from session_notes import SessionNotesError, Unavailable
from textual.app import App
from textual.binding import Binding, BindingType
from textual.filter import LineFilter, Monochrome, NoColor
from textual.screen import Screen

from session_notes_tools.cli import output
from session_notes_tools.cli.exits import failure_of
from session_notes_tools.top.cache import SessionCache
from session_notes_tools.top.client import TopClient
from session_notes_tools.top.columns import Column
from session_notes_tools.top.connection_status import ConnectionStatus
from session_notes_tools.top.model import Moment
from session_notes_tools.top.pages import HelpPage, Page, TablePage


class Top(App[None]):
    """`session-notes top` on a terminal.

    Args:
        client: The client, which the application opens and closes.
        cache: The sessions.
        columns: The columns to show.
        interval: The pause between refreshes.

    Attributes:
        failure: The error that ended the application; None if the user quit.
    """

    TITLE = "session-notes top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]
    CSS = """
    .status { height: 1; color: $text-muted; }
    .banner { background: $error; color: $text; text-style: bold; display: none; }
    .banner:nocolor { text-style: bold reverse; }
    .notice { color: $warning; display: none; }
    #heading { height: 1; background: $panel; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #detail { height: 1fr; scrollbar-size-vertical: 1; }
    HelpPage { align: center middle; }
    HelpPage > VerticalScroll { width: 80; max-height: 100%; height: auto; border: round $primary; padding: 0 1;
        scrollbar-size-vertical: 1; }
    """

    def __init__(self, client: TopClient, cache: SessionCache, columns: Sequence[Column], interval: timedelta) -> None:
        super().__init__()
        # An empty NO_COLOR counts as unset (no-color.org), but not for textual.
        self.no_color = bool(os.environ.get("NO_COLOR"))
        self.client = client
        self.cache = cache
        self.connection = ConnectionStatus()
        self.paused = False
        self.failure: Exception | None = None
        self.interval = interval
        self._table_page = TablePage(columns)
        self._read_requested = asyncio.Event()

    @property
    def moment(self) -> Moment:
        """The time at which ages are computed. It is frozen while the table is paused, and during an outage."""
        frozen = self.paused or self.connection.outage
        return self.cache.moment(self.connection.last_success if frozen else None)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return textual's filters, but with NO_COLOR one that removes shades of grey too."""
        if self.no_color:
            return [NoColor()]
        return [line_filter for line_filter in super().get_line_filters() if not isinstance(line_filter, Monochrome)]

    def get_default_screen(self) -> Screen[None]:
        """Return the table."""
        return self._table_page

    def on_mount(self) -> None:
        """Start the refreshes."""
        # Textual's dark theme has too little contrast.
        self.ansi_theme_dark = SVG_EXPORT_THEME
        # On SIGTERM the terminal must be restored. On SIGHUP it no longer exists.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.run_worker(self._refresh_forever())
        self.set_interval(1, self.draw)

    def read_soon(self) -> None:
        """Refresh the current page without waiting for the interval to pass."""
        self._read_requested.set()

    def draw(self) -> None:
        """Show the data of the current page as last read."""
        if self._page.is_mounted:
            self._page.draw()

    @property
    def _page(self) -> Page:
        return next(screen for screen in reversed(self.screen_stack) if isinstance(screen, Page))

    async def _refresh_forever(self) -> None:
        try:
            async with self.client:
                while True:
                    if self._read_requested.is_set() or not self.paused:
                        self._read_requested.clear()
                        await self._refresh_page()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self.interval.total_seconds()):
                            await self._read_requested.wait()
        except Exception as error:
            self._handle_exception(error)

    async def _refresh_page(self) -> None:
        self.connection.start()
        try:
            await self._page.read()
        except SessionNotesError as error:
            if self.connection.last_success is None and not isinstance(error, Unavailable):
                # A retry cannot help, for example if the token is missing.
                raise
            self.connection.fail(output.plain(str(failure_of(error, self.client.target))))
        else:
            self.connection.succeed()
        self.draw()

    def _handle_exception(self, error: Exception) -> None:
        # Textual would print a traceback with the values of local variables, including user data.
        self.failure = self.failure or error
        self.exit()

    def action_pause(self) -> None:
        """Pause or resume the refreshes."""
        self.paused = not self.paused
        if not self.paused:
            self.read_soon()
        self.draw()

    def action_help(self) -> None:
        """Show the keys and the columns."""
        if not isinstance(self.screen, HelpPage):
            self.push_screen(HelpPage())
