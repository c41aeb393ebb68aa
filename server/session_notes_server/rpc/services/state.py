"""The service SessionState: fields, transcript and listing of sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from session_notes.v1.session_state_pb2 import (
    AppendTurnsRequest,
    AppendTurnsResponse,
    DeleteSessionRequest,
    DeleteSessionResponse,
    GetSessionRequest,
    ListSessionsRequest,
    ListSessionsResponse,
    UpdateSessionRequest,
    UpdateSessionResponse,
)
from session_notes.v1.session_state_pb2_grpc import SessionStateServicer

from session_notes_server.rpc import conversion, errors, paging
from session_notes_server.rpc.raw_messages import GetSessionResponse
from session_notes_server.rpc.session_scan import MAX_PAGE_SIZE, PAGE_SIZE, SessionScan
from session_notes_server.rpc.validation import Check
from session_notes_server.settings import Limits
from session_notes_server.store import Refused, Store


class StateServicer(SessionStateServicer):
    """The servicer. Each method validates its request, calls the store once and converts the record."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def GetSession(self, request: GetSessionRequest, context: Any) -> GetSessionResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        check.done()
        record = await self._store.get_session(session_id, include_turns=request.include_turns)
        response = GetSessionResponse()
        conversion.fill_session(response.session, session_id, record, include_turns=request.include_turns)
        return response

    async def UpdateSession(self, request: UpdateSessionRequest, context: Any) -> UpdateSessionResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        expected_version = check.count("expected_version", request)
        ttl = check.lifetime("ttl", request)
        check.entries("set", request.set)
        check.entries("remove", request.remove)
        check.names("set", request.set)
        check.names("remove", request.remove)
        if not request.set.keys().isdisjoint(request.remove):
            check.wrong("remove", "must not name a field of `set`")
        for value in request.set.values():
            check.size("set", value, self._limits.notes_bytes)
            await check.json("set", value)
        check.done()
        try:
            version, update_us = await self._store.update_session(
                session_id,
                set_fields={name: value.SerializeToString() for name, value in request.set.items()},
                remove=request.remove,
                expected_version=expected_version,
                ttl=ttl,
            )
        except Refused as refusal:
            raise errors.refused(refusal) from None
        return UpdateSessionResponse(version=version, update_time=conversion.timestamp(update_us))

    async def AppendTurns(self, request: AppendTurnsRequest, context: Any) -> AppendTurnsResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        append_id = check.append_id(request.append_id)
        expected_count = check.count("expected_turn_count", request)
        if not request.turns:
            check.wrong("turns", "must contain at least one turn")
        check.entries("turns", request.turns)
        await check.turns(request.turns, self._limits.turn_bytes)
        check.done()
        # Deterministic, so that equal turns have equal digests.
        turns = [turn.SerializeToString(deterministic=True) for turn in request.turns]
        try:
            count, duplicate = await self._store.append_turns(
                session_id,
                turns,
                append_id=append_id,
                digest=_digest(turns) if append_id else b"",
                expected_count=expected_count,
            )
        except Refused as refusal:
            raise errors.refused(refusal) from None
        return AppendTurnsResponse(turn_count=count, duplicate=duplicate)

    async def DeleteSession(self, request: DeleteSessionRequest, context: Any) -> DeleteSessionResponse:  # noqa: D102
        check = Check()
        session_id = check.session_id(request.session_id)
        check.done()
        return DeleteSessionResponse(existed=await self._store.delete_session(session_id))

    async def ListSessions(self, request: ListSessionsRequest, context: Any) -> ListSessionsResponse:  # noqa: D102
        check = Check()
        limit = check.page_size(request.page_size, default=PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        scope, scan = ("ListSessions",), SessionScan()
        if request.page_token:
            try:
                scan = SessionScan(*paging.scan_position(paging.position(scope, request.page_token)))
            except ValueError:
                check.wrong("page_token", "is not a next_page_token of this listing")
        check.done()
        # A step of the scan can return more ids than fit on the page. The token carries the rest.
        await scan.step(self._store, keys=limit - len(scan.pending), limit=limit)
        page, scan.pending = scan.pending[:limit], scan.pending[limit:]
        summaries = await self._store.summaries(page)
        return ListSessionsResponse(
            sessions=[conversion.summary(summary) for summary in summaries],
            next_page_token=scan.next_page_token(scope),
        )


def _digest(parts: Iterable[bytes]) -> bytes:
    """Return a digest of a sequence of bytes, in which the length of each part counts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
