"""The store's operations: each is one script on one session, hence one atomic step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from session_notes_server.store import scripts
from session_notes_server.store.records import (
    ListedRun,
    ObserverRecord,
    RunRecord,
    ScanPosition,
    SessionRecord,
    SummaryRecord,
)
from session_notes_server.store.redis.executor import Executor
from session_notes_server.store.scripts import Script

LARGE_REPLY = 256 * 1024
"""A reply of more bytes than this is asked for in turn: one at a time on each executor, so that the store looks at the
calls of others in between."""

LARGE_NOTES = 16 * 1024
"""The same for each entry of a batch, whose entries are asked for many at once."""

LARGE_SHARE = 1024 * 1024
"""Of a batch's large notes, about so many bytes are asked for at once."""

FORMER_TTLS = 10_000
"""Of so many sessions with a ttl of their own it is known when they start anew: about 2 MB."""

READ_AT_A_TIME = 100
"""Entries that are read in one round trip, so that other calls are answered in between."""


class Refused(Exception):
    """The store's own rules refuse the operation; nothing was changed.

    Attributes:
        name: Why, as the script says it.
        details: What a caller is told besides: name → value.
    """

    def __init__(self, name: str, details: Mapping[str, str]) -> None:
        super().__init__(name)
        self.name = name
        self.details = details


class ReplyTooLarge(Exception):
    """What was asked for is larger than an answer may be.

    Attributes:
        size: How large it is, in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Store:
    """Sessions in Redis or Valkey.

    Args:
        notes: Runs the script of `get_notes`, so that nothing the others are stuck in can hold a primary up.
        reads: Runs those of the other operations that only read.
        writes: Runs those that change a session. Any operation can raise its executor's StoreUnavailable.
        session_ttl: How long a session is kept after its last change, unless the session has a ttl of its own.
        on_deletion: Called after every deletion, also one that may not have come to pass.
    """

    def __init__(
        self,
        *,
        notes: Executor,
        reads: Executor,
        writes: Executor,
        session_ttl: timedelta,
        on_deletion: Callable[[], None],
    ) -> None:
        self._notes = notes
        self._reads = reads
        self._writes = writes
        self._on_deletion = on_deletion
        self._former_ttls = _FormerTTLs()
        self._session_ttl_ms = str(_ceil_div(_microseconds(session_ttl), 1000))

    async def get_notes(self, session_id: str, observer: str) -> ObserverRecord:
        """Read what is known of one observer on one session."""
        return _observer(await self._notes.run(scripts.GET_NOTES, session_id, observer))

    async def batch_get_notes(self, wanted: Sequence[tuple[str, str]], *, max_bytes: int) -> list[ObserverRecord]:
        """Return `get_notes` for pairs of session id and observer, in their order.

        Large notes are read last, in turn with other large replies.

        Raises:
            ReplyTooLarge: The notes are larger than `max_bytes` together.
        """
        replies, large, size = list[list[Any]](), list[tuple[int, int]](), 0
        for first in range(0, len(wanted), READ_AT_A_TIME):
            calls = [(session_id, (observer, LARGE_NOTES)) for session_id, observer in wanted[first:][:READ_AT_A_TIME]]
            for reply in await self._reads.run_many(scripts.GET_NOTES, calls):
                if reply[0] == b"LARGE":
                    large.append((len(replies), reply[1]))
                    size += reply[1]
                replies.append(reply)
        if size > max_bytes:
            raise ReplyTooLarge(size)

        async def read_large() -> None:
            for indices in _shares(large):
                calls = [(session_id, (observer,)) for session_id, observer in (wanted[index] for index in indices)]
                some = await self._reads.run_many(scripts.GET_NOTES, calls)
                for index, reply in zip(indices, some, strict=True):
                    replies[index] = reply

        if large:
            await self._reads.run_serially(read_large)
        return [_observer(reply) for reply in replies]

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
    ) -> tuple[bool, RunRecord, list[bytes]]:
        """Begin a run, or find it begun → whether it is the caller's own, the run, the transcript of its snapshot."""
        reply = await _bounded(
            self._writes,
            scripts.BEGIN_RUN,
            session_id,
            *self._session(session_id),
            observer,
            run_id,
            _optional(observed_turn),
            _microseconds(lease),
            int(only_if_idle),
            int(include_transcript),
        )
        _, started, run, failure, transcript, own_ttl_ms = _accepted(reply)
        self._former_ttls.note(session_id, own_ttl_ms.decode())
        return bool(started), RunRecord.of(run, failure), transcript

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
        """Write a run's notes, once → ACCEPTED, DUPLICATE or SUPERSEDED, and the run."""
        reply = await self._writes.run(
            scripts.WRITE_NOTES,
            session_id,
            *self._session(session_id),
            observer,
            run_id,
            _optional(observed_turn),
            notes,
            digest,
            _optional(_microseconds(ttl) if ttl is not None else None),
            self._former_ttls.of(session_id),
        )
        outcome, run = _accepted(reply)
        return outcome, RunRecord.of(run)

    async def fail_run(self, session_id: str, observer: str, run_id: str, reason: str) -> RunRecord:
        """Record that a run ended without notes."""
        reply = await self._writes.run(
            scripts.FAIL_RUN, session_id, *self._session(session_id), observer, run_id, reason
        )
        _, run, failure = _accepted(reply)
        return RunRecord.of(run, failure)

    async def list_runs(
        self, session_id: str, observer: str, *, below: int | None, limit: int, include_notes: bool
    ) -> tuple[list[ListedRun], bool]:
        """Runs of the history, newest first, from just `below` a number on → the runs, and whether there are more."""
        runs, more = await _bounded(
            self._reads, scripts.LIST_RUNS, session_id, observer, _optional(below), limit, int(include_notes)
        )
        return [ListedRun(RunRecord.of(run, failure), notes) for run, failure, notes in runs], bool(more)

    async def get_session(self, session_id: str, *, include_turns: bool) -> SessionRecord:
        """Read a whole session."""
        reply = await _bounded(self._reads, scripts.GET_SESSION, session_id, int(include_turns))
        now_us, expires_ms, version, turn_count, created_us, updated_us, fields, observers, turns = reply
        return SessionRecord(
            now_us,
            version,
            turn_count,
            created_us,
            updated_us,
            now_us + expires_ms * 1000,
            {name.decode(): value for name, value in _pairs(fields)},
            {
                # A current turn is known only where there is a transcript, here as in `get_notes`.
                name.decode(): ObserverRecord.of(
                    observer, now_us=now_us, turn_count=turn_count or None, expires_ms=expires_ms
                )
                for name, observer in _pairs(observers)
            },
            turns,
        )

    async def update_session(
        self,
        session_id: str,
        *,
        set_fields: Mapping[str, bytes],
        remove: Sequence[str],
        expected_version: int | None,
        ttl: timedelta | None,
    ) -> tuple[int, int]:
        """Set and remove fields → the version now, and when (µs)."""
        ttl_ms = _optional(_ceil_div(_microseconds(ttl), 1000) if ttl is not None else None)
        reply = await self._writes.run(
            scripts.UPDATE_SESSION,
            session_id,
            *self._session(session_id),
            _optional(expected_version),
            ttl_ms,
            len(set_fields),
            *itertools.chain.from_iterable(set_fields.items()),
            *remove,
        )
        _, version, now_us = _accepted(reply)
        if ttl_ms:
            self._former_ttls.note(session_id, str(ttl_ms))
        return version, now_us

    async def append_turns(self, session_id: str, turns: Iterable[bytes], *, expected_count: int | None) -> int:
        """Append turns → how many were ever appended."""
        reply = await self._writes.run(
            scripts.APPEND_TURNS,
            session_id,
            *self._session(session_id),
            _optional(expected_count),
            self._former_ttls.of(session_id),
            *turns,
        )
        _, count = _accepted(reply)
        return int(count)

    async def delete_session(self, session_id: str) -> bool:
        """Remove every trace but the ids of the runs → whether there was such a session."""
        self._former_ttls.note(session_id, "")
        try:
            (existed,) = await self._writes.run(scripts.DELETE_SESSION, session_id)
        finally:
            self._on_deletion()
        return bool(existed)

    async def scan_sessions(self, place: ScanPosition | None, count: int) -> tuple[list[str], ScanPosition | None]:
        """Take one step through all sessions, from a place on, or from the start.

        The walk starts anew where the store is not the one that it began in: after a restart or a failover, its
        cursors mean other sessions.

        Returns:
            Some ids, and where to go on; None at the end.
        """
        return await self._reads.scan(place, count)

    async def summaries(self, session_ids: Sequence[str]) -> list[SummaryRecord]:
        """Return summaries of those of the sessions that exist."""
        replies = list[list[Any]]()
        for first in range(0, len(session_ids), READ_AT_A_TIME):
            calls = [(session_id, ()) for session_id in session_ids[first:][:READ_AT_A_TIME]]
            replies += await self._reads.run_many(scripts.SESSION_SUMMARY, calls)
        return [
            SummaryRecord(session_id, version, turns, updated_us, expires_ms, sorted(observers.decode().split()))
            for session_id, (version, *rest) in zip(session_ids, replies, strict=True)
            if version is not None
            for turns, updated_us, expires_ms, observers in [rest]
        ]

    def _session(self, session_id: str) -> tuple[str, str]:
        """What every script that changes a session needs to start one."""
        return session_id, self._session_ttl_ms


class _FormerTTLs:
    """Sessions that have a ttl of their own, as far as this process has met them.

    The store forgets a session as it expires. A write that comes too late starts it anew, and must not keep for a day
    what was meant to be kept for seconds.
    """

    def __init__(self) -> None:
        self._ttls: dict[str, str] = {}

    def note(self, session_id: str, ttl_ms: str) -> None:
        """Note the ttl of a session; empty: it has none of its own."""
        self._ttls.pop(session_id, None)
        if ttl_ms:
            self._ttls[session_id] = ttl_ms
            if len(self._ttls) > FORMER_TTLS:
                del self._ttls[next(iter(self._ttls))]

    def of(self, session_id: str) -> str:
        """Return the ttl of a session, in milliseconds; empty where none is known."""
        return self._ttls.get(session_id, "")


async def _bounded(executor: Executor, script: Script, session_id: str, *arguments: Any) -> list[Any]:
    """Run a script; where its reply would be large, in turn with others like it."""
    reply = await executor.run(script, session_id, *arguments, LARGE_REPLY)
    if reply[0] == b"LARGE":
        return await executor.run_serially(partial(executor.run, script, session_id, *arguments, ""))
    return reply


def _shares(large: Iterable[tuple[int, int]]) -> Iterable[list[int]]:
    """Split what is large (index, bytes) into shares that take the store some milliseconds each."""
    share, size = list[int](), 0
    for index, its_size in large:
        if share and size + its_size > LARGE_SHARE:
            yield share
            share, size = [], 0
        share.append(index)
        size += its_size
    if share:
        yield share


def _observer(reply: list[Any]) -> ObserverRecord:
    now_us, turn_count, expires_ms, observer = reply
    return ObserverRecord.of(observer, now_us=now_us, turn_count=turn_count, expires_ms=expires_ms)


def _accepted(reply: list[Any]) -> list[Any]:
    """Return the reply with its outcome as text.

    Raises:
        Refused: It is a refusal: a word, then names and values.
    """
    word, *rest = reply
    outcome = word.decode()
    if outcome not in scripts.OUTCOMES:
        raise Refused(outcome, {name.decode(): value.decode() for name, value in _pairs(rest)})
    return [outcome, *rest]


def _optional(value: int | None) -> int | str:
    return "" if value is None else value


def _pairs(flat: list[Any]) -> Iterable[tuple[bytes, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
