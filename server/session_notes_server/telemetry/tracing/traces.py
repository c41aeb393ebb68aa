"""Spans: one per call, and one per store operation within it.

opentelemetry-instrumentation-grpc is not used. Its server interceptor for grpc.aio (0.66b2) records every exception as
an event with its text and stack, even for calls that are merely rejected. It copies messages into the span's status. And
it breaks handlers that write to their context, as health's Watch does.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import grpc
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from session_notes_server.store import Executor, RedisTarget, ScanPosition
from session_notes_server.store.scripts import Script
from session_notes_server.telemetry.tracing.export import Export

T = TypeVar("T")

# With these codes the sidecar is at fault; with all others, the caller.
_SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_W3C = TraceContextTextMapPropagator()
# The only headers that are read: baggage may name a user.
_HEADERS = frozenset(_W3C.fields)
# Where few traces are sampled, most calls match this. The SDK takes 20 times as long to find out.
_UNSAMPLED = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][02468ace]")
_ROOT = Context()


class Traces:
    """Makes the spans of a process, and exports them.

    Attributes:
        executor: Makes what `Executor` does, with a span for each operation of a call that has one.
    """

    def __init__(self) -> None:
        self._export = Export()
        self._tracer = self._export.provider.get_tracer("session_notes_server", version("session-notes"))
        self.executor = partial(TracedExecutor, self._tracer)
        # By default (OTEL_TRACES_SAMPLER) a call is sampled only if its caller samples it.
        self._follows_callers = isinstance(self._export.provider.sampler, ParentBased)

    async def flush(self, seconds: float) -> None:
        """Export pending spans within a time limit, and none afterwards."""
        await self._export.flush(seconds)

    def of_method(self, name: str) -> MethodSpans:
        """Return the maker of a method's spans, given its full name."""
        return MethodSpans(self._tracer, name, follows_callers=self._follows_callers)


class MethodSpans:
    """Makes a span for each call of one method.

    Args:
        tracer: Makes spans.
        name: The method's full name.
        follows_callers: Whether a call that its caller does not sample gets no span.
    """

    def __init__(self, tracer: Tracer, name: str, *, follows_callers: bool) -> None:
        service, _, method = name.rpartition(".")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
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
    """The span of a call, current until it ends.

    Args:
        span: The span.
        context: The call.
    """

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._span = span
        self._context = context
        self._token = attach(set_span_in_context(span, _ROOT))

    def end(self, code: grpc.StatusCode) -> None:
        """End the span with the call's status. Must run in the task that began it."""
        detach(self._token)
        if code is grpc.StatusCode.CANCELLED and self._context.time_remaining() == 0:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code in _SERVER_ERRORS:
            self._span.set_attribute("error.type", code.name)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class TracedExecutor(Executor):
    """Runs scripts as `Executor` does, with a span around each operation.

    Only within the span of a call that is recorded: what the sidecar does for itself is nobody's trace.
    """

    def __init__(self, tracer: Tracer, target: RedisTarget, **options: Any) -> None:
        super().__init__(target, **options)
        self._tracer = tracer

    async def run(self, script: Script, session_id: str, *arguments: Any) -> list[Any]:  # noqa: D102
        return await self._traced(script.name, super().run(script, session_id, *arguments))

    async def run_many(  # noqa: D102
        self, script: Script, calls: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[Any]]:
        batch = {"db.operation.batch.size": len(calls)} if len(calls) > 1 else {}
        return await self._traced(script.name, super().run_many(script, calls), batch)

    async def scan(self, place: ScanPosition | None, count: int) -> tuple[list[str], ScanPosition | None]:  # noqa: D102
        return await self._traced("scan_sessions", super().scan(place, count))

    async def _traced(self, name: str, operation: Coroutine[Any, Any, T], more: Mapping[str, int] | None = None) -> T:
        if not get_current_span().is_recording():
            return await operation
        # `redis`, for Valkey too: it speaks the same language, and the conventions have no name for it.
        attributes: dict[str, str | int] = {"db.system.name": "redis", "db.operation.name": name, **(more or {})}
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        try:
            return await operation
        except Exception as error:
            # Its name alone: its text may hold what Redis repeats of a command.
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()
