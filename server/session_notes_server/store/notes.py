"""Operations on an observer's runs and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from session_notes_server.store import scripts
from session_notes_server.store.base import (
    LARGE_REPLY_BYTES,
    SESSIONS_PER_ROUND_TRIP,
    StoreBase,
    accepted,
    microseconds,
    operation,
    run_bounded,
)
from session_notes_server.store.errors import ReplyTooLarge
from session_notes_server.store.records import BegunRun, DueRecord, ListedRun, ObserverRecord, RenewedRun, RunRecord

LARGE_NOTES_BYTES = 16 * 1024
"""Notes larger than this are read after the other entries of a batch, because many entries are read together."""

LARGE_SHARE_BYTES = 1024 * 1024
"""Approximate number of bytes of a batch's large notes that are read together."""


class NotesOperations(StoreBase):
    """The operations behind the service SessionNotes."""

    @operation
    async def get_notes(self, session_id: str, observer: str) -> ObserverRecord:
        """Read the notes and runs of one observer."""
        return _observer_record(await self._notes.run(session_id, scripts.GetNotes(observer)))

    @operation
    async def batch_get_notes(self, entries: Sequence[tuple[str, str]], *, max_bytes: int) -> list[ObserverRecord]:
        """Return the result of `get_notes` for each (session id, observer), in the same order.

        Raises:
            ReplyTooLarge: If the large notes take more than `max_bytes` together.
        """
        replies, large, size = list[list[Any]](), list[tuple[int, int]](), 0
        arguments = {observer: scripts.GetNotes(observer, LARGE_NOTES_BYTES) for _, observer in entries}
        for start in range(0, len(entries), SESSIONS_PER_ROUND_TRIP):
            calls = [
                (session_id, arguments[observer])
                for session_id, observer in entries[start : start + SESSIONS_PER_ROUND_TRIP]
            ]
            for reply in await self._reads.run_many(calls):
                if reply[0] == b"LARGE":
                    large.append((len(replies), reply[1]))
                    size += reply[1]
                replies.append(reply)
        if size > max_bytes:
            raise ReplyTooLarge(size)

        async def read_large() -> None:
            for indices in _shares(large):
                calls = [(entries[index][0], scripts.GetNotes(entries[index][1])) for index in indices]
                for index, reply in zip(indices, await self._reads.run_many(calls), strict=True):
                    replies[index] = reply

        if large:
            await self._reads.run_serially(read_large)
        return [_observer_record(reply) for reply in replies]

    @operation
    async def begin_run(
        self,
        session_id: str,
        observer: str,
        run_id: str,
        *,
        observed_turn: int | None,
        lease: timedelta,
        only_if_idle: bool,
        include_transcript: bool,
        after_turn: int | None,
        after_current_notes: bool,
        max_turns: int,
        include_current_notes: bool,
    ) -> BegunRun:
        """Begin a run, or return one that has already begun, with the turns of the first call's window.

        Raises:
            Refused: If the session was deleted, or its runs take too much space.
        """
        reply = await run_bounded(
            self._writes,
            session_id,
            scripts.BeginRun(
                session_id=session_id,
                default_ttl_ms=self._session_ttl_ms,
                observer=observer,
                run_id=run_id,
                observed_turn=observed_turn,
                lease_us=microseconds(lease),
                only_if_idle=only_if_idle,
                include_transcript=include_transcript,
                after_turn=after_turn,
                after_current_notes=after_current_notes,
                max_turns=max_turns,
                include_current_notes=include_current_notes,
                max_reply_bytes=LARGE_REPLY_BYTES,
            ),
        )
        _, started, run, failure, transcript, first_turn, current, own_ttl_ms = accepted(reply)
        self._session_ttls.remember(session_id, int(own_ttl_ms) if own_ttl_ms else None)
        return BegunRun(
            started=bool(started),
            run=RunRecord.of(run, failure),
            transcript=transcript,
            first_turn=first_turn,
            current=_observer_record(current) if current is not None else None,
        )

    @operation
    async def write_notes(
        self,
        session_id: str,
        observer: str,
        run_id: str,
        *,
        notes: bytes,
        digest: bytes,
        observed_turn: int | None,
        ttl: timedelta | None,
    ) -> tuple[str, RunRecord]:
        """Write a run's notes, at most once.

        Returns:
            ACCEPTED, DUPLICATE or SUPERSEDED, and the run.

        Raises:
            Refused: If the run has other notes or has failed, the session was deleted, or its runs take too much space.
        """
        reply = await self._writes.run(
            session_id,
            scripts.WriteNotes(
                session_id=session_id,
                default_ttl_ms=self._session_ttl_ms,
                observer=observer,
                run_id=run_id,
                observed_turn=observed_turn,
                notes=notes,
                digest=digest,
                ttl_us=microseconds(ttl) if ttl is not None else None,
                former_ttl_ms=self._session_ttls.get(session_id),
            ),
        )
        outcome, run = accepted(reply)
        return outcome, RunRecord.of(run)

    @operation
    async def fail_run(self, session_id: str, observer: str, run_id: str, reason: str) -> RunRecord:
        """End a run without notes.

        Raises:
            Refused: If the run does not exist or has written notes, or the session was deleted.
        """
        reply = await self._writes.run(
            session_id,
            scripts.FailRun(
                session_id=session_id,
                default_ttl_ms=self._session_ttl_ms,
                observer=observer,
                run_id=run_id,
                reason=reason,
            ),
        )
        _, run, failure = accepted(reply)
        return RunRecord.of(run, failure)

    @operation
    async def renew_run(self, session_id: str, observer: str, run_id: str, lease: timedelta) -> RenewedRun:
        """Give a run a new lease from now, unless it is abandoned and its write would be superseded.

        Raises:
            Refused: If the run does not exist, has written notes or has failed, or the session was deleted.
        """
        reply = await self._writes.run(
            session_id,
            scripts.RenewRun(
                session_id=session_id,
                default_ttl_ms=self._session_ttl_ms,
                observer=observer,
                run_id=run_id,
                lease_us=microseconds(lease),
            ),
        )
        _, run, obsolete, turns_behind = accepted(reply)
        return RenewedRun(RunRecord.of(run), obsolete=bool(obsolete), turns_behind=turns_behind)

    @operation
    async def list_runs(
        self, session_id: str, observer: str, *, below: int | None, limit: int, include_notes: bool
    ) -> tuple[list[ListedRun], bool]:
        """Read up to `limit` runs of the history, newest first, with numbers below `below`.

        Returns:
            The runs, and whether there are more.
        """
        runs, more = await run_bounded(
            self._reads,
            session_id,
            scripts.ListRuns(
                observer=observer,
                below=below,
                limit=limit,
                include_notes=include_notes,
                max_reply_bytes=LARGE_REPLY_BYTES,
            ),
        )
        return [ListedRun(RunRecord.of(run, failure), notes) for run, failure, notes in runs], bool(more)

    @operation
    async def due_sessions(
        self,
        session_ids: Sequence[str],
        observer: str,
        *,
        min_turns_behind: int,
        min_interval: timedelta,
        min_quiet: timedelta,
        limit: int,
    ) -> tuple[list[DueRecord], int]:
        """Examine sessions until `limit` of them are due.

        Returns:
            The due sessions, and the number of sessions examined.
        """
        arguments = scripts.DueSession(observer, min_turns_behind, microseconds(min_interval), microseconds(min_quiet))
        due = list[DueRecord]()
        for start in range(0, len(session_ids), SESSIONS_PER_ROUND_TRIP):
            calls = [(session_id, arguments) for session_id in session_ids[start : start + SESSIONS_PER_ROUND_TRIP]]
            for examined, (turn_count, *rest) in enumerate(await self._reads.run_many(calls), start + 1):
                if turn_count is None:
                    continue
                turns_behind, quiet_us, run, failure = rest
                latest = RunRecord.of(run, failure) if run is not None else None
                due.append(DueRecord(session_ids[examined - 1], turn_count, turns_behind, quiet_us, latest))
                if len(due) == limit:
                    return due, examined
        return due, len(session_ids)


def _observer_record(reply: list[Any]) -> ObserverRecord:
    now_us, turn_count, expires_ms, observer = reply
    return ObserverRecord.of(observer, now_us=now_us, turn_count=turn_count, expires_ms=expires_ms)


def _shares(large: Iterable[tuple[int, int]]) -> Iterable[list[int]]:
    """Split large entries (index, bytes) into shares that each take the store a few milliseconds."""
    share, share_bytes = list[int](), 0
    for index, size in large:
        if share and share_bytes + size > LARGE_SHARE_BYTES:
            yield share
            share, share_bytes = [], 0
        share.append(index)
        share_bytes += size
    if share:
        yield share
