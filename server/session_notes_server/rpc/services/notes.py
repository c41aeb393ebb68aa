"""The service SessionNotes: notes and runs."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from datetime import timedelta
from typing import Any

from session_notes.v1.session_notes_pb2 import (
    BatchGetNotesRequest,
    BeginRunRequest,
    FailRunRequest,
    FailRunResponse,
    GetNotesRequest,
    ListDueSessionsRequest,
    ListDueSessionsResponse,
    ListRunsRequest,
    RenewRunRequest,
    RenewRunResponse,
    WriteNotesRequest,
    WriteNotesResponse,
    WriteOutcome,
)
from session_notes.v1.session_notes_pb2_grpc import SessionNotesServicer

from session_notes_server.contract import DEFAULT_LEASE
from session_notes_server.rpc import conversion, errors, paging
from session_notes_server.rpc.admission import HELD_MESSAGES
from session_notes_server.rpc.raw_messages import BatchResponse, BeginRunResponse, GetNotesResponse, ListRunsResponse
from session_notes_server.rpc.session_scan import MAX_PAGE_SIZE, PAGE_SIZE, SessionScan
from session_notes_server.rpc.validation import MAX_REASON_BYTES, Check
from session_notes_server.settings import Limits
from session_notes_server.store import ObserverRecord, Refused, ReplyTooLarge, Store
from session_notes_server.store.limits import HISTORY_RUNS

# Responses of a batch that are built, in about a millisecond, before other calls may run.
_RESPONSES_PER_TURN = 100

_OUTCOMES = {name.removeprefix("WRITE_OUTCOME_"): number for name, number in WriteOutcome.items()}


class NotesServicer(SessionNotesServicer):
    """The servicer. Each method validates its request, calls the store once and converts the record."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def GetNotes(self, request: GetNotesRequest, context: Any) -> GetNotesResponse:  # noqa: D102
        check = Check()
        query = NotesQuery(request, check)
        check.done()
        response = GetNotesResponse()
        query.fill(response, await self._store.get_notes(query.session_id, query.observer))
        return response

    async def BatchGetNotes(self, request: BatchGetNotesRequest, context: Any) -> Any:  # noqa: D102
        check, queries = Check(), list[NotesQuery]()
        check.entries("requests", request.requests, self._limits.batch_requests)
        for index, entry in enumerate(request.requests):
            check.at = f"requests[{index}]."
            queries.append(NotesQuery(entry, check))
        check.done()
        max_bytes = HELD_MESSAGES * self._limits.message_bytes
        try:
            records = await self._store.batch_get_notes(
                [(query.session_id, query.observer) for query in queries], max_bytes=max_bytes
            )
        except ReplyTooLarge as error:
            raise errors.too_large("responses", limit=max_bytes, actual=error.size) from None
        response = BatchResponse()
        for index, (query, record) in enumerate(zip(queries, records, strict=True)):
            query.fill(response.add(record.notes), record, with_notes=False)
            if index % _RESPONSES_PER_TURN == _RESPONSES_PER_TURN - 1:
                await asyncio.sleep(0)
        return response

    async def BeginRun(self, request: BeginRunRequest, context: Any) -> BeginRunResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        observer = check.observer(request.observer)
        run_id = check.run_id(request.run_id)
        observed_turn = check.count("observed_turn", request)
        lease = check.lifetime("lease", request)
        after_turn = check.count("after_turn", request)
        if after_turn is not None and request.after_current_notes:
            check.wrong("after_current_notes", "must not be set together with after_turn")
        if request.max_turns < 0:
            check.wrong("max_turns", "must not be negative")
        check.done()
        try:
            record = await self._store.begin_run(
                session_id,
                observer,
                run_id or _new_run_id(),
                observed_turn=observed_turn,
                lease=lease or DEFAULT_LEASE,
                only_if_idle=request.only_if_idle,
                include_transcript=request.include_transcript,
                after_turn=after_turn,
                after_current_notes=request.after_current_notes,
                max_turns=request.max_turns,
                include_current_notes=request.include_current_notes,
            )
        except Refused as refusal:
            raise errors.refused(refusal) from None
        response = BeginRunResponse()
        conversion.fill_begun(response, observer, record)
        return response

    async def WriteNotes(self, request: WriteNotesRequest, context: Any) -> WriteNotesResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        observer = check.observer(request.observer)
        run_id = check.run_id(request.run_id)
        observed_turn = check.count("observed_turn", request)
        ttl = check.lifetime("ttl", request)
        # Deterministic serialization sorts map entries, so that equal messages have equal digests.
        notes = request.notes.SerializeToString(deterministic=True)
        if request.HasField("notes"):
            check.size("notes", notes, self._limits.notes_bytes)
            await check.notes(request.notes)
        else:
            check.wrong("notes", "is required")
        check.done()
        try:
            outcome, run = await self._store.write_notes(
                session_id,
                observer,
                run_id or _new_run_id(),
                notes=notes,
                digest=hashlib.sha256(notes).digest(),
                observed_turn=observed_turn,
                ttl=ttl,
            )
        except Refused as refusal:
            raise errors.refused(refusal) from None
        response = WriteNotesResponse(outcome=_OUTCOMES[outcome])
        conversion.fill_run(response.run, observer, run)
        response.write_time.CopyFrom(response.run.end_time)
        return response

    async def FailRun(self, request: FailRunRequest, context: Any) -> FailRunResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        observer = check.observer(request.observer)
        run_id = check.run_id(request.run_id, required=True)
        check.size("reason", request.reason, MAX_REASON_BYTES)
        check.done()
        try:
            run = await self._store.fail_run(session_id, observer, run_id, request.reason)
        except Refused as refusal:
            raise errors.refused(refusal) from None
        response = FailRunResponse()
        conversion.fill_run(response.run, observer, run)
        return response

    async def RenewRun(self, request: RenewRunRequest, context: Any) -> RenewRunResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        observer = check.observer(request.observer)
        run_id = check.run_id(request.run_id, required=True)
        lease = check.lifetime("lease", request)
        check.done()
        try:
            renewed = await self._store.renew_run(session_id, observer, run_id, lease or DEFAULT_LEASE)
        except Refused as refusal:
            raise errors.refused(refusal) from None
        response = RenewRunResponse(obsolete=renewed.obsolete, turns_behind=renewed.turns_behind)
        conversion.fill_run(response.run, observer, renewed.run)
        return response

    async def ListDueSessions(self, request: ListDueSessionsRequest, context: Any) -> ListDueSessionsResponse:  # noqa: D102
        check = Check()
        observer = check.observer(request.observer)
        min_turns_behind = check.count("min_turns_behind", request)
        min_interval = check.bound("min_interval", request) or timedelta()
        min_quiet = check.bound("min_quiet", request) or timedelta()
        limit = check.page_size(request.page_size, default=PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        behind = 1 if min_turns_behind is None else min_turns_behind
        scope = ("ListDueSessions", observer, *map(str, (behind, min_interval, min_quiet)))
        scan, listed = SessionScan(), list[int]()
        if request.page_token:
            try:
                position, listed = paging.due_position(paging.position(scope, request.page_token))
                scan = SessionScan(*position)
            except ValueError:
                check.wrong("page_token", "is not a next_page_token of this listing")
        check.done()
        await scan.step(self._store, keys=MAX_PAGE_SIZE, limit=limit)
        # The scan can return a session twice while the store resizes its table, and starts over after a failover.
        seen = set(listed)
        ids = [session_id for session_id in dict.fromkeys(scan.pending) if paging.digest(session_id) not in seen]
        due, examined = await self._store.due_sessions(
            ids[:MAX_PAGE_SIZE],
            observer,
            min_turns_behind=behind,
            min_interval=min_interval,
            min_quiet=min_quiet,
            limit=limit,
        )
        scan.pending = ids[examined:]
        listed += [paging.digest(record.session_id) for record in due]
        response = ListDueSessionsResponse(next_page_token=scan.next_page_token(scope, paging.pack_digests(listed)))
        for record in due:
            conversion.fill_due(response.sessions.add(), observer, record)
        return response

    async def ListRuns(self, request: ListRunsRequest, context: Any) -> ListRunsResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        observer = check.observer(request.observer)
        limit = check.page_size(request.page_size, default=HISTORY_RUNS, maximum=HISTORY_RUNS)
        scope = ("ListRuns", session_id, observer)
        below = None
        if request.page_token:
            try:
                below = paging.run_number(paging.position(scope, request.page_token))
            except ValueError:
                check.wrong("page_token", "is not a next_page_token of this listing")
        check.done()
        runs, more = await self._store.list_runs(
            session_id, observer, below=below, limit=limit, include_notes=request.include_notes
        )
        response = ListRunsResponse()
        for run in runs:
            conversion.fill_listed_run(response.runs.add(), observer, run)
        if more and runs:
            response.next_page_token = paging.token(scope, runs[-1].run.number)
        return response


class NotesQuery:
    """A GetNotesRequest, which is valid if `check.done` does not raise."""

    def __init__(self, request: GetNotesRequest, check: Check) -> None:
        self.session_id = check.session_id(request.session_id)
        self.observer = check.observer(request.observer)
        self._max_age = check.bound("max_age", request)
        self._max_snapshot_age = check.bound("max_snapshot_age", request)
        self._current_turn = check.count("current_turn", request)
        self._max_turns_behind = check.count("max_turns_behind", request)

    def fill(self, response: GetNotesResponse, record: ObserverRecord, *, with_notes: bool = True) -> None:
        """Fill the response from the observer's record."""
        conversion.fill_reading(
            response,
            self.observer,
            record,
            current_turn=self._current_turn,
            max_age=self._max_age,
            max_snapshot_age=self._max_snapshot_age,
            max_turns_behind=self._max_turns_behind,
            with_notes=with_notes,
        )


def _new_run_id() -> str:
    return secrets.token_hex(16)
