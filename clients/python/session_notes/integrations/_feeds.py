"""Notes for the prompts of a framework's model: one feed per session, whose errors stay out of the framework's run."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypedDict, TypeVar

from session_notes import AsyncNotesFeed, AsyncPrimaryClient, NotesFeed, PrimaryClient, Severity
from session_notes._calls import observer_names
from session_notes._prompt import without_prompts
from session_notes.integrations._arguments import check_client
from session_notes.integrations._recording import ErrorBoundary
from session_notes.integrations._sessions import check_session_id, session_of

MAX_SESSIONS = 1_000
"""The maximum number of sessions whose state is kept. A session that was dropped gets its notes again."""

Key = TypeVar("Key", bound=Hashable)
State = TypeVar("State")


class FeedOptions(TypedDict, total=False):
    """The options of a feed besides its client and session. `NotesFeed` documents them."""

    observers: Iterable[str]
    min_severity: Severity | None
    max_chars: int
    max_age: timedelta | None
    max_snapshot_age: timedelta | None
    max_turns_behind: int | None


class LatestSessions(Generic[Key, State]):
    """The state of the sessions that were used last.

    Args:
        make: Makes the state of a new session.
    """

    def __init__(self, make: Callable[[Key], State]) -> None:
        self._make = make
        self._states: OrderedDict[Key, State] = OrderedDict()

    def get(self, key: Key) -> State:
        """Return the state of a session."""
        if key not in self._states:
            self._states[key] = self._make(key)
        self._states.move_to_end(key)
        if len(self._states) > MAX_SESSIONS:
            self._states.popitem(last=False)
        return self._states[key]


@dataclass
class _Entry:
    feed: NotesFeed | AsyncNotesFeed
    text: str = ""

    async def next(self) -> str | None:
        """Return the feed's next text."""
        return await (asyncio.to_thread(self.feed.next) if isinstance(self.feed, NotesFeed) else self.feed.next())


class Feeds:
    """The feeds of a framework's sessions.

    Args:
        client: Reads the notes. It is not closed.
        session_id: The session id, or a function that maps the framework's context to one.
        options: The options of each feed.
        clients: The accepted classes of clients. A `PrimaryClient` is called in the event loop's thread pool, so a call
            may also wait for a thread.

    Raises:
        InvalidArgument: If the client or another argument is invalid.
    """

    def __init__(
        self,
        client: PrimaryClient | AsyncPrimaryClient,
        session_id: str | Callable[[Any], str],
        options: FeedOptions,
        *,
        clients: tuple[type, ...] = (AsyncPrimaryClient,),
    ) -> None:
        check_client(client, *clients)
        check_session_id(session_id)
        if "observers" in options:
            options = {**options, "observers": observer_names(options["observers"])}
        self._client = client
        self._session_id = session_id
        self._options = options
        self._feed("any")  # Rejects invalid options.
        self._entries = LatestSessions[str, _Entry](lambda session_id: _Entry(self._feed(session_id)))

    async def text(self, context: Any = None) -> str:
        """Return the notes on a context's session as text; empty if there are none. Never raise.

        During an outage, which takes at most the client's timeout, it is the last text.
        """
        text, _ = await self._read(context)
        return text

    async def news(self, context: Any = None) -> str:
        """Return the notes on a context's session as text; empty if it has not changed. Never raise."""
        text, is_new = await self._read(context)
        return text if is_new else ""

    async def _read(self, context: Any) -> tuple[str, bool]:
        """Return the current text, and whether it is new."""
        entry = None
        with ErrorBoundary("no notes for the prompt"):
            entry = self._entries.get(session_of(self._session_id, context))
            if (text := await entry.next()) is not None:
                entry.text = text
                return text, True
        return (entry.text if entry else ""), False

    def _feed(self, session_id: str) -> NotesFeed | AsyncNotesFeed:
        if isinstance(self._client, PrimaryClient):
            return NotesFeed(self._client, session_id, **self._options)
        return AsyncNotesFeed(self._client, session_id, **self._options)


@dataclass
class StoredConversation:
    """The notes in a conversation that the model's provider may store. A request that fails is not stored."""

    _previous_id: str | None = None
    _requested: str = ""
    _stored: str = ""

    def addition(self, previous_id: str | None, text: str) -> str:
        """Return the notes to add to the next request; empty if the conversation already ends with them.

        Args:
            previous_id: The id of the stored response that the request continues. None: nothing is stored.
            text: The current notes.
        """
        if previous_id is None:
            self._stored = ""
        elif previous_id != self._previous_id:  # The last request has been answered.
            self._stored = self._requested
        self._previous_id, self._requested = previous_id, text
        return "" if text == self._stored else text


def is_notes(text: object) -> bool:
    """Return whether a message's text is nothing but notes from a feed."""
    return isinstance(text, str) and bool(text.strip()) and not without_prompts(text)
