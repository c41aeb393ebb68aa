"""Requests that do not arrive in time."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from session_notes_server.contract import SERVICES
from session_notes_server.rpc import transfers
from session_notes_server.rpc.admission import Admission
from session_notes_server.rpc.authorization import Authorization
from session_notes_server.rpc.boundary import Boundary
from session_notes_server.telemetry.calls import Telemetry

from tests.support import Refusal


class Servicer:
    """Methods that no call reaches."""

    def __getattr__(self, _: str) -> None:
        return None


async def test_a_late_request_ends_as_deadline_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that opens a call and sends no request gets DEADLINE_EXCEEDED with the reason REQUEST_TIMEOUT."""
    monkeypatch.setattr(transfers, "REQUEST_SECONDS", 0.3)
    admission = Admission(calls=10, held_bytes=1 << 20, message_bytes=1 << 16)
    boundary = Boundary(Authorization(), admission, Telemetry())
    sweep = asyncio.create_task(admission.transfers.sweep())
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([boundary.handlers(service, Servicer()) for service in SERVICES])
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            method: Any = channel.stream_unary(f"/{SERVICES[0].full_name}/GetNotes")
            call, refusal = method(timeout=20), Refusal()
            with pytest.raises(grpc.RpcError) as raised:
                await call
            refusal.read(raised.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT")
        assert refusal.message == "the request did not arrive in time; retry"
    finally:
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep
        await server.stop(0)
