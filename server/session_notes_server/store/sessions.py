"""Operations on whole sessions: reading, fields, transcript, deletion, listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from session_notes_server.store import scripts
from session_notes_server.store.base import (
    LARGE_REPLY_BYTES,
    SESSIONS_PER_ROUND_TRIP,
    StoreBase,
    accepted,
    milliseconds,
    operation,
    pairs,
    run_bounded,
)
from session_notes_server.store.records import ObserverRecord, ScanPosition, SessionRecord, SummaryRecord


class SessionOperations(StoreBase):
    """The operations behind the service SessionState."""

    @operation
    async def get_session(self, session_id: str, *, include_turns: bool) -> SessionRecord:
        """Read a whole session."""
        reply = await run_bounded(
            self._reads,
            session_id,
            scripts.GetSession(include_turns=include_turns, max_reply_bytes=LARGE_REPLY_BYTES),
        )
        now_us, expires_ms, version, turn_count, created_us, updated_us, fields, observers, turns = reply
        return SessionRecord(
            now_us,
            version,
            turn_count,
            created_us,
            updated_us,
            now_us + expires_ms * 1000,
            {name.decode(): value for name, value in pairs(fields)},
            {
                # As in `get_notes`, there is no current turn without a transcript.
                name.decode(): ObserverRecord.of(
                    observer, now_us=now_us, turn_count=turn_count or None, expires_ms=expires_ms
                )
                for name, observer in pairs(observers)
            },
            turns,
        )

    @operation
    async def update_session(
        self,
        session_id: str,
        *,
        set_fields: Mapping[str, bytes],
        remove: Sequence[str],
        expected_version: int | None,
        ttl: timedelta | None,
    ) -> tuple[int, int]:
        """Set and remove fields.

        Returns:
            The new version, and the time of the update in microseconds.

        Raises:
            Refused: If the version is not the expected one, or the fields take too much space.
        """
        ttl_ms = milliseconds(ttl) if ttl is not None else None
        reply = await self._writes.run(
            session_id,
            scripts.UpdateSession(
                session_id=session_id,
                default_ttl_ms=self._session_ttl_ms,
                expected_version=expected_version,
                ttl_ms=ttl_ms,
                set_names=list(set_fields),
                set_values=list(set_fields.values()),
                remove_names=list(remove),
            ),
        )
        _, version, now_us = accepted(reply)
        if ttl_ms is not None:
            self._session_ttls.remember(session_id, ttl_ms)
        return version, now_us

    @operation
    async def append_turns(
        self, session_id: str, turns: Sequence[bytes], *, append_id: str, digest: bytes, expected_count: int | None
    ) -> tuple[int, bool]:
        """Append turns, at most once per id.

        Args:
            session_id: The session.
            turns: The turns, serialized.
            append_id: The id of this append, or an empty string.
            digest: The digest of the turns, if there is an id. Equal turns have equal digests.
            expected_count: The turn count that the session must have. None: any.

        Returns:
            The turn count after the append, and whether an earlier call had already made it.

        Raises:
            Refused: If the turn count is not the expected one, the id has other turns, or the session was deleted.
        """
        reply = await self._writes.run(
            session_id,
            scripts.AppendTurns(
                session_id=session_id,
                default_ttl_ms=self._session_ttl_ms,
                append_id=append_id,
                digest=digest,
                expected_turn_count=expected_count,
                former_ttl_ms=self._session_ttls.get(session_id),
                turns=turns,
            ),
        )
        outcome, count = accepted(reply)
        return count, outcome == "DUPLICATE"

    @operation
    async def delete_session(self, session_id: str) -> bool:
        """Remove a session except for the ids of its runs and appends, and return whether it existed."""
        self._session_ttls.remember(session_id, None)
        try:
            (existed,) = await self._writes.run(session_id, scripts.DeleteSession())
        finally:
            self._on_deletion()
        return bool(existed)

    @operation
    async def scan_sessions(self, position: ScanPosition, count: int) -> tuple[list[str], ScanPosition | None]:
        """Take one step of a walk through all sessions, which begins at SCAN_START.

        The walk starts over after a restart or a failover of the store, because that makes its cursors invalid.

        Args:
            position: Where to continue.
            count: Approximate number of keys to visit. A session has up to four.

        Returns:
            Session ids, and where to continue. None at the end.
        """
        return await self._reads.scan(position, count)

    @operation
    async def summaries(self, session_ids: Sequence[str]) -> list[SummaryRecord]:
        """Return summaries of the sessions that exist."""
        replies = list[list[Any]]()
        for start in range(0, len(session_ids), SESSIONS_PER_ROUND_TRIP):
            calls = [
                (session_id, scripts.SessionSummary())
                for session_id in session_ids[start : start + SESSIONS_PER_ROUND_TRIP]
            ]
            replies += await self._reads.run_many(calls)
        return [
            SummaryRecord(session_id, version, turns, updated_us, expires_ms, sorted(observers.decode().split()))
            for session_id, (version, *rest) in zip(session_ids, replies, strict=True)
            if version is not None
            for turns, updated_us, expires_ms, observers in [rest]
        ]
