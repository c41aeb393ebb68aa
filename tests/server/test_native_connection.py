"""The end of a connection of the native engine whose caller stops reading."""

import asyncio
from typing import Any

import pytest
from session_notes_server.rpc.engines.native import connection
from session_notes_server.rpc.engines.native.server import NativeEngine
from session_notes_server.settings import EngineName

from tests.engines import run_engine
from tests.faults.frames import (
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    frame,
    request_fields,
    settings,
    window_update,
)


class Transport(asyncio.Transport):
    """A transport to a caller that stops reading in the middle of a frame."""

    def __init__(self, protocol: connection.Connection, head: bytes) -> None:
        super().__init__()
        self.sent = b""
        self.paused, self.closed = asyncio.Event(), asyncio.Event()
        self._protocol, self._head = protocol, head

    def write(self, data: Any) -> None:
        self.sent += data
        if self.sent.endswith(self._head):
            self._protocol.pause_writing()
            self.paused.set()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        self.closed.set()


async def test_a_call_and_its_connection_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a call with unread bytes ends together with its connection, the connection still closes, with a GOAWAY."""
    failures = list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    # The transport gets single bytes, so that it can pause in the middle of the frame that resets the call.
    monkeypatch.setattr(connection, "PIECE_BYTES", 1)
    async with run_engine(EngineName.NATIVE, lambda _: []) as (_, engine):
        assert isinstance(engine, NativeEngine)
        protocol = connection.Connection(engine, lambda: None)
        transport = Transport(protocol, frame(RST_STREAM, 0, 1, bytes(4))[:9])
        protocol.connection_made(transport)

        def receive(data: bytes) -> None:
            protocol.get_buffer(-1)[: len(data)] = data
            protocol.buffer_updated(len(data))

        receive(PREFACE + settings({}))
        receive(frame(HEADERS, END_HEADERS, 1, request_fields("a.Service/Unknown")) + frame(DATA, 0, 1, bytes(100)))
        await asyncio.wait_for(transport.paused.wait(), 10)
        receive(window_update(0, (1 << 31) - 1))
        protocol.resume_writing()
        await asyncio.wait_for(transport.closed.wait(), 10)
        assert failures == []
        assert frame(GOAWAY, body=bytes(8))[:9] in transport.sent
        protocol.connection_lost(None)
