"""Metrics of notes and runs, derived from requests and responses: readings, writes, and runs in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from grpc import StatusCode
from session_notes.v1.notes_pb2 import RunState
from session_notes.v1.session_notes_pb2 import Readiness, WriteOutcome

from session_notes_server.contract import DEFAULT_LEASE, DEFAULT_OBSERVER
from session_notes_server.telemetry.metrics.cells import Cells, Histogram, Number
from session_notes_server.telemetry.metrics.families import (
    OUTCOMES,
    READ_AGE,
    READ_DRIFT,
    READINESS,
    READS,
    RUNS_AT_WORK,
    RUNS_BEGUN,
    RUNS_ENDED,
    WRITES,
)

MAX_RUNS = 100_000
"""Maximum number of runs in flight that are tracked, in about 30 MB."""

_READY = Readiness.READINESS_READY
_NO_LONGER_IN_FLIGHT = {StatusCode.ALREADY_EXISTS, StatusCode.FAILED_PRECONDITION}
"""Statuses of WriteNotes, FailRun and RenewRun that mean that the run has already ended."""


class NotesMetrics:
    """Metrics of the notes and runs that calls read and write."""

    def __init__(self, cells: Cells) -> None:
        number, histogram = partial(Number, cells), partial(Histogram, cells)
        self._reads = {
            (readiness, fresh): number(READS, name, str(fresh).lower())
            for readiness, name in READINESS.items()
            for fresh in (False, True)
            if (name, str(fresh).lower()) in READS.series
        }
        self._age, self._drift = histogram(READ_AGE), histogram(READ_DRIFT)
        self._writes = {outcome: number(WRITES, name) for outcome, name in OUTCOMES.items()}
        self._written, self._superseded, self._failed = (
            number(RUNS_ENDED, how) for how in ("written", "superseded", "failed")
        )
        self._runs = _RunsInFlight(number(RUNS_BEGUN), number(RUNS_AT_WORK))
        self.by_method: dict[str, Callable[[Any, Any, StatusCode], None]] = {
            "session_notes.v1.SessionNotes.GetNotes": self._get_notes,
            "session_notes.v1.SessionNotes.BatchGetNotes": self._batch_get_notes,
            "session_notes.v1.SessionNotes.BeginRun": self._begin_run,
            "session_notes.v1.SessionNotes.WriteNotes": self._write_notes,
            "session_notes.v1.SessionNotes.FailRun": self._fail_run,
            "session_notes.v1.SessionNotes.RenewRun": self._renew_run,
        }
        """Functions that count an ended call by its request, its response (None on error) and its status."""

    def _get_notes(self, _: Any, response: Any, __: StatusCode) -> None:
        if response is not None:
            self._read(response)

    def _batch_get_notes(self, _: Any, response: Any, __: StatusCode) -> None:
        if response is not None:
            for reading in response.responses:
                self._read(reading)

    def _begin_run(self, request: Any, response: Any, _: StatusCode) -> None:
        if response is not None and response.started and response.run.state == RunState.RUN_STATE_RUNNING:
            self._runs.begin(_key(request, response.run.run_id), _lease_seconds(request))

    def _write_notes(self, request: Any, response: Any, code: StatusCode) -> None:
        if response is None:
            self._end_if_over(request, code)
            return
        self._writes[response.outcome].add()
        if response.outcome == WriteOutcome.WRITE_OUTCOME_ACCEPTED:
            self._written.add()
        elif response.outcome == WriteOutcome.WRITE_OUTCOME_SUPERSEDED:
            self._superseded.add()
        self._runs.end(_key(request, response.run.run_id))

    def _fail_run(self, request: Any, response: Any, code: StatusCode) -> None:
        if response is None:
            self._end_if_over(request, code)
            return
        self._failed.add()
        self._runs.end(_key(request, response.run.run_id))

    def _renew_run(self, request: Any, response: Any, code: StatusCode) -> None:
        if response is None:
            self._end_if_over(request, code)
        elif response.run.state == RunState.RUN_STATE_RUNNING:
            self._runs.renew(_key(request, request.run_id), _lease_seconds(request))

    def _end_if_over(self, request: Any, code: StatusCode) -> None:
        if code in _NO_LONGER_IN_FLIGHT:
            self._runs.end(_key(request, request.run_id))

    def _read(self, response: Any) -> None:
        readiness = response.readiness
        self._reads[readiness, response.fresh].add()
        if readiness == _READY:
            age = response.age
            self._age.add(age.seconds + age.nanos / 1e9)
            if response.HasField("turns_behind"):
                self._drift.add(response.turns_behind)


class _RunsInFlight:
    """Runs that began through this process, until they or their leases end. Only hashes of their ids are stored."""

    def __init__(self, begun: Number, in_flight: Number) -> None:
        self._begun, self._in_flight = begun, in_flight
        self._in_flight.set(0.0)  # A worker inherits the cells of the worker that it replaces.
        self._leases: dict[int, asyncio.TimerHandle] = {}

    def begin(self, run: int, lease_seconds: float) -> None:
        """Add a run, unless it is already tracked."""
        if run not in self._leases and len(self._leases) < MAX_RUNS:
            self._leases[run] = asyncio.get_running_loop().call_later(lease_seconds, self.end, run)
            self._begun.add()
            self._in_flight.set(len(self._leases))

    def renew(self, run: int, lease_seconds: float) -> None:
        """Restart the lease of a tracked run."""
        if run in self._leases:
            self._leases[run].cancel()
            self._leases[run] = asyncio.get_running_loop().call_later(lease_seconds, self.end, run)

    def end(self, run: int) -> None:
        """Remove a run. Idempotent."""
        if lease := self._leases.pop(run, None):
            lease.cancel()
            self._in_flight.set(len(self._leases))


def _lease_seconds(request: Any) -> float:
    lease = request.lease.ToTimedelta() if request.HasField("lease") else DEFAULT_LEASE
    return float(lease.total_seconds())


def _key(request: Any, run_id: str) -> int:
    return hash((request.session_id, request.observer or DEFAULT_OBSERVER, run_id))
