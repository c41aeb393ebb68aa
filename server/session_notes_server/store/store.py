"""The store's operations: each is one script on one session, hence one atomic step."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import DataError, NoScriptError, RedisClusterException, RedisError, ResponseError

from session_notes_server.store import scripts
from session_notes_server.store.connection import RedisTarget
from session_notes_server.store.keys import Keys
from session_notes_server.store.records import ListedRun, ObserverRecord, RunRecord, SessionRecord, SummaryRecord
from session_notes_server.store.scripts import Script

log = logging.getLogger(__name__)


class StoreUnavailable(Exception):
    """The store cannot be reached, is too slow, or refuses for a reason that may pass. A write's outcome is unknown."""


class Refused(Exception):
    """The store's own rules refuse the operation; nothing was changed.

    Attributes:
        reason: A name of ErrorReason without its prefix.
        actual: For a mismatch, what was found instead of what was expected.
    """

    def __init__(self, reason: str, actual: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.actual = actual


# What a working Redis answers when it cannot serve just now; anything else it answers is a bug of ours.
_PASSING = frozenset(
    {
        *(
            "ASK",
            "BUSY",
            "CLUSTERDOWN",
            "LOADING",
            "MASTERDOWN",
            "MISCONF",
            "MOVED",
            "NOAUTH",
            "NOPERM",
            "NOREPLICAS",
            "OOM",
        ),
        *("READONLY", "TRYAGAIN", "UNBLOCKED", "UNKILLABLE", "WRONGPASS"),
    }
)


class Store:
    """Sessions in Redis or Valkey.

    Args:
        target: Where Redis is.
        prefix: What every key starts with; sidecars that share sessions share it.
        session_ttl: How long a session is kept after its last change, unless the session has a ttl of its own.
        timeout: How long one operation may take, waiting for a connection included.
        max_in_flight: How many operations may be at Redis at once, and so how many connections; the others wait.
    """

    def __init__(
        self,
        target: RedisTarget,
        *,
        prefix: str,
        session_ttl: timedelta,
        timeout: timedelta = timedelta(seconds=1),
        max_in_flight: int = 64,
    ) -> None:
        self._target = target
        self._keys = Keys(prefix)
        self._session_ttl_ms = str(_ceil_div(_microseconds(session_ttl), 1000))
        self._timeout_seconds = timeout.total_seconds()
        self._redis = target.connect(timeout_seconds=self._timeout_seconds)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._tags = itertools.count(1)

    async def aclose(self) -> None:
        """Close all connections. Operations still in flight fail."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Ask whether Redis answers.

        Raises:
            StoreUnavailable: it does not; the cause says why.
        """
        async with self._attempt():
            await self._redis.ping()

    async def get_notes(self, session_id: str, observer: str) -> ObserverRecord:
        """Read what is known of one observer on one session."""
        return _observer(await self._run(scripts.GET_NOTES, session_id, observer))

    async def batch_get_notes(self, wanted: Sequence[tuple[str, str]]) -> list[ObserverRecord]:
        """`get_notes` for pairs of session id and observer, in their order, in one round trip."""
        calls = [(session_id, (observer,)) for session_id, observer in wanted]
        return [_observer(reply) for reply in await self._run_many(scripts.GET_NOTES, calls)]

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
        reply = await self._run(
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
        _, started, run, failure, transcript = _accepted(reply, "OK")
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
        reply = await self._run(
            scripts.WRITE_NOTES,
            session_id,
            *self._session(session_id),
            observer,
            run_id,
            _optional(observed_turn),
            notes,
            digest,
            _optional(_microseconds(ttl) if ttl is not None else None),
        )
        outcome, run = _accepted(reply, "ACCEPTED", "DUPLICATE", "SUPERSEDED")
        return outcome, RunRecord.of(run)

    async def fail_run(self, session_id: str, observer: str, run_id: str, reason: str) -> RunRecord:
        """Record that a run ended without notes."""
        reply = await self._run(scripts.FAIL_RUN, session_id, *self._session(session_id), observer, run_id, reason)
        _, run, failure = _accepted(reply, "OK")
        return RunRecord.of(run, failure)

    async def list_runs(
        self, session_id: str, observer: str, *, below: int | None, limit: int, include_notes: bool
    ) -> tuple[list[ListedRun], bool]:
        """Runs of the history, newest first, from just `below` a number on → the runs, and whether there are more."""
        runs, more = await self._run(
            scripts.LIST_RUNS, session_id, observer, _optional(below), limit, int(include_notes)
        )
        return [ListedRun(RunRecord.of(run, failure), notes) for run, failure, notes in runs], bool(more)

    async def get_session(self, session_id: str, *, include_turns: bool) -> SessionRecord:
        """Read a whole session."""
        reply = await self._run(scripts.GET_SESSION, session_id, int(include_turns))
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
        reply = await self._run(
            scripts.UPDATE_SESSION,
            session_id,
            *self._session(session_id),
            _optional(expected_version),
            _optional(_ceil_div(_microseconds(ttl), 1000) if ttl is not None else None),
            len(set_fields),
            *itertools.chain.from_iterable(set_fields.items()),
            *remove,
        )
        _, version, now_us = _accepted(reply, "OK")
        return version, now_us

    async def append_turns(self, session_id: str, turns: Iterable[bytes], *, expected_count: int | None) -> int:
        """Append turns → how many were ever appended."""
        reply = await self._run(
            scripts.APPEND_TURNS, session_id, *self._session(session_id), _optional(expected_count), *turns
        )
        _, count = _accepted(reply, "OK")
        return int(count)

    async def delete_session(self, session_id: str) -> bool:
        """Remove every trace but the ids of the runs → whether there was such a session."""
        (existed,) = await self._run(scripts.DELETE_SESSION, session_id)
        return bool(existed)

    async def scan_sessions(self, node: int, cursor: int, count: int) -> tuple[list[str], tuple[int, int] | None]:
        """One step through all sessions → some ids, and where to go on (None at the end).

        Start at node 0, cursor 0. In a cluster, each primary is walked in turn.
        """
        async with self._attempt():
            nodes = await self._nodes()
            if node >= len(nodes):
                return [], None
            arguments = ("SCAN", cursor, "MATCH", self._keys.pattern, "COUNT", count, "TYPE", "hash")
            cursor, keys = await nodes[node].execute_command(*arguments)
        ids = [self._keys.session_id(key) for key in keys]
        if int(cursor):
            return ids, (node, int(cursor))
        return ids, (node + 1, 0) if node + 1 < len(nodes) else None

    async def summaries(self, session_ids: Sequence[str]) -> list[SummaryRecord]:
        """Summaries of those of the sessions that are there."""
        replies = await self._run_many(scripts.SESSION_SUMMARY, [(session_id, ()) for session_id in session_ids])
        return [
            SummaryRecord(
                session_id, version, turns, updated_us, expires_ms, sorted(name.decode() for name in observers)
            )
            for session_id, (version, *rest) in zip(session_ids, replies, strict=True)
            if version is not None
            for turns, updated_us, expires_ms, observers in [rest]
        ]

    # --- how a script is run -----------------------------------------------------------------------------------------

    def _session(self, session_id: str) -> tuple[str, str]:
        """What every script that changes a session needs to start one."""
        return session_id, self._session_ttl_ms

    async def _run(self, script: Script, session_id: str, *arguments: Any) -> list[Any]:
        async with self._attempt():
            return await self._run_once(script, session_id, arguments)

    async def _run_once(self, script: Script, session_id: str, arguments: Sequence[Any]) -> list[Any]:
        tag = str(next(self._tags))
        keys = self._keys.of(session_id)
        try:
            reply = await self._redis.execute_command("EVALSHA", script.sha, len(keys), *keys, tag, *arguments)
        except NoScriptError:
            reply = await self._redis.execute_command("EVAL", script.text, len(keys), *keys, tag, *arguments)
        return await self._own(reply, tag)

    async def _run_many(self, script: Script, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
        async with self._attempt():
            pipeline = self._redis.pipeline(transaction=False)
            tags = []
            for session_id, arguments in calls:
                keys = self._keys.of(session_id)
                tags.append(str(next(self._tags)))
                pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, tags[-1], *arguments)
            replies = await pipeline.execute(raise_on_error=False)
            for index, (session_id, arguments) in enumerate(calls):
                if isinstance(replies[index], NoScriptError):
                    replies[index] = await self._run_once(script, session_id, arguments)
                elif isinstance(replies[index], Exception):
                    raise replies[index]
                else:
                    replies[index] = await self._own(replies[index], tags[index])
            return replies

    async def _own(self, reply: list[Any], tag: str) -> list[Any]:
        """Strip the tag off a reply. A stray one on a connection shifts all that follow: it must not pass for ours."""
        if reply[0] == tag.encode():
            return reply[1:]
        log.error("a reply from Redis belongs to another call; dropping all connections")
        await self._redis.aclose()
        raise StoreUnavailable

    async def _nodes(self) -> list[Any]:
        if not isinstance(self._redis, RedisCluster):
            return [self._redis]
        await self._redis.initialize()
        primaries: list[ClusterNode] = self._redis.get_primaries()
        return sorted(primaries, key=lambda node: node.name)

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        """One operation at Redis: waits its turn, keeps the time limit, lets no passing error of redis-py out."""
        try:
            async with asyncio.timeout(self._timeout_seconds), self._slots:
                yield
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            if _is_our_bug(error):
                raise
            raise StoreUnavailable from error


def _is_our_bug(error: Exception) -> bool:
    if isinstance(error, DataError):
        return True
    # Errors that redis-py has a class for are all of the passing kind; the others are told by their first word. Redis 6
    # puts that of an error inside a script behind a dash.
    return type(error) is ResponseError and _PASSING.isdisjoint(re.findall(r"(?:^|-)([A-Z]+)\b", str(error)))


def _observer(reply: list[Any]) -> ObserverRecord:
    now_us, turn_count, expires_ms, observer = reply
    return ObserverRecord.of(observer, now_us=now_us, turn_count=turn_count, expires_ms=expires_ms)


def _accepted(reply: list[Any], *outcomes: str) -> list[Any]:
    """The reply with its outcome as text; an outcome that is none of these is a refusal."""
    outcome = reply[0].decode()
    if outcome not in outcomes:
        raise Refused(outcome, int(reply[1]) if len(reply) > 1 else None)
    return [outcome, *reply[1:]]


def _optional(value: int | None) -> int | str:
    return "" if value is None else value


def _pairs(flat: list[Any]) -> Iterable[tuple[bytes, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
