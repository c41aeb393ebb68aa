"""Requests that do not arrive in time."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from session_notes_server.contract import SERVICES
from session_notes_server.rpc import transfers
from session_notes_server.rpc.admission import Admission
from session_notes_server.rpc.authorization import Authorization
from session_notes_server.rpc.boundary import Boundary
from session_notes_server.rpc.engines import open_engine
from session_notes_server.settings import EngineName, Settings
from session_notes_server.telemetry.calls import Telemetry
from session_notes_server.telemetry.tracing.traces import MethodSpans, Traces

from tests.support import Refusal


class Servicer:
    """A servicer whose methods are never called."""

    def __getattr__(self, _: str) -> None:
        return None


class TracesInMemory:
    """The sidecar's traces, without an exporter."""

    store = None

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def of_method(self, name: str) -> MethodSpans:
        """Return the maker of a method's spans."""
        return MethodSpans(self._provider.get_tracer("tests"), name, follows_callers=False)


async def test_a_late_request_ends_as_deadline_exceeded(monkeypatch: pytest.MonkeyPatch, engine: EngineName) -> None:
    """A call without a request ends as DEADLINE_EXCEEDED with the reason REQUEST_TIMEOUT. Its span is not an error."""
    monkeypatch.setattr(transfers, "REQUEST_SECONDS", 0.3)
    server = open_engine(Settings(engine=engine), None)
    admission = Admission(server, calls=10, held_bytes=1 << 20, message_bytes=1 << 16)
    traces = TracesInMemory()
    boundary = Boundary(Authorization(), admission, Telemetry(traces=cast(Traces, traces)))
    sweep = asyncio.create_task(admission.transfers.sweep())
    server.add_generic_rpc_handlers([boundary.handlers(service, Servicer()) for service in SERVICES])
    try:
        with server.listening("127.0.0.1:0") as target:
            await server.start()
            async with grpc.aio.insecure_channel(target) as channel:
                method: Any = channel.stream_unary(f"/{SERVICES[0].full_name}/GetNotes")
                call, refusal = method(timeout=20), Refusal()
                with pytest.raises(grpc.RpcError) as raised:
                    await call
                refusal.read(raised.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT")
        assert refusal.message == "the request did not arrive in time; retry"
        (span,) = traces.exporter.get_finished_spans()
        assert span.attributes is not None
        assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert span.status.is_unset
    finally:
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep
        await server.stop(0)
