"""Execution of scripts: one command per call, with each reply matched to its call and each error classified."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from hiredis import ReplyError

from session_notes_server.store.errors import (
    ConnectionLost,
    StoreUnavailable,
    Unconfirmed,
    error_codes,
    exception_for,
    is_redirection,
    topology_is_outdated,
)
from session_notes_server.store.instrumentation import Instrumentation
from session_notes_server.store.keys import Keys
from session_notes_server.store.records import ScanPosition
from session_notes_server.store.redis.connection import Connection, pack
from session_notes_server.store.redis.replication import ReplicaAcks
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.topology import Node, Timeouts, open_topology
from session_notes_server.store.scripts import PROBE, SCRIPTS, Arguments, Script

log = logging.getLogger(__name__)
T = TypeVar("T")

# Attempts per call. A redirection costs one, and so does a node that does not know the script.
_MAX_ATTEMPTS = 5
_ASKING = pack("ASKING")

_WRONG_TYPE = (
    "a key of a session holds a value of another type: another program writes keys that begin with '%s'. Choose "
    "another --prefix, or delete that key"
)


class Executor:
    """Runs scripts on sessions in any kind of Redis, over its own connections.

    Args:
        target: The Redis to use.
        prefix: Prefix of every key. Sidecars with the same prefix share sessions.
        timeout: Limit for one operation.
        silence_timeout: How long a node may send nothing while replies are pending. None: `timeout`.
        min_replicas: Number of replicas that must have the data behind a reply before it is returned.
        instrumentation: Wraps each script, batch of scripts and scan.
    """

    def __init__(
        self,
        target: RedisTarget,
        *,
        prefix: str,
        timeout: timedelta,
        silence_timeout: timedelta | None = None,
        min_replicas: int = 0,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.store_name = target.name
        self._keys = Keys(prefix)
        self._nodes = open_topology(
            target, Timeouts(timeout.total_seconds(), (silence_timeout or timeout).total_seconds())
        )
        self._tags = itertools.count(1)
        self._serial = asyncio.Semaphore(1)
        self._is_cluster = target.is_cluster
        self._replicas = ReplicaAcks(min_replicas, timeout.total_seconds())
        self._instrumentation = instrumentation

    async def aclose(self) -> None:
        """Close all connections. Operations in flight fail."""
        await self._nodes.aclose()

    async def ping(self) -> None:
        """Check that Redis serves calls. In a cluster, check every node that has slots.

        This runs a write that changes nothing. A PING would succeed on a node that refuses every write.

        Raises:
            StoreUnavailable: If it does not. The cause is the reason.
        """
        await asyncio.gather(*(self._probe(tag) for tag in await self._nodes.hash_tags()))

    async def _probe(self, hash_tag: str) -> None:
        try:
            connection, _ = await self._execute(PROBE, [self._keys.probe(hash_tag)], ())
            if self._replicas.are_missing(connection):
                await self._replicas.wait(connection, self._keys.marker(hash_tag))
        except StoreUnavailable as error:
            if not is_redirection(error.__cause__):
                raise
        except ReplyError as refusal:
            raise StoreUnavailable from refusal

    def run(self, session_id: str, arguments: Arguments) -> Coroutine[Any, Any, list[Any]]:
        """Run a script on a session and return its reply, without the tag.

        Raises:
            StoreUnavailable: If the outcome is unknown.
        """
        script = SCRIPTS[type(arguments)]
        work = self._run(script, session_id, arguments)
        return work if self._instrumentation is None else self._instrumentation.instrument(script.name, work)

    async def _run(self, script: Script, session_id: str, arguments: Arguments) -> list[Any]:
        connection, reply = await self._execute(script, self._keys.of(session_id), arguments)
        if self._replicas.required:
            await self._replicas.wait(connection, self._keys.marker(session_id))
        return reply

    async def _execute(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any]
    ) -> tuple[Connection, list[Any]]:
        tag = next(self._tags)
        command, asking = script.evalsha(keys, tag, arguments), b""
        node = await self._nodes.of(keys[0])
        for _ in range(_MAX_ATTEMPTS):
            connection = node.value or await node.get()
            try:
                *_, reply = await connection.send(asking + command, 2 if asking else 1)
            except (ConnectionLost, TimeoutError) as error:
                raise StoreUnavailable from error
            if not isinstance(reply, ReplyError):
                return connection, _strip_tag(connection, reply, tag)
            # An error carries no tag. If it belonged to another call, this one could run twice or fail for no reason.
            await self._verify(connection)
            match str(reply).split():
                case ["NOSCRIPT", *_]:
                    command = script.eval(keys, tag, arguments)
                case ["MOVED", _, address]:
                    node, asking = await self._nodes.moved(keys[0], address, node), b""
                case ["ASK", _, address]:
                    # While a slot migrates, a node serves a command only if it names a single key or the node has all
                    # of its keys. Otherwise it replies TRYAGAIN.
                    node, asking = self._nodes.asked(address, node), _ASKING
                case _:
                    if topology_is_outdated(reply):
                        self._nodes.refresh(node)
                    if "WRONGTYPE" in error_codes(reply):
                        log.error(_WRONG_TYPE, self._keys.prefix)
                    raise exception_for(reply)
        raise StoreUnavailable from Unconfirmed("nodes of the cluster redirect a slot to each other (MOVED)")

    def run_many(self, calls: Sequence[tuple[str, Arguments]]) -> Coroutine[Any, Any, list[list[Any]]]:
        """Run one script on many sessions, in one round trip per node, and return the replies in order.

        Args:
            calls: Session ids and arguments, at least one, all of the same script.

        Raises:
            StoreUnavailable: If the outcome of a call is unknown.
        """
        script = SCRIPTS[type(calls[0][1])]
        work = self._run_many(script, calls)
        if self._instrumentation is None:
            return work
        return self._instrumentation.instrument(script.name, work, batch_size=len(calls))

    async def _run_many(self, script: Script, calls: Sequence[tuple[str, Arguments]]) -> list[list[Any]]:
        keys = [self._keys.of(session_id) for session_id, _ in calls]
        by_node: dict[Node, list[int]] = {}
        for index, session_keys in enumerate(keys):
            by_node.setdefault(await self._nodes.of(session_keys[0]), []).append(index)
        replies: list[list[Any]] = [[]] * len(calls)

        async def run_at(node: Node, indices: list[int]) -> None:
            connection = await node.get()
            tags = [next(self._tags) for _ in indices]
            commands = b"".join(
                script.evalsha(keys[index], tag, calls[index][1]) for index, tag in zip(indices, tags, strict=True)
            )
            received = await _send(connection, commands, len(indices))
            for index, tag, reply in zip(indices, tags, received, strict=True):
                if isinstance(reply, ReplyError):
                    # The node may not know the script or may no longer have the slot. `run` handles both.
                    replies[index] = await self.run(*calls[index])
                else:
                    replies[index] = _strip_tag(connection, reply, tag)

        await asyncio.gather(*(run_at(node, indices) for node, indices in by_node.items()))
        return replies

    async def run_serially(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation with a large reply while this executor runs no other such operation.

        If the caller is cancelled, the operation still finishes before the next one starts, since the store produces
        its reply anyway.
        """
        await self._serial.acquire()
        work = asyncio.ensure_future(operation())
        work.add_done_callback(self._end_serial)
        return await asyncio.shield(work)

    def _end_serial(self, work: asyncio.Future[Any]) -> None:
        self._serial.release()
        if not work.cancelled():
            work.exception()  # If the caller was cancelled, asyncio would log it as never retrieved.

    def scan(self, position: ScanPosition, count: int) -> Coroutine[Any, Any, tuple[list[str], ScanPosition | None]]:
        """Take one step of a walk through all sessions: see `Store.scan_sessions`.

        A cluster's nodes are walked one after the other.
        """
        work = self._scan(position, count)
        return work if self._instrumentation is None else self._instrumentation.instrument("scan_sessions", work)

    async def _scan(self, position: ScanPosition, count: int) -> tuple[list[str], ScanPosition | None]:
        nodes = await self._nodes.all()
        identities = await asyncio.gather(*map(self._identity, nodes))
        digest = hashlib.sha256(repr(identities).encode()).hexdigest()[:16]
        if position.nodes != digest:
            position = ScanPosition(digest, 0, 0)
        if position.node >= len(nodes):
            return [], None
        command = pack("SCAN", position.cursor, "MATCH", self._keys.pattern, "COUNT", count, "TYPE", "hash")
        next_cursor, keys = (await self._verify(await nodes[position.node].get(), command))[0]
        ids = [self._keys.session_id(key) for key in keys]
        if int(next_cursor):
            return ids, position._replace(cursor=int(next_cursor))
        return ids, ScanPosition(digest, position.node + 1, 0) if position.node + 1 < len(nodes) else None

    async def _identity(self, node: Node) -> list[Any]:
        """Return the id of the node's process, and the slots it knows of. A new process scans in a different order."""
        commands = [pack("INFO", "server"), *([pack("CLUSTER", "SLOTS")] if self._is_cluster else [])]
        info, *slots = await self._verify(await node.get(), *commands)
        owners = [(first, last, master[2:3]) for first, last, master, *_ in (slots[0] if slots else [])]
        return [re.findall(rb"^run_id:(\w+)", info, re.MULTILINE), owners]

    async def _verify(self, connection: Connection, *commands: bytes) -> list[Any]:
        """Send commands whose replies carry no tag, followed by a tagged one, and return the untagged replies.

        The right tag at the end proves that the replies match the commands. A PING in its place would not work, because
        a Redis that cannot write to its disk refuses it, although it serves reads.
        """
        tag = next(self._tags)
        fence = pack("EVAL", "return {ARGV[1]}", 0, tag)
        *replies, fence_reply = await _send(connection, b"".join([*commands, fence]), len(commands) + 1)
        if isinstance(fence_reply, ReplyError):
            if exception_for(fence_reply) is fence_reply:
                # The fence cannot be refused permanently, so this error belongs to another call.
                connection.abort()
            raise StoreUnavailable from fence_reply
        _strip_tag(connection, fence_reply, tag)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise exception_for(reply)
        return replies


async def _send(connection: Connection, commands: bytes, count: int) -> list[Any]:
    try:
        return await connection.send(commands, count)
    except (ConnectionLost, TimeoutError) as error:
        raise StoreUnavailable from error


def _strip_tag(connection: Connection, reply: Any, tag: int) -> list[Any]:
    """Return a reply without its tag.

    Raises:
        StoreUnavailable: If the tag differs. A stray reply shifts all that follow, so the connection is closed.
    """
    if isinstance(reply, list) and reply[:1] == [b"%d" % tag]:
        return reply[1:]
    raise StoreUnavailable from connection.abort_untrusted("a reply from Redis belongs to another call")
