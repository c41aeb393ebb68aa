"""Requests that do not arrive in time."""

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
from session_notes_server.rpc.engines import Engine
from session_notes_server.settings import EngineName
from session_notes_server.sidecar.lifecycle import background
from session_notes_server.telemetry.calls import Telemetry
from session_notes_server.telemetry.tracing.traces import MethodSpans, Traces

from tests.engines import run_engine
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
    traces, admissions = TracesInMemory(), list[Admission]()

    def create(server: Engine) -> list[grpc.GenericRpcHandler]:
        admissions.append(Admission(server, calls=10, held_bytes=1 << 20, message_bytes=1 << 16))
        boundary = Boundary(Authorization(), admissions[0], Telemetry(traces=cast(Traces, traces)))
        return [boundary.handlers(service, Servicer()) for service in SERVICES]

    async with (
        run_engine(engine, create) as (target, _),
        background(admissions[0].transfers.sweep()),
        grpc.aio.insecure_channel(target) as channel,
    ):
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
