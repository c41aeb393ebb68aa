"""How a script is run: one command, one reply that is surely its own, one time limit, and errors told apart."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import DataError, NoScriptError, RedisClusterException, RedisError, ResponseError

from session_notes_server.store.connection import RedisTarget
from session_notes_server.store.keys import Keys
from session_notes_server.store.patience import Patience
from session_notes_server.store.scripts import Script

log = logging.getLogger(__name__)

T = TypeVar("T")


class StoreUnavailable(Exception):
    """The store cannot be reached, is too slow, or refuses for a reason that may pass. A write's outcome is unknown."""


# What a working Redis answers when it cannot serve just now; anything else it answers is a bug of ours.
_PASSING = frozenset(
    {
        *("ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOAUTH", "NOPERM", "NOREPLICAS"),
        *("OOM", "READONLY", "TRYAGAIN", "UNBLOCKED", "UNKILLABLE", "WRONGPASS"),
    }
)


# How many connections that turn out to be dead one operation tries, before its last.
_DEAD_CONNECTIONS = 3


class Runner:
    """Runs scripts on sessions, over any kind of Redis, on connections of its own.

    Args:
        target: Where Redis is.
        prefix: What every key starts with; sidecars that share it share sessions.
        timeout: How long one operation may take, waiting for a connection and its handshake included.
        silence: How long Redis, in a cluster the node asked, may answer nobody meanwhile; None: as long as that.
        max_in_flight: How many operations may be at Redis at once, and so how many connections; the others wait.
    """

    def __init__(
        self,
        target: RedisTarget,
        *,
        prefix: str,
        timeout: timedelta,
        silence: timedelta | None = None,
        max_in_flight: int = 64,
    ) -> None:
        self.where = target.name
        self._keys = Keys(prefix)
        self._patience = Patience(timeout=timeout, silence=silence or timeout)
        # A ping has all the time there is: it may have to connect first, and see a handshake through.
        self._ping_patience = Patience(timeout=timeout, silence=timeout)
        self._redis = target.connect(timeout_seconds=timeout.total_seconds())
        self._slots = asyncio.Semaphore(max_in_flight)
        self._tags = itertools.count(1)

    async def aclose(self) -> None:
        """Close all connections. Operations still in flight fail."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Ask whether Redis answers; keeps a connection open that an operation would have to wait for.

        Raises:
            StoreUnavailable: it does not; the cause says why.
        """
        async with self._attempt(self._ping_patience):
            await self._redis.ping()
        self._patience.heard("")

    async def run(self, script: Script, session_id: str, *arguments: Any) -> list[Any]:
        """Run a script on a session → its reply, without the tag.

        Raises:
            StoreUnavailable: its outcome is unknown.
        """
        async with self._attempt(self._patience, self._node_of(session_id)):
            return await self._run_once(script, session_id, arguments)

    async def run_many(self, script: Script, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
        """Run a script on many sessions in one round trip (one a node), with arguments for each → their replies."""
        async with self._attempt(self._patience):
            tags = [str(next(self._tags)) for _ in calls]

            def send() -> Awaitable[list[Any]]:
                pipeline = self._redis.pipeline(transaction=False)
                for tag, (session_id, arguments) in zip(tags, calls, strict=True):
                    keys = self._keys.of(session_id)
                    pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, tag, *arguments)
                return pipeline.execute(raise_on_error=False)

            replies = await _sent(send)
            for index, (session_id, arguments) in enumerate(calls):
                if isinstance(replies[index], NoScriptError):
                    replies[index] = await self._run_once(script, session_id, arguments)
                elif isinstance(replies[index], Exception):
                    raise replies[index]
                else:
                    replies[index] = await self._own(replies[index], tags[index])
            return replies

    async def scan(self, node: int, cursor: int, count: int) -> tuple[list[str], tuple[int, int] | None]:
        """One step through the sessions of a node → some ids, and where to go on (None at the end).

        In a cluster, each primary is walked in turn.
        """
        async with self._attempt(self._patience):
            nodes = await self._nodes()
            if node >= len(nodes):
                return [], None
            arguments = ("SCAN", cursor, "MATCH", self._keys.pattern, "COUNT", count, "TYPE", "hash")
            cursor, keys = await _sent(lambda: nodes[node].execute_command(*arguments))
        ids = [self._keys.session_id(key) for key in keys]
        if int(cursor):
            return ids, (node, int(cursor))
        return ids, (node + 1, 0) if node + 1 < len(nodes) else None

    async def _run_once(self, script: Script, session_id: str, arguments: Sequence[Any]) -> list[Any]:
        tag = str(next(self._tags))
        keys = self._keys.of(session_id)
        try:
            reply = await self._execute("EVALSHA", script.sha, len(keys), *keys, tag, *arguments)
        except NoScriptError:
            reply = await self._execute("EVAL", script.text, len(keys), *keys, tag, *arguments)
        return await self._own(reply, tag)

    async def _execute(self, *command: Any) -> Any:
        return await _sent(lambda: self._redis.execute_command(*command))

    def _node_of(self, session_id: str) -> str:
        """The name of the node of a cluster that has a session, as far as that is known; empty outside one."""
        if not isinstance(self._redis, RedisCluster):
            return ""
        try:
            node = self._redis.get_node_from_key(self._keys.of(session_id)[0])
        except RedisClusterException:
            return ""
        return node.name if node is not None else ""

    async def _own(self, reply: Any, tag: str) -> list[Any]:
        """Strip the tag off a reply. A stray one on a connection shifts all that follow: it must not pass for ours."""
        if isinstance(reply, list) and reply[:1] == [tag.encode()]:
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
    async def _attempt(self, patience: Patience, node: str = "") -> AsyncIterator[None]:
        """One operation at Redis: waits its turn, keeps the time limit, lets no passing error of redis-py out."""
        try:
            async with patience.wait(node) as still_worth_it, self._slots:
                still_worth_it()
                yield
                patience.heard(node)
        except (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError, AttributeError) as error:
            if _is_our_bug(error):
                raise
            raise StoreUnavailable from error


async def _sent(send: Callable[[], Awaitable[T]]) -> T:
    """Send something on a connection of the pool that takes it.

    redis-py notices those that were closed while they lay there, but not those that were reset. It closes one that
    fails, and opens it anew when it is next used. Where nothing was sent, nothing is sent twice.
    """
    for _ in range(_DEAD_CONNECTIONS):
        try:
            return await send()
        except RuntimeError as error:
            if not _was_never_sent(error):
                raise
    return await send()


def _is_closed(error: RuntimeError) -> bool:
    """Whether this is what uvloop raises, where others raise an OSError, for the use of a connection that is closed."""
    return "the handler is closed" in str(error)


def _was_never_sent(error: RuntimeError) -> bool:
    """Whether a closed connection refused to take the command, rather than to give its answer."""
    return _is_closed(error) and any(frame.f_code.co_name == "send_packed_command" for frame in _frames(error))


def _was_closed_meanwhile(error: AttributeError) -> bool:
    """Whether redis-py found None where a connection had its ends: it closed one that an operation was using.

    It does so when it learns that a cluster has changed, and when all connections are dropped.
    """
    *_, last = _frames(error)
    return error.obj is None and str(last.f_globals.get("__name__")).startswith("redis.")


def _frames(error: Exception) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _is_our_bug(error: Exception) -> bool:
    if isinstance(error, DataError):
        return True
    if isinstance(error, RuntimeError):
        return not _is_closed(error)
    if isinstance(error, AttributeError):
        return not _was_closed_meanwhile(error)
    # Errors that redis-py has a class for are all of the passing kind; the others are told by their first word. Redis 6
    # puts that of an error inside a script behind a dash.
    return type(error) is ResponseError and _PASSING.isdisjoint(re.findall(r"(?:^|-)([A-Z]+)\b", str(error)))
