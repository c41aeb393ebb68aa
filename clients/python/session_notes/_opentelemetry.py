"""Spans by OpenTelemetry's API: what `_spans` hands out where the application traces.

By the conventions for RPC a call is one span with all its tries. Nothing in a span comes from what anybody said: no
text of an error, no id of a session.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from enum import Enum
    from types import TracebackType

__all__ = ["CallSpan", "SpanContext", "fail", "here", "run_span"]

_TRACER = trace.get_tracer("session_notes")
# The one that the sidecar understands, whatever else the application speaks with others.
_W3C = TraceContextTextMapPropagator()


class CallSpan:
    """One call with all its tries.

    Attributes:
        metadata: What tells the sidecar of it.
    """

    __slots__ = ("_code", "_current", "_span", "metadata")

    def __init__(self, method: str, target: str) -> None:
        name = method.removeprefix("/")
        service, _, rpc = name.partition("/")
        self._span = _TRACER.start_span(
            name,
            kind=SpanKind.CLIENT,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": rpc, **_where(target)},
        )
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span))
        self.metadata = tuple(carrier.items())
        self._code: Enum | None = None
        self._current: AbstractContextManager[object] = _current(self._span)

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        if self._code is not None:
            self._span.set_attribute("rpc.grpc.status_code", self._code.value[0])
        if self._code is None or self._code.value[0]:
            what = self._code.name if self._code else kind.__name__ if kind else ""
            self._span.set_attribute("error.type", what)
            self._span.set_status(StatusCode.ERROR)
        self._current.__exit__(kind, error, traceback)

    def answered(self, code: "Enum") -> None:
        """Notes how a try has ended, by gRPC's status."""
        self._code = code

    def retried(self) -> None:
        """Notes that there is going to be another try."""
        if self._code is not None:
            self._span.add_event("retry", {"rpc.grpc.status_code": self._code.value[0]})
        self._code = None


def here() -> SpanContext | None:
    """The span we are in."""
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


@contextmanager
def run_span(submitters: Iterable[SpanContext]) -> Iterator[None]:
    """The span of a background run."""
    links = [Link(context) for context in submitters]
    with _current(_TRACER.start_span("session_notes.background_run", Context(), links=links)):
        yield


def fail() -> None:
    """Marks the span we are in as failed."""
    trace.get_current_span().set_status(StatusCode.ERROR)


def _current(span: trace.Span) -> AbstractContextManager[object]:
    """Makes it the span we are in, and ends it. By default the text of an exception would be recorded."""
    return trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)


def _where(target: str) -> dict[str, str | int]:
    if target.startswith("unix:"):
        return {"server.address": target.removeprefix("unix:")}
    host, _, port = target.rpartition(":")
    return (
        {"server.address": host, "server.port": int(port)} if host and port.isdecimal() else {"server.address": target}
    )
