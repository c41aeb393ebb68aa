"""Spans created with OpenTelemetry's API, which `_spans` uses if the application traces.

Following the semantic conventions for RPC, a call is one span with all its attempts. Spans contain no user data: no
error text, and no session id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from session_notes._rpc_attributes import method_attributes, status_attributes

if TYPE_CHECKING:
    from enum import Enum
    from types import TracebackType

__all__ = ["CallSpan", "SpanContext", "current_span", "mark_failed", "run_span"]

_TRACER = trace.get_tracer("session_notes")
# The format that the sidecar reads, whatever else the application has configured.
_W3C = TraceContextTextMapPropagator()


class CallSpan:
    """The span of one call with all its attempts.

    Attributes:
        metadata: Metadata that links the sidecar's span to this one.
    """

    __slots__ = ("_code", "_current", "_span", "metadata")

    def __init__(self, method: str, target: str) -> None:
        name = method.removeprefix("/")
        service, _, rpc = name.partition("/")
        self._span = _TRACER.start_span(
            name,
            kind=SpanKind.CLIENT,
            attributes={**method_attributes(service, rpc), **_server_attributes(target)},
        )
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span))
        self.metadata = tuple(carrier.items())
        self._code: Enum | None = None
        self._current: AbstractContextManager[object] = _as_current(self._span)

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._code is not None:
            self._span.set_attributes(status_attributes(self._code))
        if self._code is None or self._code.value[0]:
            error_type = self._code.name if self._code else kind.__name__ if kind else ""
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(StatusCode.ERROR)
        self._current.__exit__(kind, error, traceback)

    def record_status(self, code: Enum) -> None:
        """Record the gRPC status of an attempt."""
        self._code = code

    def record_retry(self) -> None:
        """Record that another attempt follows."""
        if self._code is not None:
            self._span.add_event("retry", status_attributes(self._code))
        self._code = None


def current_span() -> SpanContext | None:
    """Return the current span."""
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


@contextmanager
def run_span(submitters: Iterable[SpanContext]) -> Iterator[None]:
    """Enclose a background run in its span."""
    links = [Link(context) for context in submitters]
    with _as_current(_TRACER.start_span("session_notes.background_run", Context(), links=links)):
        yield


def mark_failed() -> None:
    """Set the status of the current span to error."""
    trace.get_current_span().set_status(StatusCode.ERROR)


def _as_current(span: trace.Span) -> AbstractContextManager[object]:
    """Make a span the current one, and end it afterwards. Exceptions are not recorded, as their text is user data."""
    return trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)


def _server_attributes(target: str) -> dict[str, str | int]:
    if target.startswith("unix:"):
        return {"server.address": target.removeprefix("unix:")}
    host, _, port = target.rpartition(":")
    return (
        {"server.address": host, "server.port": int(port)} if host and port.isdecimal() else {"server.address": target}
    )
