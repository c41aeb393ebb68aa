"""SessionNotes, with what its calls say of notes and runs counted."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc import StatusCode
from session_notes.v1.notes_pb2 import RunState
from session_notes.v1.session_notes_pb2 import (
    BatchGetNotesRequest,
    BeginRunRequest,
    FailRunRequest,
    FailRunResponse,
    GetNotesRequest,
    Readiness,
    WriteNotesRequest,
    WriteNotesResponse,
    WriteOutcome,
)

from session_notes_server.rpc.errors import StatusError
from session_notes_server.rpc.raw_messages import BeginRunResponse, GetNotesResponse
from session_notes_server.rpc.services.notes import DEFAULT_LEASE, NotesServicer
from session_notes_server.rpc.validation import DEFAULT_OBSERVER
from session_notes_server.settings import Limits
from session_notes_server.store import Store
from session_notes_server.telemetry.metrics.counting import Metrics

MOST_AT_WORK = 100_000
"""How many runs are remembered as at work: some 30 MB of them."""

READY = Readiness.READINESS_READY
# With these a run is told that it has ended, in whatever way.
_OVER = {StatusCode.ALREADY_EXISTS, StatusCode.FAILED_PRECONDITION}


class CountedNotesServicer(NotesServicer):
    """The same servicer. It counts what it has answered, from the answers."""

    def __init__(self, store: Store, limits: Limits, metrics: Metrics) -> None:
        super().__init__(store, limits)
        self._metrics = metrics
        self._at_work = _RunsAtWork(metrics)

    async def GetNotes(self, request: GetNotesRequest, context: Any) -> GetNotesResponse:  # noqa: D102
        response = await super().GetNotes(request, context)
        self._count_reading(response)
        return response

    async def BatchGetNotes(self, request: BatchGetNotesRequest, context: Any) -> Any:  # noqa: D102
        response = await super().BatchGetNotes(request, context)
        for reading in response.responses:
            self._count_reading(reading)
        return response

    async def BeginRun(self, request: BeginRunRequest, context: Any) -> BeginRunResponse:  # noqa: D102
        response = await super().BeginRun(request, context)
        if response.started and response.run.state == RunState.RUN_STATE_RUNNING:
            lease = request.lease.ToTimedelta() if request.HasField("lease") else DEFAULT_LEASE
            self._at_work.begun(_run(request, response.run.run_id), lease.total_seconds())
        return response

    async def WriteNotes(self, request: WriteNotesRequest, context: Any) -> WriteNotesResponse:  # noqa: D102
        try:
            response = await super().WriteNotes(request, context)
        except StatusError as error:
            self._at_work.refused(request, error)
            raise
        self._metrics.writes[response.outcome].add()
        if response.outcome != WriteOutcome.WRITE_OUTCOME_DUPLICATE:
            accepted = response.outcome == WriteOutcome.WRITE_OUTCOME_ACCEPTED
            (self._metrics.runs_written if accepted else self._metrics.runs_superseded).add()
        self._at_work.ended(_run(request, response.run.run_id))
        return response

    async def FailRun(self, request: FailRunRequest, context: Any) -> FailRunResponse:  # noqa: D102
        try:
            response = await super().FailRun(request, context)
        except StatusError as error:
            self._at_work.refused(request, error)
            raise
        self._metrics.runs_failed.add()
        self._at_work.ended(_run(request, response.run.run_id))
        return response

    def _count_reading(self, response: GetNotesResponse) -> None:
        metrics, known = self._metrics, response.readiness
        metrics.reads[known, response.fresh].add()
        if known == READY:
            age = response.age
            metrics.read_age.add(age.seconds + age.nanos / 1e9)
            if response.HasField("turns_behind"):
                metrics.read_drift.add(response.turns_behind)


class _RunsAtWork:
    """Runs that began here, until their end or that of their lease. What they are called is not kept, only a hash."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._leases: dict[int, asyncio.TimerHandle] = {}

    def begun(self, run: int, lease_seconds: float) -> None:
        """A run began, or was found begun."""
        if run not in self._leases and len(self._leases) < MOST_AT_WORK:
            self._leases[run] = asyncio.get_running_loop().call_later(lease_seconds, self.ended, run)
            self._metrics.runs_begun.add()
            self._metrics.runs_at_work.set(len(self._leases))

    def ended(self, run: int) -> None:
        """It is at work no more, if it was."""
        if lease := self._leases.pop(run, None):
            lease.cancel()
            self._metrics.runs_at_work.set(len(self._leases))

    def refused(self, request: WriteNotesRequest | FailRunRequest, error: StatusError) -> None:
        """What a run wanted to say at its end was refused; mostly because that has come already."""
        if error.code in _OVER:
            self.ended(_run(request, request.run_id))


def _run(request: BeginRunRequest | WriteNotesRequest | FailRunRequest, run_id: str) -> int:
    return hash((request.session_id, request.observer or DEFAULT_OBSERVER, run_id))
