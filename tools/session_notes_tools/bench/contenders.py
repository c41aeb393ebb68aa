"""What is compared: the sidecar, a bare gRPC server, and Redis without a sidecar, all over the same notes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
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

from session_notes_tools.bench import floor
from session_notes_tools.bench.caller import REDIS_READ, REDIS_UPDATE, SESSION_TTL_SECONDS
from session_notes_tools.bench.load import LoadError, Target
from session_notes_tools.bench.stores import Store, ended

NOTES_BYTES = 2048
BATCH = 100
IN_FLIGHT_WHILE_FILLING = 64
# Should we be killed, they are gone by themselves; a full run takes less.
SECONDS_TO_LIVE = 3600
# Of sessions that are only there to be many, nobody notices that not every one is called.
MOST_BODIES = 1000

_NOTES, _STATE = "/session_notes.v1.SessionNotes/", "/session_notes.v1.SessionState/"


def notes_of(size_bytes: int = NOTES_BYTES) -> Notes:
    """Notes as an observer writes them, of about that size."""
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
    """Sessions of ours at a sidecar: made, called and removed.

    Args:
        address: Where the sidecar is. A token and certificates are in the environment, as for any client.
        count: How many sessions.
        notes: What each of them has.
    """

    def __init__(self, address: str, count: int, notes: Notes) -> None:
        # A name of this run's own: nobody else's session is touched.
        run = secrets.token_hex(4)
        self.ids = [f"bench-{run}-{number}" for number in range(count)]
        self._notes = notes
        self._endpoint = Endpoint(address)
        self._identified = bool(self._endpoint.tls or self._endpoint.metadata())

    async def fill(self, *, turns: int = 0, runs: int = 1) -> None:
        """Have notes, and so many turns and runs, in all of them."""

        async def one(channel: grpc.aio.Channel, session_id: str) -> None:
            for at in range(0, turns, 500):
                few = [_turn(number) for number in range(at, min(turns, at + 500))]
                await self._call(
                    SessionStateStub(channel).AppendTurns, AppendTurnsRequest(session_id=session_id, turns=few)
                )
            await self._call(
                SessionStateStub(channel).UpdateSession,
                UpdateSessionRequest(session_id=session_id, ttl=Duration(seconds=SECONDS_TO_LIVE)),
            )
            for _ in range(runs):
                request = WriteNotesRequest(session_id=session_id, notes=self._notes)
                await self._call(SessionNotesStub(channel).WriteNotes, request)

        await self._each(one)

    async def remove(self) -> None:
        """Leave nothing behind."""

        async def one(channel: grpc.aio.Channel, session_id: str) -> None:
            await self._call(SessionStateStub(channel).DeleteSession, DeleteSessionRequest(session_id=session_id))

        await self._each(one)

    async def answer_bytes(self) -> int:
        """How large an answer to GetNotes is."""
        async with self._endpoint.open_async_channel() as channel:
            request = GetNotesRequest(session_id=self.ids[0])
            answer: Message = await self._call(SessionNotesStub(channel).GetNotes, request)
            return answer.ByteSize()

    def targets(self, place: str, address: str, **processes: Any) -> list[Target]:
        """Every call there is to measure, on these sessions, at an address of the sidecar's."""
        spread = self.ids[:: max(1, len(self.ids) // MOST_BODIES)]
        batch = [GetNotesRequest(session_id=session_id) for session_id in self.ids[:BATCH]]
        requests: dict[str, Iterable[Message]] = {
            f"{_NOTES}GetNotes": (GetNotesRequest(session_id=one) for one in spread),
            f"{_NOTES}WriteNotes": (WriteNotesRequest(session_id=one, notes=self._notes) for one in spread),
            f"{_NOTES}BatchGetNotes": [BatchGetNotesRequest(requests=batch)],
            f"{_STATE}GetSession": (GetSessionRequest(session_id=one) for one in spread),
            f"{_STATE}AppendTurns": (AppendTurnsRequest(session_id=one, turns=[_turn(0)]) for one in spread),
        }
        return [
            Target(
                place,
                method.rpartition("/")[2],
                address,
                method,
                tuple(request.SerializeToString() for request in some),
                identified=self._identified,
                **processes,
            )
            for method, some in requests.items()
        ]

    async def _each(self, do: Callable[[grpc.aio.Channel, str], Awaitable[None]]) -> None:
        waiting = iter(self.ids)
        async with self._endpoint.open_async_channel() as channel:

            async def work() -> None:
                for session_id in waiting:
                    await do(channel, session_id)

            await asyncio.gather(*(work() for _ in range(IN_FLIGHT_WHILE_FILLING)))

    async def _call(self, method: Any, request: Message) -> Any:
        return await method(request, timeout=30, metadata=self._endpoint.metadata(), wait_for_ready=True)


@contextlib.asynccontextmanager
async def bare_server(answer_bytes: int, *, name: str = "floor", poller: str = "") -> AsyncIterator[list[Target]]:
    """The floor: the same gRPC, the same bytes, and nothing else.

    Args:
        answer_bytes: How large its answers are.
        name: What people call it.
        poller: As gRPC's experiments name them; by default gRPC has its way, as it has wherever nobody says otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        unix = f"unix:{folder}/floor.sock"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "session_notes_tools.bench.floor", str(answer_bytes), "127.0.0.1:0", unix),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "GRPC_EXPERIMENTS": poller},
        )
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
            if not (line := await process.stdout.readline()):
                raise LoadError("the bare server does not start; what it said is above")
            port = line.split()[0].decode()
            body = GetNotesRequest(session_id="bench-00000000-0").SerializeToString()
            yield [
                Target(f"{name} ({how})", "Echo", address, floor.METHOD, (body,), (process.pid,))
                for how, address in (("tcp", f"127.0.0.1:{port}"), ("unix", unix))
            ]
        finally:
            await ended(process)


@contextlib.asynccontextmanager
async def blobs(store: Store, session: bytes, count: int) -> AsyncIterator[list[Target]]:
    """Without a sidecar: a session as one JSON document in the same store, read and written by redis-py."""
    import redis.asyncio as redis

    keys = [f"bench-blob-{number}".encode() for number in range(count)]
    async with redis.Redis.from_url(store.url) as client:
        for key in keys:
            await client.set(key, session, ex=SESSION_TTL_SECONDS)
        yield [
            Target("redis-py, no sidecar", name, store.url, name, tuple(keys), store=store.pid)
            for name in (REDIS_READ, REDIS_UPDATE)
        ]


def json_of(notes: Notes) -> bytes:
    """A session with these notes, as others keep it."""
    session = {"version": 1, "fields": {}, "notes": {"default": MessageToDict(notes)}}
    return json.dumps(session).encode()


def _turn(number: int) -> Turn:
    return Turn(speaker=("user", "primary")[number % 2], text="I bought it three weeks ago and want my money back.")
