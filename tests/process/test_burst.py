"""Bursts of calls: a queue is not an outage."""

import asyncio
from collections import Counter

import grpc
import grpc.aio
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub

from tests.support import Sidecar

BURST = 4000


async def test_a_burst_is_answered() -> None:
    """Each of 4,000 simultaneous GetNotes is answered, although most wait for longer than the store timeout."""
    with Sidecar(flags=["--notes-timeout", "250ms"]) as sidecar:
        async with grpc.aio.insecure_channel(sidecar.target) as channel:
            notes = SessionNotesStub(channel)

            async def outcome(number: int) -> str:
                try:
                    await notes.GetNotes(GetNotesRequest(session_id=f"burst-{number}"))
                except grpc.RpcError as error:
                    return str(error.code())
                return "OK"

            assert Counter(await asyncio.gather(*map(outcome, range(BURST)))) == {"OK": BURST}
