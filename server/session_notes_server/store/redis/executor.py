"""How a script is run: one command, one reply that is surely its own, and errors told apart."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from hiredis import ReplyError

from session_notes_server.store import scripts
from session_notes_server.store.errors import NotDone, StoreUnavailable, codes, is_elsewhere, is_outdated, raised
from session_notes_server.store.keys import Keys
from session_notes_server.store.records import ScanPosition
from session_notes_server.store.redis.connection import Connection, ConnectionLost, pack
from session_notes_server.store.redis.replication import Replicas
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.topology import Limits, Node, nodes
from session_notes_server.store.scripts import Script

log = logging.getLogger(__name__)
T = TypeVar("T")

# How often one call follows a cluster whose slots move, or sends a script that a node does not know.
_REFERRALS = 5
_ASKING = pack("ASKING")

_WRONG_TYPE = (
    "a key of a session holds a value of another type than ours: another program writes keys that begin with '%s'. "
    "Choose another --prefix, or delete that key"
)


class Executor:
    """Runs scripts on sessions, over any kind of Redis, on connections of its own.

    Args:
        target: Where Redis is.
        prefix: What every key starts with; sidecars that share it share sessions.
        timeout: How long one operation may take.
        silence_timeout: How long Redis, in a cluster the node asked, may answer nobody; None: `timeout`.
        min_replicas: How many replicas must have whatever a reply tells of.
    """

    def __init__(
        self,
        target: RedisTarget,
        *,
        prefix: str,
        timeout: timedelta,
        silence_timeout: timedelta | None = None,
        min_replicas: int = 0,
    ) -> None:
        self.store_name = target.name
        self._keys = Keys(prefix)
        self._nodes = nodes(target, Limits(timeout.total_seconds(), (silence_timeout or timeout).total_seconds()))
        self._tags = itertools.count(1)
        self._turn = asyncio.Semaphore(1)
        self._is_cluster = target.is_cluster
        self._replicas = Replicas(min_replicas, timeout.total_seconds())

    async def aclose(self) -> None:
        """Close all connections. Operations still in flight fail."""
        await self._nodes.aclose()

    async def ping(self) -> None:
        """Find out whether Redis does what calls ask of it, in a cluster every node that has slots.

        A script that could write is run, and writes nothing: a PING is answered where every write is refused.

        Raises:
            StoreUnavailable: If it does not; the cause says why.
        """
        await asyncio.gather(*(self._probe(tag) for tag in await self._nodes.tags()))

    async def _probe(self, tag: str) -> None:
        key = self._keys.probe(tag)
        try:
            connection, _ = await self._run(scripts.PROBE, [key], ())
            if self._replicas.were_missed(connection):
                await self._replicas.have_it(connection, self._keys.marker(tag))
        except StoreUnavailable as error:
            if not is_elsewhere(error.__cause__):
                raise
        except ReplyError as refusal:
            raise StoreUnavailable from refusal

    async def run(self, script: Script, session_id: str, *arguments: Any) -> list[Any]:
        """Run a script on a session and return its reply, without the tag.

        Raises:
            StoreUnavailable: If its outcome is unknown.
        """
        connection, answer = await self._run(script, self._keys.of(session_id), arguments)
        if self._replicas.enough:
            await self._replicas.have_it(connection, self._keys.marker(session_id))
        return answer

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Connection, list[Any]]:
        tag = next(self._tags)
        command, asking = script.by_digest(keys, tag, arguments), b""
        node = await self._nodes.of(keys[0])
        for _ in range(_REFERRALS):
            connection = node.value or await node.get()
            try:
                *_, reply = await connection.send(asking + command, 2 if asking else 1)
            except (ConnectionLost, TimeoutError) as error:
                raise StoreUnavailable from error
            if not isinstance(reply, ReplyError):
                return connection, _own(connection, reply, tag)
            # An error has no tag. Were it another call's, ours would be done twice, or refused for nothing.
            await self._in_step(connection)
            match str(reply).split():
                case ["NOSCRIPT", *_]:
                    command = script.in_full(keys, tag, arguments)
                case ["MOVED", _, address]:
                    node, asking = await self._nodes.moved(keys[0], address, node), b""
                case ["ASK", _, address]:
                    # Of a slot on its way, a node answers only what names one key, or has them all: TRYAGAIN else.
                    node, asking = self._nodes.asked(address, node), _ASKING
                case _:
                    if is_outdated(reply):
                        self._nodes.outdated(node)
                    if "WRONGTYPE" in codes(reply):
                        log.error(_WRONG_TYPE, self._keys.prefix)
                    raise raised(reply)
        raise StoreUnavailable from NotDone("nodes of the cluster refer us to each other for a slot (MOVED)")

    async def run_many(self, script: Script, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
        """Run a script on many sessions in one round trip (one a node), with arguments for each → their replies."""
        keys = [self._keys.of(session_id) for session_id, _ in calls]
        by_node: dict[Node, list[int]] = {}
        for index, of_session in enumerate(keys):
            by_node.setdefault(await self._nodes.of(of_session[0]), []).append(index)
        replies: list[list[Any]] = [[]] * len(calls)

        async def ask(node: Node, indices: list[int]) -> None:
            connection = await node.get()
            tags = [next(self._tags) for _ in indices]
            commands = b"".join(
                script.by_digest(keys[index], tag, calls[index][1]) for index, tag in zip(indices, tags, strict=True)
            )
            for index, tag, reply in zip(
                indices, tags, await _replies(connection, commands, len(indices)), strict=True
            ):
                # What a node refuses one by one, it may have good reasons for: a script it forgot, a slot that moved.
                refused = isinstance(reply, ReplyError)
                replies[index] = (
                    await self.run(script, calls[index][0], *calls[index][1])
                    if refused
                    else _own(connection, reply, tag)
                )

        await asyncio.gather(*(ask(node, indices) for node, indices in by_node.items()))
        return replies

    async def run_serially(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask for something large, one at a time.

        A caller that leaves keeps its turn until the reply has come: the store makes it in any case.
        """
        await self._turn.acquire()
        asking = asyncio.ensure_future(ask())
        asking.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(asking)

    async def scan(self, place: ScanPosition | None, count: int) -> tuple[list[str], ScanPosition | None]:
        """Take one step through the sessions: see `Store.scan_sessions`.

        In a cluster, each primary is walked in turn.
        """
        nodes = await self._nodes.all()
        described = await asyncio.gather(*map(self._description, nodes))
        known = hashlib.sha256(repr(described).encode()).hexdigest()[:16]
        if place is None or place.nodes != known:
            place = ScanPosition(known, 0, 0)
        if place.node >= len(nodes):
            return [], None
        command = pack("SCAN", place.cursor, "MATCH", self._keys.pattern, "COUNT", count, "TYPE", "hash")
        next_cursor, keys = (await self._in_step(await nodes[place.node].get(), command))[0]
        ids = [self._keys.session_id(key) for key in keys]
        if int(next_cursor):
            return ids, place._replace(cursor=int(next_cursor))
        return ids, ScanPosition(known, place.node + 1, 0) if place.node + 1 < len(nodes) else None

    async def _description(self, node: Node) -> list[Any]:
        """Return what tells a process, and the slots it knows of, from another: a new one scans in another order."""
        commands = [pack("INFO", "server"), *([pack("CLUSTER", "SLOTS")] if self._is_cluster else [])]
        info, *slots = await self._in_step(await node.get(), *commands)
        owners = [(first, last, master[2:3]) for first, last, master, *_ in (slots[0] if slots else [])]
        return [re.findall(rb"^run_id:(\w+)", info, re.MULTILINE), owners]

    async def _in_step(self, connection: Connection, *commands: bytes) -> list[Any]:
        """Send commands whose replies have no tag, and behind them one whose reply has, and return the replies.

        Not a PING, which a Redis that cannot write to its disk refuses though it answers what reads.
        """
        tag = next(self._tags)
        fence = pack("EVAL", "return {ARGV[1]}", 0, tag)
        *replies, fenced = await _replies(connection, b"".join([*commands, fence]), len(commands) + 1)
        if isinstance(fenced, ReplyError):
            if raised(fenced) is fenced:
                # There is nothing in it to refuse for good: this is another call's.
                connection.abort()
            raise StoreUnavailable from fenced
        _own(connection, fenced, tag)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise raised(reply)
        return replies


async def _replies(connection: Connection, commands: bytes, count: int) -> list[Any]:
    try:
        return await connection.send(commands, count)
    except (ConnectionLost, TimeoutError) as error:
        raise StoreUnavailable from error


def _own(connection: Connection, reply: Any, tag: int) -> list[Any]:
    """Strip the tag off a reply. A stray one on a connection shifts all that follow: it must not pass for ours."""
    if isinstance(reply, list) and reply[:1] == [b"%d" % tag]:
        return reply[1:]
    raise StoreUnavailable from connection.distrust("a reply from Redis belongs to another call")
