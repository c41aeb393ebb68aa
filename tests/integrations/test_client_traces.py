"""Client spans in an application with tracing: calls are part of its trace, and background runs are linked to it."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from session_notes import (
    ActiveRun,
    AsyncActiveRun,
    AsyncBackgroundObserver,
    AsyncObserverClient,
    AsyncPrimaryClient,
    BackgroundObserver,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    Turn,
    Unavailable,
)

from tests.integrations.trace_collector import CLIENT, ERROR, INTERNAL, SERVER, UNSET, Collector, Span
from tests.stores import eventually, free_port
from tests.support import CANARY, SERVICES, Sidecar

NOTES, STATE = SERVICES
TRACER = trace.get_tracer("an application")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector for the spans of this process and of the sidecar."""
    with Collector() as collector:
        provider = TracerProvider(resource=Resource({"service.name": "application"}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.url)))
        trace.set_tracer_provider(provider)
        yield collector
        provider.shutdown()


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Sidecar]:
    """A sidecar that exports its spans to the same collector."""
    env = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with Sidecar(env=env) as sidecar:
        yield sidecar


def only_span(spans: list[Span], name: str, kind: int) -> Span | None:
    """Return the only span of a name and kind; None if it has not been exported."""
    matches = [span for span in spans if (span.name, span.kind) == (name, kind)]
    assert len(matches) < 2, matches
    return matches[0] if matches else None


def wait_for_span(collector: Collector, trace_id: int | bytes, name: str, kind: int) -> Span:
    """Return the only span of a trace, name and kind once it has been exported."""
    return eventually(lambda: only_span(collector.spans(trace_id), name, kind))  # type: ignore[return-value]


def trace_id(span: trace.Span) -> int:
    """Return the id of a span's trace."""
    return span.get_span_context().trace_id


def assert_complete(collector: Collector, turn: trace.Span, target: str) -> None:
    """Check that a trace has the application's span, with the client's, the sidecar's and the store's nested in it."""
    client_span = wait_for_span(collector, trace_id(turn), f"{NOTES}/GetNotes", CLIENT)
    server_span = wait_for_span(collector, trace_id(turn), f"{NOTES}/GetNotes", SERVER)
    store_span = wait_for_span(collector, trace_id(turn), "get_notes", CLIENT)
    assert int.from_bytes(client_span.parent, "big") == turn.get_span_context().span_id
    assert (server_span.parent, store_span.parent) == (client_span.id, server_span.id)
    host, _, port = target.rpartition(":")
    assert client_span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": NOTES,
        "rpc.method": "GetNotes",
        "rpc.grpc.status_code": 0,
        "server.address": host,
        "server.port": int(port),
    }
    assert (client_span.status, client_span.events) == (UNSET, [])
    assert (client_span.resource["service.name"], server_span.resource["service.name"]) == (
        "application",
        "session-notes",
    )


def test_call_is_part_of_the_applications_trace(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """The trace continues from the application to the store without any setup besides OpenTelemetry's."""
    with PrimaryClient(traced.target) as primary, TRACER.start_as_current_span("turn") as turn:
        primary.get_notes(session_id)
    assert_complete(collector, turn, traced.target)


async def test_async_call_is_part_of_the_applications_trace(
    traced: Sidecar, collector: Collector, session_id: str
) -> None:
    """A call from a task is also part of the trace."""
    async with AsyncPrimaryClient(traced.target) as primary:
        with TRACER.start_as_current_span("turn") as turn:
            await primary.get_notes(session_id)
    assert_complete(collector, turn, traced.target)


def test_error(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """A rejected call is an error in the client's span, with its code and without its text."""
    with (
        PrimaryClient(traced.target) as primary,
        TRACER.start_as_current_span("turn") as turn,
        pytest.raises(InvalidArgument),
    ):
        primary.get_notes(session_id, observer=f"{CANARY} two words")
    span = wait_for_span(collector, trace_id(turn), f"{NOTES}/GetNotes", CLIENT)
    assert (span.status, span.attributes["error.type"]) == (ERROR, "INVALID_ARGUMENT")
    assert not span.events
    assert b"canary" not in collector.exported


def test_retries_are_events(collector: Collector, session_id: str) -> None:
    """A call that is retried until its deadline is one span, with an event per retry."""
    with (
        ObserverClient(f"127.0.0.1:{free_port()}", timeout=timedelta(milliseconds=500)) as observer,
        TRACER.start_as_current_span("turn") as turn,
        pytest.raises(Unavailable),
    ):
        observer.begin_run(session_id)
    span = wait_for_span(collector, trace_id(turn), f"{NOTES}/BeginRun", CLIENT)
    assert {event for event, _ in span.events} == {"retry"}
    assert span.events[0][1] == {"rpc.grpc.status_code": 14}
    assert (span.status, span.attributes["rpc.grpc.status_code"]) == (ERROR, 14)


async def test_async_retries_are_events(collector: Collector, session_id: str) -> None:
    """Retries of a call from a task are also events."""
    async with AsyncObserverClient(f"127.0.0.1:{free_port()}", timeout=timedelta(milliseconds=500)) as observer:
        with TRACER.start_as_current_span("turn") as turn, pytest.raises(Unavailable):
            await observer.begin_run(session_id)
    span = wait_for_span(collector, trace_id(turn), f"{NOTES}/BeginRun", CLIENT)
    assert {event for event, _ in span.events} == {"retry"}


async def test_cancelled_call(collector: Collector, session_id: str) -> None:
    """The span of a call whose task is cancelled has the status CANCELLED."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with AsyncPrimaryClient(f"127.0.0.1:{silent.getsockname()[1]}") as primary:
            with TRACER.start_as_current_span("turn") as turn, pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await primary.get_notes(session_id, timeout=timedelta(seconds=20))
    span = wait_for_span(collector, trace_id(turn), f"{NOTES}/GetNotes", CLIENT)
    assert (span.status, span.attributes["error.type"], span.events) == (ERROR, "CANCELLED", [])


def test_background_run_is_linked_to_its_submit(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """A background run and its analysis are a separate trace, linked to the span that submitted it."""
    analysis_spans: list[trace.Span] = []

    def analyse(run: ActiveRun) -> Notes:
        analysis_spans.append(trace.get_current_span())
        return Notes(summary=f"{CANARY}: {len(run.transcript)} turns")

    with PrimaryClient(traced.target) as primary:
        primary.append_turns(session_id, [Turn("user", CANARY)])
    with (
        BackgroundObserver(analyse, brakes=False, target=traced.target) as observer,
        TRACER.start_as_current_span("request") as request,
    ):
        observer.submit(session_id)
    run_trace = trace_id(analysis_spans[0])
    assert run_trace != trace_id(request)
    run = wait_for_span(collector, run_trace, "session_notes.background_run", INTERNAL)
    assert not run.parent
    assert [int.from_bytes(link, "big") for link in run.links] == [request.get_span_context().span_id]
    for name in ("BeginRun", "WriteNotes"):
        assert wait_for_span(collector, run_trace, f"{NOTES}/{name}", CLIENT).parent == run.id
        wait_for_span(collector, run_trace, f"{NOTES}/{name}", SERVER)
    assert run.status == UNSET


async def test_async_background_run_is_linked_to_its_submit(
    traced: Sidecar, collector: Collector, session_id: str
) -> None:
    """The calls and the analysis of a run are one trace, linked to the submit; exceeding the limit is an error."""
    analysis_spans: list[trace.Span] = []

    async def analyse(run: AsyncActiveRun) -> Notes:
        analysis_spans.append(trace.get_current_span())
        if run.number == 2:
            await asyncio.Event().wait()
        return Notes()

    limit = timedelta(milliseconds=200)
    async with AsyncBackgroundObserver(analyse, brakes=False, target=traced.target, time_limit=limit) as observer:
        with TRACER.start_as_current_span("request") as request:
            observer.submit(session_id)
            await asyncio.to_thread(eventually, lambda: analysis_spans)
            observer.submit(session_id)
    for span, last in zip(analysis_spans, ("WriteNotes", "FailRun"), strict=True):
        run = wait_for_span(collector, trace_id(span), "session_notes.background_run", INTERNAL)
        assert [int.from_bytes(link, "big") for link in run.links] == [request.get_span_context().span_id]
        for name in ("BeginRun", last):
            assert wait_for_span(collector, trace_id(span), f"{NOTES}/{name}", CLIENT).parent == run.id
        assert run.status == (UNSET if last == "WriteNotes" else ERROR)


def test_failed_background_run(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """An analysis that raises or exceeds its limit is an error, and FailRun is part of the run's trace."""
    analysis_spans: list[trace.Span] = []
    released = threading.Event()

    def raising(run: ActiveRun) -> Notes:
        analysis_spans.append(trace.get_current_span())
        raise ValueError(CANARY)

    def hanging(run: ActiveRun) -> Notes:
        analysis_spans.append(trace.get_current_span())
        released.wait(20)
        return Notes()

    with BackgroundObserver(raising, brakes=False, target=traced.target) as observer:
        observer.submit(session_id)
    with BackgroundObserver(
        hanging, brakes=False, target=traced.target, time_limit=timedelta(milliseconds=50)
    ) as observer:
        observer.submit(session_id)
        failed = eventually(
            lambda: (
                analysis_spans[1:]
                and only_span(collector.spans(trace_id(analysis_spans[1])), f"{NOTES}/FailRun", CLIENT)
            )
        )
        released.set()
    assert failed
    for span in analysis_spans:
        run = wait_for_span(collector, trace_id(span), "session_notes.background_run", INTERNAL)
        assert (run.status, run.events) == (ERROR, [])
        assert wait_for_span(collector, trace_id(span), f"{NOTES}/FailRun", CLIENT).parent == run.id
    assert b"canary" not in collector.exported


EARLIER = {"rpc.system": "grpc", "rpc.service": NOTES, "rpc.method": "GetNotes", "rpc.grpc.status_code": 3}
STABLE = {
    "rpc.system.name": "grpc",
    "rpc.method": f"{NOTES}/GetNotes",
    "rpc.response.status_code": "INVALID_ARGUMENT",
}


@pytest.mark.parametrize(
    ("opt_in", "expected"),
    [
        ("http,database/dup", EARLIER),
        ("http, rpc", STABLE),
        ("http,rpc/dup", EARLIER | STABLE),
        ("rpc,rpc/dup", EARLIER | STABLE),
    ],
)
def test_stable_names_can_be_selected(opt_in: str, expected: dict[str, str | int], collector: Collector) -> None:
    """OTEL_SEMCONV_STABILITY_OPT_IN selects the attributes of RPCs in the spans of the client and of the sidecar."""
    program = """
import sys
from contextlib import suppress
from datetime import timedelta
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from session_notes import InvalidArgument, PrimaryClient
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(sys.argv[2])))
trace.set_tracer_provider(provider)
with trace.get_tracer("program").start_as_current_span("turn") as turn, PrimaryClient(sys.argv[1]) as primary:
    with suppress(InvalidArgument):
        primary.get_notes("s1", observer="two words", timeout=timedelta(seconds=20))
print(turn.get_span_context().trace_id)
"""
    env = {
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SEMCONV_STABILITY_OPT_IN": opt_in,
    }
    with Sidecar(env=env) as sidecar:
        done = subprocess.run(
            [sys.executable, "-c", program, sidecar.target, collector.url],
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        for kind in (CLIENT, SERVER):
            span = wait_for_span(collector, int(done.stdout), f"{NOTES}/GetNotes", kind)
            assert {name: value for name, value in span.attributes.items() if name.startswith("rpc.")} == expected


def test_opentelemetry_is_not_imported_without_tracing(traced: Sidecar) -> None:
    """In an application without OpenTelemetry, the clients do not import it."""
    program = f"""
import sys
from session_notes import BackgroundObserver, Notes, PrimaryClient
with PrimaryClient({traced.target!r}) as primary:
    primary.get_notes("s1")
with BackgroundObserver(lambda run: Notes(), brakes=False, target={traced.target!r}) as observer:
    observer.submit("s1")
print([name for name in sys.modules if "opentelemetry" in name])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
