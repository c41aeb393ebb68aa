"""Telemetry of calls. Every call is reported to one object, for metrics, traces and the call log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import Message

from session_notes_server.store import Instrumentation
from session_notes_server.telemetry.call_log import log_call
from session_notes_server.telemetry.metrics.counting import Metrics

if TYPE_CHECKING:
    from session_notes_server.telemetry.tracing.traces import CallSpan, Traces

    ObservedCall: TypeAlias = tuple[float, CallSpan | None]


class Telemetry:
    """Telemetry of one process of the sidecar. Metrics and traces are optional."""

    def __init__(self, metrics: Metrics | None = None, traces: Traces | None = None) -> None:
        self._metrics = metrics
        self._traces = traces
        self.store_operations: Instrumentation | None = metrics.store if metrics is not None else None
        """Instrumentation for the store's operations."""
        self.store_scripts: Instrumentation | None = traces.store if traces is not None else None
        """Instrumentation for the scripts of these operations."""

    def method(self, name: str, *, traced: bool = True) -> MethodTelemetry:
        """Return the telemetry of a method, given by its full name. Its calls have spans only if `traced`."""
        return MethodTelemetry(name, self._metrics, self._traces if traced else None)

    def unknown_method(self) -> None:
        """Report a call to a method that does not exist."""
        if self._metrics is not None:
            self._metrics.unknown_method()

    def health(self, service: str, *, serving: bool) -> None:
        """Report the health of a service."""
        if self._metrics is not None:
            self._metrics.health(service, serving=serving)

    def store_up(self, *, up: bool) -> None:
        """Report whether the store can be used."""
        if self._metrics is not None:
            self._metrics.store_up.set(float(up))


class MethodTelemetry:
    """Telemetry of one method's calls."""

    __slots__ = ("_metrics", "_name", "_spans")

    def __init__(self, name: str, metrics: Metrics | None, traces: Traces | None) -> None:
        self._name = name
        self._metrics = metrics.methods.get(name) if metrics is not None else None
        self._spans = traces.of_method(name) if traces is not None else None

    def begin(self, context: grpc.aio.ServicerContext[Any, Any]) -> ObservedCall:
        """Report the start of a call, and return its state for `end`. Both must run in the call's task."""
        if self._metrics is not None:
            self._metrics.began()
        return perf_counter(), self._spans.begin(context) if self._spans is not None else None

    def end(
        self,
        call: ObservedCall,
        code: grpc.StatusCode,
        reason: str | None = None,
        *,
        request: Message | None = None,
        response: Message | None = None,
    ) -> None:
        """Report the end of a call. For an error of the contract, `reason` is the name of its ErrorReason."""
        began, span = call
        seconds = perf_counter() - began
        if self._metrics is not None:
            self._metrics.ended(seconds, code, reason, request, response)
        if span is not None:
            span.end(code)
        log_call(self._name, code, seconds)

    @contextmanager
    def around(self, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Report a call that lasts as long as the block, with the status in its context."""
        call, code = self.begin(context), grpc.StatusCode.OK
        try:
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            code = context.code() or grpc.StatusCode.UNKNOWN  # type: ignore[unreachable]  # It is None until it is set.
            raise
        finally:
            self.end(call, code)
