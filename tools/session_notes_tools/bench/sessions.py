"""The bench's own sessions, and the calls on them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from session_notes import Endpoint
from session_notes.v1.notes_pb2 import Issue, Notes, Severity
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, WriteNotesRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub
from session_notes.v1.session_state_pb2 import (
    AppendTurnsRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    UpdateSessionRequest,
)
from session_notes.v1.session_state_pb2_grpc import SessionStateStub
from session_notes.v1.turn_pb2 import Turn

from session_notes_tools.bench.targets import Target

NOTES_BYTES = 2048
BATCH_SIZE = 100
TTL_SECONDS = 3600
"""The sessions' time to live, longer than a full bench. It removes the sessions of a killed bench."""

_FILL_IN_FLIGHT = 64
_TURNS_PER_APPEND = 500
# More sessions only enlarge the store, so calling a sample of them is enough.
_MAX_BODIES = 1000

_NOTES, _STATE = "/session_notes.v1.SessionNotes/", "/session_notes.v1.SessionState/"


def make_notes(size_bytes: int = NOTES_BYTES) -> Notes:
    """Return realistic notes of about the given size."""
    notes = Notes(
        coverage={f"topic {number}": number / 10 for number in range(10)},
        issues=[
            Issue(text="The order number is still missing.", severity=Severity.SEVERITY_WARNING, turn=turn)
            for turn in range(5)
        ],
        follow_up_suggestions=["Ask for the order number, and when and where it was bought."] * 3,
    )
    notes.extra.update({"model": "bench", "scores": {"politeness": 0.5, "progress": 0.75}})
    notes.summary = "x" * max(0, size_bytes - notes.ByteSize() - 4)
    return notes


class Sessions:
    """Sessions that the bench creates, calls and deletes.

    Args:
        address: The sidecar's address. The token and certificates come from the environment, as for any client.
        count: The number of sessions.
        notes: The notes of each session.
    """

    def __init__(self, address: str, count: int, notes: Notes) -> None:
        # Unique ids, so that no other session is ever touched.
        unique = secrets.token_hex(4)
        self.ids = [f"bench-{unique}-{number}" for number in range(count)]
        self._notes = notes
        self._endpoint = Endpoint(address)
        self._authenticated = bool(self._endpoint.tls or self._endpoint.metadata())

    async def fill(self, *, turns: int = 0, runs: int = 1) -> None:
        """Create the sessions, each with notes, turns and runs."""

        async def fill_session(channel: grpc.aio.Channel, session_id: str) -> None:
            state = SessionStateStub(channel)
            for start in range(0, turns, _TURNS_PER_APPEND):
                chunk = [_turn(number) for number in range(start, min(turns, start + _TURNS_PER_APPEND))]
                await self._send(state.AppendTurns, AppendTurnsRequest(session_id=session_id, turns=chunk))
            ttl = UpdateSessionRequest(session_id=session_id, ttl=Duration(seconds=TTL_SECONDS))
            await self._send(state.UpdateSession, ttl)
            for _ in range(runs):
                request = WriteNotesRequest(session_id=session_id, notes=self._notes)
                await self._send(SessionNotesStub(channel).WriteNotes, request)

        await self._for_each(fill_session)

    async def delete(self) -> None:
        """Delete all sessions."""

        async def delete_session(channel: grpc.aio.Channel, session_id: str) -> None:
            await self._send(SessionStateStub(channel).DeleteSession, DeleteSessionRequest(session_id=session_id))

        await self._for_each(delete_session)

    async def response_bytes(self) -> int:
        """Return the size of a response to GetNotes."""
        async with self._endpoint.open_async_channel() as channel:
            request = GetNotesRequest(session_id=self.ids[0])
            response: Message = await self._send(SessionNotesStub(channel).GetNotes, request)
            return response.ByteSize()

    def targets(self, place: str, address: str, **processes: Any) -> list[Target]:
        """Return a target for every measured call on these sessions.

        Args:
            place: The sidecar's name in the report.
            address: One of the sidecar's addresses.
            processes: The `servers` and `store` of the targets.
        """
        sample = self.ids[:: max(1, len(self.ids) // _MAX_BODIES)]
        batch = [GetNotesRequest(session_id=session_id) for session_id in self.ids[:BATCH_SIZE]]
        requests: dict[str, Iterable[Message]] = {
            f"{_NOTES}GetNotes": (GetNotesRequest(session_id=id_) for id_ in sample),
            f"{_NOTES}WriteNotes": (WriteNotesRequest(session_id=id_, notes=self._notes) for id_ in sample),
            f"{_NOTES}BatchGetNotes": [BatchGetNotesRequest(requests=batch)],
            f"{_STATE}GetSession": (GetSessionRequest(session_id=id_) for id_ in sample),
            f"{_STATE}AppendTurns": (AppendTurnsRequest(session_id=id_, turns=[_turn(0)]) for id_ in sample),
        }
        return [
            Target(
                place,
                method.rpartition("/")[2],
                address,
                method,
                tuple(message.SerializeToString() for message in messages),
                authenticated=self._authenticated,
                **processes,
            )
            for method, messages in requests.items()
        ]

    async def _for_each(self, action: Callable[[grpc.aio.Channel, str], Awaitable[None]]) -> None:
        pending = iter(self.ids)
        async with self._endpoint.open_async_channel() as channel:

            async def work() -> None:
                for session_id in pending:
                    await action(channel, session_id)

            await asyncio.gather(*(work() for _ in range(_FILL_IN_FLIGHT)))

    async def _send(self, method: Any, request: Message) -> Any:
        return await method(request, timeout=30, metadata=self._endpoint.metadata(), wait_for_ready=True)


def _turn(number: int) -> Turn:
    return Turn(speaker=("user", "primary")[number % 2], text="I bought it three weeks ago and want my money back.")
