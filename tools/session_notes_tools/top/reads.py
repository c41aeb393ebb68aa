"""The four RPCs that the table is made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

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

if TYPE_CHECKING:
    from session_notes import TLS, TokenFile


class Reads:
    """What is asked of a sidecar, over the clients' own transport: their addresses, credentials and errors.

    Its messages are needed as they came, which the clients do not hand out: how many bytes they have is one of the
    columns, and a page's token lets a listing pause. Every call is tried once: an outage is to be seen, not waited for.

    Args:
        target: The sidecar's address.
        token: What it knows this caller by.
        tls: How to encrypt.
        timeout: How long to wait for each answer.
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

    async def sessions(self, page_size: int, page_token: str) -> tuple[list[SessionSummary], str]:
        """A page of all sessions, in no order, and the token of the next; empty: it was the last."""
        request = ListSessionsRequest(page_size=page_size, page_token=page_token)
        answer: ListSessionsResponse = await self._client.call(request)
        return [SessionSummary.from_message(one) for one in answer.sessions], answer.next_page_token

    async def readings(
        self, wanted: Sequence[tuple[str, str]], max_age: timedelta | None, max_turns_behind: int | None
    ) -> list[tuple[Reading, int]]:
        """For each session and observer its reading, without the notes themselves, and how many bytes these have."""
        age = Duration()
        if max_age is not None:
            age.FromTimedelta(max_age)
        request = BatchGetNotesRequest(
            requests=[
                GetNotesRequest(
                    session_id=session_id,
                    observer=observer,
                    max_age=None if max_age is None else age,
                    max_turns_behind=max_turns_behind,
                )
                for session_id, observer in wanted
            ]
        )
        answer: BatchGetNotesResponse = await self._client.call(request)
        found = []
        for (session_id, observer), one in zip(wanted, answer.responses, strict=True):
            size = one.notes.ByteSize()
            # Thousands of rows are kept, and none shows them.
            one.ClearField("notes")
            found.append((Reading.from_message(one, session_id=session_id, observer=observer), size))
        return found

    async def runs(self, session_id: str, observer: str) -> list[Run]:
        """The last 20 runs, newest first."""
        request = ListRunsRequest(session_id=session_id, observer=observer)
        answer: ListRunsResponse = await self._client.call(request)
        return [Run.from_message(run) for run in answer.runs]

    async def session(self, session_id: str) -> tuple[Session, int]:
        """A session without its transcript, and how many bytes it has: fields, and all observers' notes."""
        request = GetSessionRequest(session_id=session_id)
        answer: GetSessionResponse = await self._client.call(request)
        return Session.from_message(answer.session), answer.session.ByteSize()
