"""How a process counts: what the parts of the sidecar tell, each in its own words."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import grpc

from session_notes_server.store import OPERATIONS, StoreUnavailable
from session_notes_server.telemetry.metrics.cells import Cells, Histogram, Number
from session_notes_server.telemetry.metrics.families import (
    CODES,
    HANDLED,
    HANDLING,
    IN_FLIGHT,
    LOOP_LAG,
    METHODS,
    OUTCOMES,
    READ_AGE,
    READ_DRIFT,
    READINESS,
    READS,
    REASONS,
    REFUSED,
    RUNS_AT_WORK,
    RUNS_BEGUN,
    RUNS_ENDED,
    STARTED,
    STORE_FAILURES,
    STORE_SECONDS,
    STORE_UP,
    UNKNOWN,
    WRITES,
)

T = TypeVar("T")

LAG_EVERY_SECONDS = 0.1


class Metrics:
    """What one process counts of itself. To be used by the event loop's thread alone.

    Args:
        cells: Where the numbers go; they may hold those of a process that was here before.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        number, histogram = partial(Number, cells), partial(Histogram, cells)
        self.methods = {
            f"{service}.{name}": MethodMetrics(cells, kind, service, name) for kind, service, name in METHODS
        }
        """By full name."""
        self.store = StoreMetrics(cells)
        self.store_up = number(STORE_UP)
        self.reads = {
            (known, fresh): number(READS, READINESS[known], str(fresh).lower())
            for known in READINESS
            for fresh in (False, True)
            if (READINESS[known], str(fresh).lower()) in READS.series
        }
        """By the contract's Readiness, and whether the notes were fresh."""
        self.read_age, self.read_drift = histogram(READ_AGE), histogram(READ_DRIFT)
        self.writes = {outcome: number(WRITES, text) for outcome, text in OUTCOMES.items()}
        """By the contract's WriteOutcome."""
        self.runs_begun, self.runs_at_work = number(RUNS_BEGUN), number(RUNS_AT_WORK)
        self.runs_written, self.runs_superseded, self.runs_failed = (
            number(RUNS_ENDED, how) for how in ("written", "superseded", "failed")
        )
        self._lag = histogram(LOOP_LAG)
        # Nothing is under way of what somebody counted here before.
        self.runs_at_work.set(0.0)
        for (kind,) in IN_FLIGHT.series:
            number(IN_FLIGHT, kind).set(0.0)

    def unknown_methods(self) -> grpc.GenericRpcHandler:
        """What gRPC asks last about a method: it counts those that are nobody's, and has an answer for none."""
        return _Unknown(self._cells)

    async def watch_loop(self) -> None:
        """See how late the event loop is, for ever."""
        while True:
            before = perf_counter()
            await asyncio.sleep(LAG_EVERY_SECONDS)
            self._lag.add(max(0.0, perf_counter() - before - LAG_EVERY_SECONDS))


class StoreMetrics:
    """Durations and failures of the store's operations. Implements `store.Instrumentation`."""

    def __init__(self, cells: Cells) -> None:
        self._seconds = {operation: Histogram(cells, STORE_SECONDS, operation) for operation in OPERATIONS}
        self._failures = {operation: Number(cells, STORE_FAILURES, operation) for operation in OPERATIONS}

    async def instrument(self, name: str, work: Coroutine[Any, Any, T], *, batch_size: int = 1) -> T:
        """Await an operation, and count how long it takes. A refusal counts as an answer, an outage as a failure."""
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
    """What is counted of the calls of one method."""

    __slots__ = ("_handled", "_in_flight", "_ok", "_refused", "_seconds", "_started")

    def __init__(self, cells: Cells, kind: str, service: str, name: str) -> None:
        self._started = Number(cells, STARTED, kind, service, name)
        self._handled = {code: Number(cells, HANDLED, kind, service, name, text) for code, text in CODES.items()}
        self._ok = self._handled[grpc.StatusCode.OK]
        self._seconds = Histogram(cells, HANDLING, kind, service, name)
        self._in_flight = Number(cells, IN_FLIGHT, kind)
        self._refused = {reason: Number(cells, REFUSED, reason) for reason in REASONS}

    def began(self) -> None:
        """A call is there."""
        self._started.add()
        self._in_flight.add()

    def ended(self, seconds: float, code: grpc.StatusCode, reason: str | None) -> None:
        """It has ended after so long, in an error of the contract for a reason of the contract."""
        self._in_flight.add(-1.0)
        # Most are, and to find a number by an Enum takes longer than to count.
        (self._ok if code is grpc.StatusCode.OK else self._handled[code]).add()
        self._seconds.add(seconds)
        if reason is not None:
            self._refused[reason].add()


class _Unknown(grpc.GenericRpcHandler):
    def __init__(self, cells: Cells) -> None:
        self._started = Number(cells, STARTED, *UNKNOWN)
        self._handled = Number(cells, HANDLED, *UNKNOWN, CODES[grpc.StatusCode.UNIMPLEMENTED])

    def service(self, _: grpc.HandlerCallDetails) -> None:
        self._started.add()
        self._handled.add()
