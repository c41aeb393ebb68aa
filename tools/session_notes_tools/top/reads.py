"""The four RPCs that the table is made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from google.protobuf.message import Message
from session_notes import Reading, Run, Session, SessionSummary, _calls, _wire
from session_notes._transport import AsyncTransport
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

M = TypeVar("M", bound=Message)

_NOTES = "/session_notes.v1.SessionNotes/"
_STATE = "/session_notes.v1.SessionState/"


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
        self._timeout = timeout
        self._transport = AsyncTransport(target, token, tls)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def sessions(self, page_size: int, page_token: str) -> tuple[list[SessionSummary], str]:
        """A page of all sessions, in no order, and the token of the next; empty: it was the last."""
        request = ListSessionsRequest(page_size=page_size, page_token=page_token)
        answer = await self._ask(_STATE + "ListSessions", request, ListSessionsResponse)
        return [_wire.summary_from(one) for one in answer.sessions], answer.next_page_token

    async def readings(
        self, wanted: Sequence[tuple[str, str]], max_age: timedelta | None, max_turns_behind: int | None
    ) -> list[tuple[Reading, int]]:
        """For each session and observer its reading, without the notes themselves, and how many bytes these have."""
        age = _wire.duration("max_age", max_age)
        request = BatchGetNotesRequest(
            requests=[
                GetNotesRequest(
                    session_id=session_id, observer=observer, max_age=age, max_turns_behind=max_turns_behind
                )
                for session_id, observer in wanted
            ]
        )
        answer = await self._ask(_NOTES + "BatchGetNotes", request, BatchGetNotesResponse)
        found = []
        for (session_id, observer), one in zip(wanted, answer.responses, strict=True):
            size = one.notes.ByteSize()
            # Thousands of rows are kept, and none shows them.
            one.ClearField("notes")
            found.append((_wire.reading_from(session_id, observer, one), size))
        return found

    async def runs(self, session_id: str, observer: str) -> list[Run]:
        """The last 20 runs, newest first."""
        request = ListRunsRequest(session_id=session_id, observer=observer)
        answer = await self._ask(_NOTES + "ListRuns", request, ListRunsResponse)
        return [_wire.run_from(run) for run in answer.runs]

    async def session(self, session_id: str) -> tuple[Session, int]:
        """A session without its transcript, and how many bytes it has: fields, and all observers' notes."""
        request = GetSessionRequest(session_id=session_id)
        answer = await self._ask(_STATE + "GetSession", request, GetSessionResponse)
        return _wire.session_from(answer.session), answer.session.ByteSize()

    async def _ask(self, method: str, request: Message, answer: type[M]) -> M:
        return await self._transport.send(_calls.Call(method, request, answer, _as_it_is), None, self._timeout)


def _as_it_is(message: M) -> M:
    return message
