"""A collector of OpenTelemetry traces: real servers, over gRPC and HTTP, that keep what is exported to them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support import eventually, free_port

CLIENT, SERVER, INTERNAL = (
    trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{kind}") for kind in ("CLIENT", "SERVER", "INTERNAL")
)
UNSET, ERROR = trace_pb2.Status.STATUS_CODE_UNSET, trace_pb2.Status.STATUS_CODE_ERROR


@dataclass(frozen=True)
class Span:
    """A span that was exported, and by whom."""

    name: str
    kind: int
    trace: bytes
    id: bytes
    parent: bytes
    status: int
    attributes: dict[str, str | int]
    events: list[tuple[str, dict[str, str | int]]]
    links: list[bytes]
    resource: dict[str, str | int]


class Collector:
    """Takes what comes, within the `with` block.

    Args:
        port: Where it listens; None: a free port.
        http: Whether it speaks OTLP over HTTP, not over gRPC.
    """

    def __init__(self, port: int | None = None, *, http: bool = False) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = http
        self._taken: list[bytes] = []
        self._stop: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        if self._http:
            server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            self._stop = [server.shutdown, server.server_close]
        else:
            over_grpc = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
            add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # without types
            add(self._servicer(), over_grpc)
            over_grpc.add_insecure_port(f"127.0.0.1:{self.port}")
            over_grpc.start()
            self._stop = [lambda: over_grpc.stop(0).wait()]
        return self

    def __exit__(self, *_: object) -> None:
        for step in self._stop:
            step()

    def _servicer(self) -> Any:
        taken = self._taken

        class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: object) -> ExportTraceServiceResponse:
                taken.append(request.SerializeToString())
                return ExportTraceServiceResponse()

        return Servicer()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        taken = self._taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                taken.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    @property
    def exported(self) -> bytes:
        """All that was exported, as it came."""
        return b"".join(self._taken)

    def spans(self, trace: bytes | int | None = None) -> list[Span]:
        """What was exported so far: of one trace, or all."""
        wanted = trace.to_bytes(16, "big") if isinstance(trace, int) else trace
        return [span for span in self._spans() if wanted in (None, span.trace)]

    def wait_for(self, *names: str, trace: bytes | int | None = None) -> dict[str, Span]:
        """Spans of these names, as soon as they are all there."""

        def found() -> dict[str, Span]:
            spans = {span.name: span for span in self.spans(trace)}
            return spans if spans.keys() >= set(names) else {}

        return eventually(found)

    def _spans(self) -> Iterator[Span]:
        for taken in list(self._taken):
            for of_resource in ExportTraceServiceRequest.FromString(taken).resource_spans:
                resource = _plain(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    for span in of_scope.spans:
                        assert not span.status.message
                        yield Span(
                            span.name,
                            span.kind,
                            span.trace_id,
                            span.span_id,
                            span.parent_span_id,
                            span.status.code,
                            _plain(span.attributes),
                            [(event.name, _plain(event.attributes)) for event in span.events],
                            [link.span_id for link in span.links],
                            resource,
                        )


def _plain(attributes: Sequence[KeyValue]) -> dict[str, str | int]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in attributes}
