"""What an application that traces sees of our clients: each call a span of its trace, background runs linked to it."""

import asyncio
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

from tests.integrations.collector import CLIENT, ERROR, INTERNAL, SERVER, UNSET, Collector, Span
from tests.stores import eventually, free_port
from tests.support import CANARY, SERVICES, Sidecar

NOTES, STATE = SERVICES
TRACER = trace.get_tracer("an application")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Gets the spans of this process, and those of the sidecar."""
    with Collector() as collector:
        provider = TracerProvider(resource=Resource({"service.name": "application"}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.url)))
        trace.set_tracer_provider(provider)
        yield collector
        provider.shutdown()


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Sidecar]:
    """A sidecar that traces to the same collector."""
    env = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with Sidecar(env=env) as sidecar:
        yield sidecar


def one(spans: list[Span], name: str, kind: int) -> Span | None:
    """The only span of that name and kind, where it is there."""
    found = [span for span in spans if (span.name, span.kind) == (name, kind)]
    assert len(found) < 2, found
    return found[0] if found else None


def the(collector: Collector, trace_id: int | bytes, name: str, kind: int) -> Span:
    """The only span of that trace, name and kind, as soon as it is there."""
    return eventually(lambda: one(collector.spans(trace_id), name, kind))  # type: ignore[return-value]


def trace_id(span: trace.Span) -> int:
    """Of which trace it is."""
    return span.get_span_context().trace_id


def is_whole(collector: Collector, turn: trace.Span, target: str) -> None:
    """One trace: the application's span, ours in it, the sidecar's in that, and the store's in that."""
    ours = the(collector, trace_id(turn), f"{NOTES}/GetNotes", CLIENT)
    theirs = the(collector, trace_id(turn), f"{NOTES}/GetNotes", SERVER)
    stores = the(collector, trace_id(turn), "get_notes", CLIENT)
    assert int.from_bytes(ours.parent, "big") == turn.get_span_context().span_id
    assert (theirs.parent, stores.parent) == (ours.id, theirs.id)
    host, _, port = target.rpartition(":")
    assert ours.attributes == {
        "rpc.system": "grpc",
        "rpc.service": NOTES,
        "rpc.method": "GetNotes",
        "rpc.grpc.status_code": 0,
        "server.address": host,
        "server.port": int(port),
    }
    assert (ours.status, ours.events) == (UNSET, [])
    assert (ours.resource["service.name"], theirs.resource["service.name"]) == ("application", "session-notes")


def test_a_call_is_part_of_the_applications_trace(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """From the application's span to the store's, with nothing done for it but to set up OpenTelemetry."""
    with PrimaryClient(traced.target) as primary, TRACER.start_as_current_span("turn") as turn:
        primary.get_notes(session_id)
    is_whole(collector, turn, traced.target)


async def test_so_is_one_of_asyncio(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """The same from a task."""
    async with AsyncPrimaryClient(traced.target) as primary:
        with TRACER.start_as_current_span("turn") as turn:
            await primary.get_notes(session_id)
    is_whole(collector, turn, traced.target)


def test_an_error_is_one(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """A refusal is an error of the caller's, by its code and without its text."""
    with (
        PrimaryClient(traced.target) as primary,
        TRACER.start_as_current_span("turn") as turn,
        pytest.raises(InvalidArgument),
    ):
        primary.get_notes(session_id, observer=f"{CANARY} two words")
    span = the(collector, trace_id(turn), f"{NOTES}/GetNotes", CLIENT)
    assert (span.status, span.attributes["error.type"]) == (ERROR, "INVALID_ARGUMENT")
    assert not span.events
    assert b"canary" not in collector.exported


def test_retries_are_events_of_one_span(collector: Collector, session_id: str) -> None:
    """A call that is tried until its deadline is one span, as long as all of it, with an event for each retry."""
    with (
        ObserverClient(f"127.0.0.1:{free_port()}", timeout=timedelta(milliseconds=500)) as observer,
        TRACER.start_as_current_span("turn") as turn,
        pytest.raises(Unavailable),
    ):
        observer.begin_run(session_id)
    span = the(collector, trace_id(turn), f"{NOTES}/BeginRun", CLIENT)
    assert {event for event, _ in span.events} == {"retry"}
    assert span.events[0][1] == {"rpc.grpc.status_code": 14}
    assert (span.status, span.attributes["rpc.grpc.status_code"]) == (ERROR, 14)


async def test_retries_of_asyncio_are_too(collector: Collector, session_id: str) -> None:
    """The same from a task."""
    async with AsyncObserverClient(f"127.0.0.1:{free_port()}", timeout=timedelta(milliseconds=500)) as observer:
        with TRACER.start_as_current_span("turn") as turn, pytest.raises(Unavailable):
            await observer.begin_run(session_id)
    span = the(collector, trace_id(turn), f"{NOTES}/BeginRun", CLIENT)
    assert {event for event, _ in span.events} == {"retry"}


async def test_a_call_given_up_is_cancelled(collector: Collector, session_id: str) -> None:
    """A task that is cancelled during its call leaves a span that says so."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with AsyncPrimaryClient(f"127.0.0.1:{silent.getsockname()[1]}") as primary:
            with TRACER.start_as_current_span("turn") as turn, pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await primary.get_notes(session_id, timeout=timedelta(seconds=20))
    span = the(collector, trace_id(turn), f"{NOTES}/GetNotes", CLIENT)
    assert (span.status, span.attributes["error.type"], span.events) == (ERROR, "CANCELLED", [])


def test_a_background_run_is_linked_to_its_submits(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """A trace of its own, which the analysis is part of, linked to whatever submitted it."""
    seen: list[trace.Span] = []

    def analyse(run: ActiveRun) -> Notes:
        seen.append(trace.get_current_span())
        return Notes(summary=f"{CANARY}: {len(run.transcript)} turns")

    with PrimaryClient(traced.target) as primary:
        primary.append_turns(session_id, [Turn("user", CANARY)])
    with (
        BackgroundObserver(analyse, target=traced.target) as observer,
        TRACER.start_as_current_span("request") as request,
    ):
        observer.submit(session_id)
    of_run = trace_id(seen[0])
    assert of_run != trace_id(request)
    run = the(collector, of_run, "session_notes.background_run", INTERNAL)
    assert not run.parent
    assert [int.from_bytes(link, "big") for link in run.links] == [request.get_span_context().span_id]
    for name in ("BeginRun", "WriteNotes"):
        assert the(collector, of_run, f"{NOTES}/{name}", CLIENT).parent == run.id
        the(collector, of_run, f"{NOTES}/{name}", SERVER)
    assert run.status == UNSET


async def test_so_is_one_of_asyncio_in_the_background(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """Its calls and its analysis are part of one trace, linked to the submit; an overrun is an error."""
    seen: list[trace.Span] = []

    async def analyse(run: AsyncActiveRun) -> Notes:
        seen.append(trace.get_current_span())
        if run.number == 2:
            await asyncio.Event().wait()
        return Notes()

    limit = timedelta(milliseconds=200)
    async with AsyncBackgroundObserver(analyse, target=traced.target, time_limit=limit) as observer:
        with TRACER.start_as_current_span("request") as request:
            observer.submit(session_id)
            await asyncio.to_thread(eventually, lambda: seen)
            observer.submit(session_id)
    for span, last in zip(seen, ("WriteNotes", "FailRun"), strict=True):
        run = the(collector, trace_id(span), "session_notes.background_run", INTERNAL)
        assert [int.from_bytes(link, "big") for link in run.links] == [request.get_span_context().span_id]
        for name in ("BeginRun", last):
            assert the(collector, trace_id(span), f"{NOTES}/{name}", CLIENT).parent == run.id
        assert run.status == (UNSET if last == "WriteNotes" else ERROR)


def test_a_background_run_that_fails_is_an_error(traced: Sidecar, collector: Collector, session_id: str) -> None:
    """Whether its analysis raises or overruns; FailRun, which then comes from another thread, is part of its trace."""
    seen: list[trace.Span] = []
    may_go = threading.Event()

    def raising(run: ActiveRun) -> Notes:
        seen.append(trace.get_current_span())
        raise ValueError(CANARY)

    def hanging(run: ActiveRun) -> Notes:
        seen.append(trace.get_current_span())
        may_go.wait(20)
        return Notes()

    with BackgroundObserver(raising, target=traced.target) as observer:
        observer.submit(session_id)
    with BackgroundObserver(hanging, target=traced.target, time_limit=timedelta(milliseconds=50)) as observer:
        observer.submit(session_id)
        failed = eventually(lambda: seen[1:] and one(collector.spans(trace_id(seen[1])), f"{NOTES}/FailRun", CLIENT))
        may_go.set()
    assert failed
    for span in seen:
        run = the(collector, trace_id(span), "session_notes.background_run", INTERNAL)
        assert (run.status, run.events) == (ERROR, [])
        assert the(collector, trace_id(span), f"{NOTES}/FailRun", CLIENT).parent == run.id
    assert b"canary" not in collector.exported


def test_nothing_is_imported_for_those_who_do_not_trace(traced: Sidecar) -> None:
    """An application without OpenTelemetry calls, and still has none of it."""
    program = f"""
import sys
from session_notes import BackgroundObserver, Notes, PrimaryClient
with PrimaryClient({traced.target!r}) as primary:
    primary.get_notes("s1")
with BackgroundObserver(lambda run: Notes(), target={traced.target!r}) as observer:
    observer.submit("s1")
print([name for name in sys.modules if "opentelemetry" in name])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
