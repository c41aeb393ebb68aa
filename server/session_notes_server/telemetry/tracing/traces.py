"""Spans: one per call, and one per script that the store runs for it.

opentelemetry-instrumentation-grpc is not used. Its server interceptor for grpc.aio (0.66b2) records every exception as
an event with its text and stack, even for calls that are merely rejected. It copies messages into the span's status,
and breaks handlers that write to their context, as health's Watch does.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import grpc
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from session_notes._rpc_attributes import method_attributes, status_attributes

from session_notes_server.telemetry.tracing.export import Export

T = TypeVar("T")

# Statuses that are the sidecar's fault. It returns DEADLINE_EXCEEDED only for a request that arrives too slowly.
_SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_W3C = TraceContextTextMapPropagator()
# The only headers that are read: baggage may name a user.
_HEADERS = frozenset(_W3C.fields)
# Where few traces are sampled, most calls match this. The SDK takes 20 times as long to decide.
_UNSAMPLED = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][02468ace]")
_ROOT = Context()


class Traces:
    """The spans of a process, and their export.

    Attributes:
        store: Makes the spans of scripts.
    """

    def __init__(self) -> None:
        self._export = Export()
        self._tracer = self._export.provider.get_tracer("session_notes_server", version("session-notes"))
        self.store = StoreSpans(self._tracer)
        # True by default. OTEL_TRACES_SAMPLER can select another sampler.
        self._follows_callers = isinstance(self._export.provider.sampler, ParentBased)

    async def flush(self, seconds: float) -> None:
        """Export pending spans within a time limit, and none afterwards."""
        await self._export.flush(seconds)

    def of_method(self, name: str) -> MethodSpans:
        """Return the maker of a method's spans, given its full name."""
        return MethodSpans(self._tracer, name, follows_callers=self._follows_callers)


class MethodSpans:
    """Spans of one method's calls. With `follows_callers`, a call that its caller does not sample has no span."""

    def __init__(self, tracer: Tracer, name: str, *, follows_callers: bool) -> None:
        service, _, method = name.rpartition(".")
        attributes = method_attributes(service, method)
        self._start = partial(tracer.start_span, f"{service}/{method}", kind=SpanKind.SERVER, attributes=attributes)
        self._follows_callers = follows_callers

    def begin(self, context: grpc.aio.ServicerContext[Any, Any]) -> CallSpan | None:
        """Start the span of a call and make it current, or return None if the call is not sampled."""
        headers = {key: str(value) for key, value in context.invocation_metadata() or () if key in _HEADERS}
        if self._follows_callers and _UNSAMPLED.fullmatch(headers.get("traceparent", "")):
            return None
        span = self._start(_W3C.extract(headers, _ROOT))
        return CallSpan(span, context) if span.is_recording() else None


class CallSpan:
    """The span of a call, current until it ends."""

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._span = span
        self._context = context
        self._token = attach(set_span_in_context(span, _ROOT))

    def end(self, code: grpc.StatusCode) -> None:
        """End the span with the call's status. Must run in the task that began it."""
        detach(self._token)
        # The engine cancels a call whose deadline passes. Unlike a request timeout, this counts as the sidecar's fault.
        deadline_passed = code is grpc.StatusCode.CANCELLED and self._context.time_remaining() == 0
        if deadline_passed:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        self._span.set_attributes(status_attributes(code))
        if deadline_passed or code in _SERVER_ERRORS:
            self._span.set_attribute("error.type", code.name)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class StoreSpans:
    """Spans around the store's scripts. Implements `store.Instrumentation`.

    A script has a span only within a recorded span of a call. The sidecar's own work belongs to no trace.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def instrument(self, name: str, work: Coroutine[Any, Any, T], *, batch_size: int = 1) -> T:
        """Await a script, within a span if the current one is recorded."""
        if not get_current_span().is_recording():
            return await work
        # `redis` for Valkey as well: it speaks the same protocol, and the conventions have no name for it.
        attributes: dict[str, str | int] = {"db.system.name": "redis", "db.operation.name": name}
        if batch_size > 1:
            attributes["db.operation.batch.size"] = batch_size
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        try:
            return await work
        except Exception as error:
            # Not the text, in which Redis may quote a part of the command.
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()
