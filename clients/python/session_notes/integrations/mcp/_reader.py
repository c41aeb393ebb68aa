"""A reader of notes, sessions and runs, for the tools and resources."""

from datetime import timedelta

from session_notes import DEFAULT_STATE_TIMEOUT, AsyncPrimaryClient, Severity, _notes_calls
from session_notes.integrations.mcp import _documents
from session_notes.integrations.mcp._documents import Document
from session_notes.integrations.mcp._errors import NoSuchSession

MAX_LISTED = 100
"""The maximum number of sessions in a listing. A listing is for orientation; a store may contain a million sessions."""


class Reader:
    """Reads notes, sessions and runs with a client, and returns them as documents."""

    def __init__(self, client: AsyncPrimaryClient) -> None:
        self._client = client

    async def notes(
        self,
        session_id: str,
        observer: str,
        max_age: timedelta | None = None,
        max_turns_behind: int | None = None,
        min_severity: Severity | None = None,
    ) -> Document:
        """Return a `ReadingDocument`; during an outage, its reason is `unavailable`."""
        return _documents.reading_document(
            await self._client.get_notes(
                session_id,
                observer=observer,
                max_age=max_age,
                max_turns_behind=max_turns_behind,
                unavailable_ok=True,
            ),
            min_severity,
        )

    async def batch_notes(
        self,
        session_ids: list[str],
        observer: str,
        max_age: timedelta | None,
        max_turns_behind: int | None,
        min_severity: Severity | None,
    ) -> Document:
        """Return a `ReadingsDocument`; during an outage, the reason in each reading is `unavailable`."""
        readings = await self._client.batch_get_notes(
            session_ids, observer=observer, max_age=max_age, max_turns_behind=max_turns_behind, unavailable_ok=True
        )
        return {"readings": [_documents.session_reading_document(reading, min_severity) for reading in readings]}

    async def session(self, session_id: str, *, include_turns: bool) -> Document:
        """Return a `SessionDocument`.

        Raises:
            NoSuchSession: If the session does not exist.
        """
        session = await self._client.get_session(session_id, include_turns=include_turns)
        if session.create_time is None:
            raise NoSuchSession
        return _documents.session_document(session, include_turns=include_turns)

    async def runs(self, session_id: str, observer: str, *, include_notes: bool) -> Document:
        """Return a `RunsDocument`."""
        runs: list[Document] = []
        token = ""
        while True:
            # ListRuns is for debugging, so `AsyncPrimaryClient` has no method for it. Its role permits the call.
            call = _notes_calls.list_runs(session_id, observer, include_notes, 0, token)
            page, token = await self._client._transport.send(call, None, DEFAULT_STATE_TIMEOUT)
            runs += [_documents.run_document(run) for run in page]
            if not token:
                return {"runs": runs}

    async def sessions(self) -> Document:
        """Return a `SummariesDocument` of at most `MAX_LISTED` sessions."""
        # Keyed by id, since a session that changes during the listing can appear in it twice.
        summaries: dict[str, Document] = {}
        async for summary in self._client.list_sessions(page_size=MAX_LISTED):
            if summary.session_id not in summaries and len(summaries) == MAX_LISTED:
                return {"sessions": list(summaries.values()), "more": True}
            summaries[summary.session_id] = _documents.summary_document(summary)
        return {"sessions": list(summaries.values()), "more": False}
