"""Feeds: the notes on one session as text for a prompt, whenever there is something new."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import ClassVar, Generic, TypeVar

from session_notes import _calls, _drift, _notes_calls, _prompt
from session_notes._async_primary import AsyncPrimaryClient
from session_notes._calls import Call
from session_notes._errors import InvalidArgument, SessionNotesError, Unavailable, UsageError, invalid
from session_notes._logs import session_digest, warn
from session_notes._primary import PrimaryClient
from session_notes._recorder import kind_of
from session_notes._results import Reading
from session_notes._types import Severity

C = TypeVar("C", PrimaryClient, AsyncPrimaryClient)


class _Feed(Generic[C]):
    """A feed without its call."""

    _client_type: ClassVar[type[PrimaryClient | AsyncPrimaryClient]]

    def __init__(
        self,
        primary: C,
        session_id: str,
        *,
        observers: Iterable[str] = ("",),
        min_severity: Severity | None = None,
        max_chars: int = _prompt.DEFAULT_MAX_CHARS,
        max_age: timedelta | None = None,
        max_snapshot_age: timedelta | None = None,
        max_turns_behind: int | None = None,
    ) -> None:
        if not isinstance(primary, self._client_type):
            raise invalid("primary", f"must be a session_notes.{self._client_type.__name__}, not {kind_of(primary)}")
        _prompt.check_options(min_severity, max_chars)
        self._primary: C = primary
        self._session_id = session_id
        self._observers = _calls.observer_names(observers)
        self._min_severity = min_severity
        self._max_chars = max_chars
        self._bounds = (max_age, max_snapshot_age, None, max_turns_behind)
        self._call()  # Rejects arguments of the wrong type.
        self._given: list[tuple[str, bool]] = []
        self._text = ""

    def _call(self) -> Call[list[Reading]]:
        call = _notes_calls.notes_of_observers(self._session_id, self._observers, *self._bounds)
        return _drift.batch_counting_pending(call, self._primary._transport.target)

    def _changed(self, readings: list[Reading]) -> str | None:
        """Return the text of readings if it is new."""
        given = [(reading.run.run_id if reading.run else "", reading.fresh) for reading in readings]
        if given == self._given:
            return None
        self._given = given
        blocks: list[str] = []
        for number, reading in enumerate(readings):
            # An equal share of what is left, so that a block depends only on itself and on those before it.
            left = self._max_chars - sum(len(block) + 1 for block in blocks)
            share = (left + 1) // (len(readings) - number) - 1
            block = reading.as_prompt(min_severity=self._min_severity, max_chars=max(0, share))
            blocks += [block] if block else []
        before, self._text = self._text, "\n".join(blocks)
        return None if self._text == before else self._text

    def _report(self, error: SessionNotesError) -> None:
        """Log an error other than an outage. Raise it if the program is wrong."""
        if isinstance(error, InvalidArgument | UsageError):
            raise error
        if not isinstance(error, Unavailable):
            warn("session %s: no notes for the prompt: %s", session_digest(self._session_id), type(error).__name__)


class NotesFeed(_Feed[PrimaryClient]):
    """The notes on one session as text for the prompt of the primary's model, whenever there is something new.

        >>> feed = NotesFeed(primary, "session-1", max_turns_behind=4)
        >>> advice = ""
        >>> if (text := feed.next()) is not None:  # before each answer
        ...     advice = text  # instead of the previous text

    Each text replaces the previous one: it has the block of every observer with notes (see `Reading.as_prompt`), in the
    order of `observers`. Put it at the end of the prompt, into the context of the current turn. What precedes it stays
    in the prompt cache, and so do the blocks before the first one that changed: name the observers that change least
    first. A feed belongs to one conversation.

    Args:
        primary: Reads the notes. It is not closed.
        session_id: The session.
        observers: Names of the observers, all read in one call. An empty name: `default`.
        min_severity: Leave out less severe issues. None: all issues.
        max_chars: Maximum length of the text. Observers share it equally; a later one also gets what the earlier ones
            leave.
        max_age: Maximum age of fresh notes. None: any age.
        max_snapshot_age: Maximum age of the snapshot that fresh notes are based on. None: any age.
        max_turns_behind: Maximum drift of fresh notes. None: any drift.

    Raises:
        InvalidArgument: If an argument is invalid.
    """

    _client_type = PrimaryClient

    def next(self) -> str | None:
        """Return the text if it has changed since the last one returned: a newer run, or notes no longer fresh.

        It never raises because of the sidecar. An outage takes at most the client's `timeout`.

        Returns:
            The text. Empty if notes were returned before and there are none left: they have expired, or the session was
            deleted. None if nothing has changed or the notes could not be read; the next call tries again.

        Raises:
            InvalidArgument: If the sidecar rejects an argument.
            UsageError: If the client is closed.
        """
        try:
            return self._changed(self._primary._transport.send(self._call(), None, self._primary._timeout))
        except SessionNotesError as error:
            self._report(error)
            return None


class AsyncNotesFeed(_Feed[AsyncPrimaryClient]):
    """`NotesFeed` for an `AsyncPrimaryClient`, with the same arguments, results and errors."""

    _client_type = AsyncPrimaryClient

    async def next(self) -> str | None:
        """Return the text if it has changed since the last one returned, as `NotesFeed.next` does."""
        try:
            return self._changed(await self._primary._transport.send(self._call(), None, self._primary._timeout))
        except SessionNotesError as error:
            self._report(error)
            return None
