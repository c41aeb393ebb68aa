"""The program on the screen, and the loop that reads what is on it."""

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
from session_notes_tools.top.columns import Column
from session_notes_tools.top.contact import Contact
from session_notes_tools.top.pages import Help, Page, TablePage
from session_notes_tools.top.reads import Reads
from session_notes_tools.top.watch import Moment, Watch


class Top(App[None]):
    """`session-notes top`.

    Args:
        reads: The sidecar; opened and closed here.
        watch: What is known of its sessions.
        columns: The columns to show.
        interval: How long after an answer to ask again.

    Attributes:
        failure: What ended it, if not somebody.
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
    Help { align: center middle; }
    Help > VerticalScroll { width: 80; max-height: 100%; height: auto; border: round $primary; padding: 0 1;
        scrollbar-size-vertical: 1; }
    """

    def __init__(self, reads: Reads, watch: Watch, columns: Sequence[Column], interval: timedelta) -> None:
        super().__init__()
        # Set to nothing, it is not set: textual thinks otherwise.
        self.no_color = bool(os.environ.get("NO_COLOR"))
        self.reads = reads
        self.watched = watch
        self.contact = Contact()
        self.paused = False
        self.failure: Exception | None = None
        self.interval = interval
        self._first = TablePage(columns)
        self._wanted = asyncio.Event()

    @property
    def moment(self) -> Moment:
        """The time that ages are shown for: it stands still while nothing new is heard."""
        still = self.paused or self.contact.lost
        return self.watched.moment(self.contact.answered_at if still else None)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Part of textual's App. With NO_COLOR there is no colour at all, where textual alone would leave greys."""
        if self.no_color:
            return [NoColor()]
        return [one for one in super().get_line_filters() if not isinstance(one, Monochrome)]

    def get_default_screen(self) -> Screen[None]:
        """The table."""
        return self._first

    def on_mount(self) -> None:
        """Start to read."""
        # Darker ones have too little contrast.
        self.ansi_theme_dark = SVG_EXPORT_THEME
        # So that the terminal is given back as it was. At SIGHUP there is none any more.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.run_worker(self._read_on())
        self.set_interval(1, self.draw)

    def read_soon(self) -> None:
        """Read what is on the screen now, without waiting for the next time."""
        self._wanted.set()

    def draw(self) -> None:
        """Show what is known."""
        if self._page.is_mounted:
            self._page.draw()

    @property
    def _page(self) -> Page:
        return next(screen for screen in reversed(self.screen_stack) if isinstance(screen, Page))

    async def _read_on(self) -> None:
        try:
            async with self.reads:
                while True:
                    if self._wanted.is_set() or not self.paused:
                        self._wanted.clear()
                        await self._read()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self.interval.total_seconds()):
                            await self._wanted.wait()
        except Exception as error:
            self._handle_exception(error)

    async def _read(self) -> None:
        self.contact.asks()
        try:
            await self._page.read()
        except SessionNotesError as error:
            if self.contact.answered_at is None and not isinstance(error, Unavailable):
                # Waiting does not help against a token that is missing.
                raise
            self.contact.fails(output.plain(str(failure_of(error, self.reads.target))))
        else:
            self.contact.answers()
        self.draw()

    def _handle_exception(self, error: Exception) -> None:
        # Textual's own shows a traceback, with all that was said in it.
        self.failure = self.failure or error
        self.exit()

    def action_pause(self) -> None:
        """Stop asking, or ask again."""
        self.paused = not self.paused
        if not self.paused:
            self.read_soon()
        self.draw()

    def action_help(self) -> None:
        """Say what the keys and columns are."""
        if not isinstance(self.screen, Help):
            self.push_screen(Help())
