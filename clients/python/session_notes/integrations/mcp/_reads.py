"""What can be read, whether a tool or a resource asks: calls of the clients, answered as documents."""

import logging
from datetime import timedelta

from session_notes import (
    DEFAULT_STATE_TIMEOUT,
    AsyncPrimaryClient,
    InvalidArgument,
    PermissionDenied,
    SessionNotesError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    _notes_calls,
)
from session_notes.integrations.mcp import _documents
from session_notes.integrations.mcp._documents import Document

log = logging.getLogger(__name__)

LISTED = 100
"""How many sessions are listed at most: a list is for finding one's way, and a store may hold a million."""


class NoSuchSession(Exception):
    """Nobody has written to the session, or it has expired or been deleted."""


class Reads:
    """Reads from the sidecar of a client."""

    def __init__(self, client: AsyncPrimaryClient) -> None:
        self._client = client

    async def notes(
        self,
        session_id: str,
        observer: str,
        max_age: timedelta | None = None,
        max_turns_behind: int | None = None,
    ) -> Document:
        """A `ReadingDocument`; where nobody answers, one that says `unavailable`."""
        return _documents.reading(
            await self._client.get_notes(
                session_id,
                observer=observer,
                max_age=max_age,
                max_turns_behind=max_turns_behind,
                unavailable_ok=True,
            )
        )

    async def notes_of_many(
        self, session_ids: list[str], observer: str, max_age: timedelta | None, max_turns_behind: int | None
    ) -> Document:
        """A `ReadingsDocument`; where nobody answers, of readings that say `unavailable`."""
        found = await self._client.batch_get_notes(
            session_ids, observer=observer, max_age=max_age, max_turns_behind=max_turns_behind, unavailable_ok=True
        )
        return {"readings": [_documents.reading_of_session(one) for one in found]}

    async def session(self, session_id: str, *, turns: bool) -> Document:
        """A `SessionDocument`.

        Raises:
            NoSuchSession: There is none.
        """
        session = await self._client.get_session(session_id, include_turns=turns)
        if session.create_time is None:
            raise NoSuchSession
        return _documents.session(session, turns=turns)

    async def runs(self, session_id: str, observer: str, *, notes: bool) -> Document:
        """A `RunsDocument`."""
        runs: list[Document] = []
        token = ""
        while True:
            # For debugging alone, so a primary's client has no method for it; a primary may.
            call = _notes_calls.list_runs(session_id, observer, notes, 0, token)
            page, token = await self._client._transport.send(call, None, DEFAULT_STATE_TIMEOUT)
            runs += [_documents.run(one) for one in page]
            if not token:
                return {"runs": runs}

    async def sessions(self) -> Document:
        """A `SummariesDocument` of at most `LISTED` sessions."""
        # By id, as one that changes meanwhile can come twice.
        found: dict[str, Document] = {}
        async for one in self._client.list_sessions(page_size=LISTED):
            if one.session_id not in found and len(found) == LISTED:
                return {"sessions": list(found.values()), "more": True}
            found[one.session_id] = _documents.summary(one)
        return {"sessions": list(found.values()), "more": False}


def explanation(error: Exception) -> str:
    """What a caller is told of an error of `Reads`: words of ours or of the sidecar's, never an exception's."""
    match error:
        case NoSuchSession():
            return "there is no such session"
        case InvalidArgument() | TooLarge():
            return str(error)
        case Unavailable():
            return "session-notes cannot be reached at the moment: go on without"
        case Unauthenticated() | PermissionDenied():
            return "this server is not allowed to read that: its own token or certificate does not permit it"
    reason = error.reason if isinstance(error, SessionNotesError) else ""
    log.error("a read failed: %s %s", type(error).__name__, reason)
    return "session-notes failed to answer"
