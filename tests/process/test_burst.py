"""Many calls at once: a queue is not an outage."""

import asyncio
from collections import Counter

import grpc
import grpc.aio
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub

from tests.support import Sidecar

BURST = 4000


async def test_a_burst_of_calls_is_answered() -> None:
    """Of 4,000 GetNotes at once each is answered, though most wait longer than a silent store is waited for."""
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
