"""The sidecar's traces at a collector: a span per call and per store operation, without user data."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, ListDueSessionsRequest
from session_notes.v1.session_state_pb2 import ListSessionsRequest

from tests.integrations.trace_collector import CLIENT, ERROR, SERVER, UNSET, Collector, Span
from tests.stores import StoreServer, valkey_program
from tests.support import (
    CANARY,
    SERVICES,
    SessionCalls,
    Sidecar,
    eventually,
    free_port,
    new_channel,
    new_session_id,
    refused,
    status_of,
)

NOTES, STATE = SERVICES
EXPORT_SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
"""The setting that exports spans after 20 ms."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector for all tests of this file."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Sidecar]:
    """A sidecar that exports to the collector."""
    with Sidecar(env=EXPORT_SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as sidecar:
        yield sidecar


@pytest.fixture
def session(traced: Sidecar) -> Iterator[SessionCalls]:
    """A session on that sidecar."""
    with new_channel(traced.target) as channel:
        yield SessionCalls(channel, new_session_id())


class Caller:
    """A caller with its own trace that does not use OpenTelemetry."""

    def __init__(self, channel: grpc.Channel, *, sampled: bool = True) -> None:
        self.trace, self.span = os.urandom(16), os.urandom(8)
        self._channel = channel
        self._sampled = sampled

    def call(self, rpc: str, request: bytes = b"", **headers: str) -> None:
        """Make a call."""
        traceparent = f"00-{self.trace.hex()}-{self.span.hex()}-0{self._sampled:d}"
        metadata = (("traceparent", traceparent), *headers.items())
        method: Any = self._channel.unary_unary(f"/session_notes.v1.{rpc}")
        method(request, timeout=10, metadata=metadata)


def request(session_id: str) -> bytes:
    """Return a request of any method whose first field is the session id."""
    return GetNotesRequest(session_id=session_id).SerializeToString()


CALLS: dict[str, tuple[str, Callable[[SessionCalls], object]]] = {
    f"{NOTES}/GetNotes": ("get_notes", SessionCalls.get_notes),
    f"{NOTES}/BatchGetNotes": (
        "get_notes",
        lambda session: session.notes.BatchGetNotes(
            BatchGetNotesRequest(requests=[GetNotesRequest(session_id=session.id)] * 3), timeout=10
        ),
    ),
    f"{NOTES}/BeginRun": ("begin_run", lambda session: session.begin_run("run-1")),
    f"{NOTES}/WriteNotes": ("write_notes", lambda session: session.write_notes("run-1")),
    f"{NOTES}/ListRuns": ("list_runs", SessionCalls.list_runs),
    f"{NOTES}/FailRun": (
        "fail_run",
        lambda session: (session.begin_run("run-2"), session.fail_run("run-2")),
    ),
    f"{NOTES}/RenewRun": (
        "renew_run",
        lambda session: (session.begin_run("run-3"), session.renew_run("run-3")),
    ),
    f"{STATE}/AppendTurns": ("append_turns", lambda session: session.append_turns(2)),
    f"{STATE}/UpdateSession": ("update_session", lambda session: session.update_session(set={"a": CANARY})),
    f"{STATE}/GetSession": ("get_session", lambda session: session.get_session(include_turns=True)),
    f"{STATE}/ListSessions": (
        "scan_sessions",
        lambda session: session.state.ListSessions(ListSessionsRequest(), timeout=10),
    ),
    f"{NOTES}/ListDueSessions": (
        "scan_sessions",
        lambda session: session.notes.ListDueSessions(ListDueSessionsRequest(), timeout=10),
    ),
    f"{STATE}/DeleteSession": ("delete_session", SessionCalls.delete),
}


def call_spans(collector: Collector, name: str, code: int) -> tuple[Span, list[Span]]:
    """Return the newest span of a call with this name and code, and its store operations."""

    def newest() -> Span | None:
        spans = [span for span in collector.spans() if span.name == name]
        return next((span for span in reversed(spans) if span.attributes["rpc.grpc.status_code"] == code), None)

    call = eventually(newest)
    assert call is not None
    return call, [span for span in collector.spans(call.trace) if span.parent == call.id]


@pytest.mark.parametrize("name", CALLS)
def test_call_and_store_operation_are_spans(name: str, session: SessionCalls, collector: Collector) -> None:
    """The spans are nested, follow the conventions for RPC and databases, and have no error."""
    operation, call = CALLS[name]
    if name.endswith("ListSessions"):
        session.append_turns(1)
    call(session)
    span, operations = call_spans(collector, name, 0)
    service, _, method = name.partition("/")
    assert span.kind == SERVER
    assert not span.parent
    assert span.status == UNSET
    assert span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": 0,
    }
    assert operation in {operation.name for operation in operations}
    sizes = [operation.attributes.pop("db.operation.batch.size", 1) for operation in operations]
    # After a batch, single commands may be repeated if the store did not have the script yet.
    assert (3 in sizes) == ("Batch" in name) or "List" in name
    for store_span in operations:
        assert (store_span.kind, store_span.status) == (CLIENT, UNSET)
        assert store_span.attributes == {"db.system.name": "redis", "db.operation.name": store_span.name}
    assert span.resource["service.name"] == "session-notes"
    assert span.resource["telemetry.sdk.name"] == "opentelemetry"
    assert span.resource["service.instance.id"]


def test_trace_continues_from_the_caller(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """The call's span is a child of the span in `traceparent`; other headers are not exported."""
    with new_channel(traced.target) as channel:
        caller = Caller(channel)
        caller.call("SessionNotes/GetNotes", request(session_id), baggage=f"user={CANARY}")
        spans = collector.wait_for(f"{NOTES}/GetNotes", "get_notes", trace=caller.trace)
        assert spans[f"{NOTES}/GetNotes"].parent == caller.span
        assert spans["get_notes"].parent == spans[f"{NOTES}/GetNotes"].id
        assert spans["get_notes"].trace == caller.trace


def test_unsampled_trace(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """The caller decides whether a trace is sampled; an invalid `traceparent` starts a new trace."""
    with new_channel(traced.target) as channel:
        unsampled, broken = Caller(channel, sampled=False), Caller(channel)
        unsampled.call("SessionNotes/GetNotes", request(session_id))
        broken.trace = b"no trace"
        broken.call("SessionState/GetSession", request(session_id))
        sampled = Caller(channel)
        sampled.call("SessionNotes/GetNotes", request(session_id))
        collector.wait_for("get_notes", trace=sampled.trace)
        assert call_spans(collector, f"{STATE}/GetSession", 0)[0].trace
        assert not collector.spans(unsampled.trace)
        assert all(span.parent for span in collector.spans() if span.name == "get_notes"), "an operation without a call"


def test_sampler_overrides_the_caller(collector: Collector, session_id: str) -> None:
    """With OTEL_TRACES_SAMPLER=always_on, all traces are exported."""
    env = EXPORT_SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER": "always_on"}
    with Sidecar(env=env) as sidecar, new_channel(sidecar.target) as channel:
        unsampled = Caller(channel, sampled=False)
        unsampled.call("SessionNotes/GetNotes", request(session_id))
        spans = collector.wait_for(f"{NOTES}/GetNotes", "get_notes", trace=unsampled.trace)
        assert spans[f"{NOTES}/GetNotes"].parent == unsampled.span


def test_rejected_call_is_not_an_error(session: SessionCalls, collector: Collector) -> None:
    """The span of a call with INVALID_ARGUMENT has the code, no error status and no store operation."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        session.get_notes(observer=f"{CANARY} two words")
    span, operations = call_spans(collector, f"{NOTES}/GetNotes", grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert (span.status, operations, span.events) == (UNSET, [], [])


def test_outage_deadline_and_cancellation(collector: Collector) -> None:
    """UNAVAILABLE is an error in both spans, DEADLINE_EXCEEDED in the call's; CANCELLED is not an error."""
    flags = ("--notes-timeout", "2s")
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url, flags=flags, env=EXPORT_SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, new_session_id())
        server.pause()

        def cancel_a_call() -> bool:
            # Repeated, since the caller cannot tell when a call has arrived.
            call = session.notes.GetNotes.future(GetNotesRequest(session_id=session.id), timeout=60)
            with suppress(grpc.FutureTimeoutError):
                call.result(timeout=0.1)
            call.cancel()
            codes = [span.attributes.get("rpc.grpc.status_code") for span in collector.spans()]
            return grpc.StatusCode.CANCELLED.value[0] in codes

        eventually(cancel_a_call)
        span, _ = call_spans(collector, f"{NOTES}/GetNotes", grpc.StatusCode.CANCELLED.value[0])
        assert span.status == UNSET
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            session.get_notes(timeout=0.2)
        span, _ = call_spans(collector, f"{NOTES}/GetNotes", grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
        assert (span.status, span.attributes["error.type"]) == (ERROR, "DEADLINE_EXCEEDED")
        server.resume()
        server.kill()
        with refused(grpc.StatusCode.UNAVAILABLE):
            session.get_notes()
        span, operations = call_spans(collector, f"{NOTES}/GetNotes", grpc.StatusCode.UNAVAILABLE.value[0])
        assert (span.status, span.attributes["error.type"]) == (ERROR, "UNAVAILABLE")
        assert [(operation.status, operation.attributes["error.type"]) for operation in operations] == [
            (ERROR, "StoreUnavailable")
        ]


def test_no_user_data_is_exported(traced: Sidecar, collector: Collector, session: SessionCalls) -> None:
    """Canaries in every request, and in the exception of an internal error, are not exported."""
    for _, call in CALLS.values():
        call(session)
    traced.store.client.hset(traced.store.key(session.id), "o:default", b"\xff" + CANARY.encode())
    try:
        with refused(grpc.StatusCode.INTERNAL):
            session.get_notes()
    finally:
        traced.store.client.delete(traced.store.key(session.id))
    with suppress(grpc.RpcError):
        session.call("SessionNotes/WriteNotes", CANARY.encode())
    for headers in ({"x-user": CANARY}, {"tracestate": f"no {CANARY}"}, {"traceparent": CANARY * 100}):
        Caller(session.channel).call("SessionNotes/GetNotes", request(session.id), **headers)
    span, _ = call_spans(collector, f"{NOTES}/GetNotes", grpc.StatusCode.INTERNAL.value[0])
    assert span.status == ERROR
    assert not span.events
    assert session.id.startswith(f"session-{CANARY}")
    assert collector.exported
    assert b"canary" not in collector.exported
    assert session.id.encode() not in collector.exported


def test_collector_outage_does_not_delay_calls() -> None:
    """Calls stay fast while the collector is down. The log has one line about it, and one once it is back."""
    port = free_port()
    env = EXPORT_SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
    env["OTEL_EXPORTER_OTLP_HEADERS"] = f"api-key={CANARY}"
    with Sidecar(env=env) as sidecar, new_channel(sidecar.target) as channel:
        session, latencies = SessionCalls(channel, new_session_id()), list[float]()
        until = time.monotonic() + 2
        while time.monotonic() < until or "spans cannot" not in sidecar.log:
            began = time.perf_counter()
            session.get_notes(timeout=1)
            latencies.append(time.perf_counter() - began)
        assert sorted(latencies)[len(latencies) // 2] < 0.02
        lines = [line for line in sidecar.log.splitlines() if "export" in line]
        assert len(lines) == 1, lines
        assert "UNAVAILABLE" in lines[0]
        with Collector(port) as collector:
            eventually(lambda: (session.get_notes(), collector.spans())[1], 20)
            eventually(lambda: "spans are exported again" in sidecar.log)
        assert len(sidecar.log.splitlines()) < 10


@pytest.mark.parametrize("http", [False, True], ids=["grpc", "http"])
def test_shutdown_exports_the_last_spans(http: bool) -> None:
    """On SIGTERM the last spans are exported over either protocol, and the exit code is 0."""
    env = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf" if http else "grpc"}
    with (
        Collector(http=http) as collector,
        Sidecar(env=env | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as sidecar,
    ):
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, new_session_id()).get_notes()
        assert not collector.spans()
        assert sidecar.terminate() == 0
        assert {span.name for span in collector.spans()} == {f"{NOTES}/GetNotes", "get_notes"}


def test_shutdown_does_not_wait_for_a_hanging_collector() -> None:
    """With a collector that never responds, the sidecar stops within the grace period, and the exit code is 0."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with Sidecar(env=env, flags=("--grace", "1s")) as sidecar:
            with new_channel(sidecar.target) as channel:
                SessionCalls(channel, new_session_id()).get_notes()
            began = time.monotonic()
            assert sidecar.terminate() == 0
            assert time.monotonic() - began < 4
            assert "could not be exported in time" in sidecar.log
            assert "Traceback" not in sidecar.log


def test_workers_are_separate_instances(collector: Collector) -> None:
    """With --workers, each worker exports spans under its own instance id."""
    env = EXPORT_SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "two-workers"}

    def instances() -> set[str | int]:
        resources = (span.resource for span in collector.spans() if span.resource["service.name"] == "two-workers")
        return {resource["service.instance.id"] for resource in resources}

    with Sidecar(env=env, flags=("--workers", "2")) as sidecar:

        def both_exported() -> bool:
            with new_channel(sidecar.target) as channel:
                # The status does not matter: a new connection may exceed the deadline.
                status_of(SessionCalls(channel, new_session_id()).get_notes)
            return len(instances()) == 2

        eventually(both_exported, 20)


def test_missing_packages(tmp_path: Path) -> None:
    """If a pod's environment enables tracing without the extra `otel`, the sidecar warns and serves."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry'] = None")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": path}
    with Sidecar(env=env) as sidecar, new_channel(sidecar.target) as channel:
        SessionCalls(channel, new_session_id()).get_notes()
        assert "pip install '.[otel]' in a checkout" in sidecar.log


@pytest.mark.parametrize(
    "invalid",
    [
        {"OTEL_EXPORTER_OTLP_TIMEOUT": f"{CANARY}-soon", "OTEL_EXPORTER_OTLP_HEADERS": f"{CANARY} {CANARY}"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
    ],
    ids=["timeout", "protocol"],
)
def test_invalid_variables(invalid: dict[str, str]) -> None:
    """The sidecar serves and warns about an invalid variable, without its value, which may contain a key."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"} | invalid
    with Sidecar(env=env) as sidecar, new_channel(sidecar.target) as channel:
        SessionCalls(channel, new_session_id()).get_notes()
        assert "no traces" in sidecar.log
