"""Metrics of one process: calls, store operations and the event loop's lag."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic, perf_counter
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from session_notes_server.settings import HEALTH_LIVE, EngineName
from session_notes_server.store import OPERATIONS, StoreUnavailable
from session_notes_server.telemetry.metrics.cells import Cells, Histogram, Number
from session_notes_server.telemetry.metrics.families import (
    CODES,
    ENGINE,
    HANDLED,
    HANDLING,
    IN_FLIGHT,
    LAST_TICK,
    LIVE,
    LOOP_LAG,
    METHODS,
    READY,
    REASONS,
    REFUSED,
    STARTED,
    STORE_FAILURES,
    STORE_SECONDS,
    STORE_UP,
    UNKNOWN,
)
from session_notes_server.telemetry.metrics.notes import NotesMetrics

T = TypeVar("T")

LAG_INTERVAL_SECONDS = 0.1


class Metrics:
    """The metrics of one process, for use by the thread of the event loop only.

    A worker continues the counts that the cells hold from a worker that it replaces.
    """

    def __init__(self, cells: Cells) -> None:
        # Calls that were in flight in the replaced process ended with it.
        for (kind,) in IN_FLIGHT.series:
            Number(cells, IN_FLIGHT, kind).set(0.0)
        notes = NotesMetrics(cells)
        self.methods = {
            f"{service}.{name}": MethodMetrics(cells, kind, service, name, notes) for kind, service, name in METHODS
        }
        """Metrics of methods, by full name."""
        self.store = StoreMetrics(cells)
        self.store_up = Number(cells, STORE_UP)
        self._engines = {name: Number(cells, ENGINE, name) for (name,) in ENGINE.series}
        self._health = {HEALTH_LIVE: Number(cells, LIVE), "": Number(cells, READY)}
        self._last_tick = Number(cells, LAST_TICK)
        self._lag = Histogram(cells, LOOP_LAG)
        self._unknown_started = Number(cells, STARTED, *UNKNOWN)
        self._unknown_handled = Number(cells, HANDLED, *UNKNOWN, CODES[grpc.StatusCode.UNIMPLEMENTED])

    def unknown_method(self) -> None:
        """Count a call to a method that does not exist."""
        self._unknown_started.add()
        self._unknown_handled.add()

    def health(self, service: str, *, serving: bool) -> None:
        """Record the health of a service, if probes evaluate it."""
        if number := self._health.get(service):
            number.set(float(serving))

    def serves(self, engine: EngineName) -> None:
        """Record the engine that serves calls."""
        self._engines[engine].set(1.0)

    async def watch_loop(self) -> None:
        """Measure how late the event loop runs its timers, until cancelled."""
        while True:
            self._last_tick.set(monotonic())
            before = perf_counter()
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            self._lag.add(max(0.0, perf_counter() - before - LAG_INTERVAL_SECONDS))


class StoreMetrics:
    """Durations and failures of the store's operations. Implements `store.Instrumentation`."""

    def __init__(self, cells: Cells) -> None:
        self._seconds = {operation: Histogram(cells, STORE_SECONDS, operation) for operation in OPERATIONS}
        self._failures = {operation: Number(cells, STORE_FAILURES, operation) for operation in OPERATIONS}

    async def instrument(self, name: str, work: Coroutine[Any, Any, T], *, batch_size: int = 1) -> T:
        """Await an operation, and record its duration, refusals included. An outage counts as a failure instead."""
        began = perf_counter()
        try:
            result = await work
        except StoreUnavailable:
            self._failures[name].add()
            raise
        except Exception:
            self._seconds[name].add(perf_counter() - began)
            raise
        self._seconds[name].add(perf_counter() - began)
        return result


class MethodMetrics:
    """Metrics of one method's calls. Its kind is the label `grpc_type`."""

    __slots__ = ("_content", "_handled", "_in_flight", "_ok", "_refused", "_seconds", "_started")

    def __init__(self, cells: Cells, kind: str, service: str, name: str, notes: NotesMetrics) -> None:
        self._started = Number(cells, STARTED, kind, service, name)
        self._handled = {code: Number(cells, HANDLED, kind, service, name, text) for code, text in CODES.items()}
        self._ok = self._handled[grpc.StatusCode.OK]
        self._seconds = Histogram(cells, HANDLING, kind, service, name)
        self._in_flight = Number(cells, IN_FLIGHT, kind)
        self._refused = {reason: Number(cells, REFUSED, reason) for reason in REASONS}
        self._content = notes.by_method.get(f"{service}.{name}")

    def began(self) -> None:
        """Count a call in flight."""
        self._started.add()
        self._in_flight.add()

    def ended(
        self,
        seconds: float,
        code: grpc.StatusCode,
        reason: str | None,
        request: Message | None,
        response: Message | None,
    ) -> None:
        """Count the end of a call, and the notes and runs in its request and response."""
        self._in_flight.add(-1.0)
        # Looking up an enum member takes longer than counting, and most calls end in OK.
        (self._ok if code is grpc.StatusCode.OK else self._handled[code]).add()
        self._seconds.add(seconds)
        if reason is not None:
            self._refused[reason].add()
        if self._content is not None and request is not None:
            self._content(request, response, code)
