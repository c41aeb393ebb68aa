"""The client of `session-notes top`, with the four RPCs that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from google.protobuf.duration_pb2 import Duration
from session_notes import AsyncRawClient, Reading, Run, Session, SessionSummary
from session_notes.v1.session_notes_pb2 import (
    BatchGetNotesRequest,
    BatchGetNotesResponse,
    GetNotesRequest,
    ListRunsRequest,
    ListRunsResponse,
)
from session_notes.v1.session_state_pb2 import (
    GetSessionRequest,
    GetSessionResponse,
    ListSessionsRequest,
    ListSessionsResponse,
)

from session_notes_tools.top.model import Key, NotesFigures

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from session_notes import TLS, TokenFile


class TopClient:
    """A client that also returns page tokens and message sizes, which the public clients do not.

    Calls are not retried, so that an outage is shown immediately.

    Args:
        target: The sidecar's address.
        token: The token file, if any.
        tls: The certificates, if any.
        timeout: The deadline of each call.
    """

    def __init__(self, target: str, token: TokenFile | None, tls: TLS | None, timeout: timedelta) -> None:
        self.target = target
        self._client = AsyncRawClient(target, token=token, tls=tls, timeout=timeout)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    async def list_sessions(self, page_size: int, page_token: str) -> tuple[list[SessionSummary], str]:
        """Return a page of sessions in no particular order, and the token of the next page; empty after the last."""
        request = ListSessionsRequest(page_size=page_size, page_token=page_token)
        response: ListSessionsResponse = await self._call(request)
        return [SessionSummary.from_message(session) for session in response.sessions], response.next_page_token

    async def get_notes(
        self, keys: Sequence[Key], max_age: timedelta | None, max_turns_behind: int | None
    ) -> list[tuple[Reading, NotesFigures]]:
        """Return a reading without its notes, and the figures of these notes, for each session and observer."""
        bound = None
        if max_age is not None:
            bound = Duration()
            bound.FromTimedelta(max_age)
        requests = [
            GetNotesRequest(session_id=session_id, observer=observer, max_age=bound, max_turns_behind=max_turns_behind)
            for session_id, observer in keys
        ]
        response: BatchGetNotesResponse = await self._call(BatchGetNotesRequest(requests=requests))
        results = []
        for (session_id, observer), message in zip(keys, response.responses, strict=True):
            figures = NotesFigures.of(message.notes)
            message.ClearField("notes")
            results.append((Reading.from_message(message, session_id=session_id, observer=observer), figures))
        return results

    async def list_runs(self, session_id: str, observer: str) -> list[Run]:
        """Return the last 20 runs, newest first."""
        response: ListRunsResponse = await self._call(ListRunsRequest(session_id=session_id, observer=observer))
        return [Run.from_message(run) for run in response.runs]

    async def get_session(self, session_id: str) -> tuple[Session, int]:
        """Return a session without its transcript, and the size in bytes of its fields and all observers' notes."""
        response: GetSessionResponse = await self._call(GetSessionRequest(session_id=session_id))
        return Session.from_message(response.session), response.session.ByteSize()

    async def _call(self, request: Message) -> Any:
        return await self._client.call(request)
