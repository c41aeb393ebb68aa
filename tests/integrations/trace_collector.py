"""A collector of OpenTelemetry traces over gRPC or HTTP that keeps all exported spans."""

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
    """An exported span with its resource."""

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
    """A collector that runs within the `with` block.

    Args:
        port: The port to listen on; None: a free one.
        http: Whether to accept OTLP over HTTP instead of gRPC.
    """

    def __init__(self, port: int | None = None, *, http: bool = False) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = http
        self._requests: list[bytes] = []
        self._stop: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        if self._http:
            server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            self._stop = [server.shutdown, server.server_close]
        else:
            grpc_server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
            add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # has no type hints
            add(self._servicer(), grpc_server)
            grpc_server.add_insecure_port(f"127.0.0.1:{self.port}")
            grpc_server.start()
            self._stop = [lambda: grpc_server.stop(0).wait()]
        return self

    def __exit__(self, *_: object) -> None:
        for step in self._stop:
            step()

    def _servicer(self) -> Any:
        requests = self._requests

        class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: object) -> ExportTraceServiceResponse:
                requests.append(request.SerializeToString())
                return ExportTraceServiceResponse()

        return Servicer()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        requests = self._requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                requests.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    @property
    def exported(self) -> bytes:
        """All export requests as received."""
        return b"".join(self._requests)

    def spans(self, trace: bytes | int | None = None) -> list[Span]:
        """Return the spans exported so far, of one trace or of all."""
        trace_id = trace.to_bytes(16, "big") if isinstance(trace, int) else trace
        return [span for span in self._spans() if trace_id in (None, span.trace)]

    def wait_for(self, *names: str, trace: bytes | int | None = None) -> dict[str, Span]:
        """Return the spans of these names once all of them have been exported."""

        def complete() -> dict[str, Span]:
            spans = {span.name: span for span in self.spans(trace)}
            return spans if spans.keys() >= set(names) else {}

        return eventually(complete)

    def _spans(self) -> Iterator[Span]:
        for request in list(self._requests):
            for resource_spans in ExportTraceServiceRequest.FromString(request).resource_spans:
                resource = _plain(resource_spans.resource.attributes)
                for scope_spans in resource_spans.scope_spans:
                    for span in scope_spans.spans:
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
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in attributes}
