"""How a script is run: one command, one reply that is surely its own, and errors told apart."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hiredis import ReplyError

from session_notes_server.store import scripts
from session_notes_server.store.connection import RedisTarget
from session_notes_server.store.failures import NotDone, StoreUnavailable, is_elsewhere, is_outdated, raised
from session_notes_server.store.keys import Keys
from session_notes_server.store.link import Link, LinkLost, packed
from session_notes_server.store.nodes import Limits, Node, nodes
from session_notes_server.store.replicas import Replicas
from session_notes_server.store.scripts import Script

log = logging.getLogger(__name__)

# How often one call follows a cluster whose slots move, or sends a script that a node does not know.
_REFERRALS = 5
_ASKING = packed("ASKING")


class Runner:
    """Runs scripts on sessions, over any kind of Redis, on links of its own.

    Args:
        target: Where Redis is.
        prefix: What every key starts with; sidecars that share it share sessions.
        timeout: How long one operation may take.
        silence: How long Redis, in a cluster the node asked, may answer nobody meanwhile; None: as long as that.
        min_replicas: How many replicas must have whatever a reply tells of.
    """

    def __init__(
        self,
        target: RedisTarget,
        *,
        prefix: str,
        timeout: timedelta,
        silence: timedelta | None = None,
        min_replicas: int = 0,
    ) -> None:
        self.where = target.name
        self._keys = Keys(prefix)
        self._nodes = nodes(target, Limits(timeout.total_seconds(), (silence or timeout).total_seconds()))
        self._tags = itertools.count(1)
        self._replicas = Replicas(min_replicas, timeout.total_seconds())

    async def aclose(self) -> None:
        """Close all links. Operations still in flight fail."""
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
            link, _ = await self._run(scripts.PROBE, [key], ())
            if self._replicas.were_missed(link):
                await self._replicas.have_it(link, self._keys.marker(tag))
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
        link, answer = await self._run(script, self._keys.of(session_id), arguments)
        if self._replicas.enough:
            await self._replicas.have_it(link, self._keys.marker(session_id))
        return answer

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Link, list[Any]]:
        tag = next(self._tags)
        command, asking = script.by_digest(keys, tag, arguments), b""
        node = await self._nodes.of(keys[0])
        for _ in range(_REFERRALS):
            link = node.value or await node.get()
            try:
                *_, reply = await link.send(asking + command, 2 if asking else 1)
            except (LinkLost, TimeoutError) as error:
                raise StoreUnavailable from error
            if not isinstance(reply, ReplyError):
                return link, _own(link, reply, tag)
            # An error has no tag. Were it another call's, ours would be done twice, or refused for nothing.
            await self._in_step(link)
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
            link = await node.get()
            tags = [next(self._tags) for _ in indices]
            commands = b"".join(
                script.by_digest(keys[index], tag, calls[index][1]) for index, tag in zip(indices, tags, strict=True)
            )
            for index, tag, reply in zip(indices, tags, await _replies(link, commands, len(indices)), strict=True):
                # What a node refuses one by one, it may have good reasons for: a script it forgot, a slot that moved.
                refused = isinstance(reply, ReplyError)
                replies[index] = (
                    await self.run(script, calls[index][0], *calls[index][1]) if refused else _own(link, reply, tag)
                )

        await asyncio.gather(*(ask(node, indices) for node, indices in by_node.items()))
        return replies

    async def scan(self, node: int, cursor: int, count: int) -> tuple[list[str], tuple[int, int] | None]:
        """One step through the sessions of a node → some ids, and where to go on (None at the end).

        In a cluster, each primary is walked in turn.
        """
        nodes = await self._nodes.all()
        if node >= len(nodes):
            return [], None
        command = packed("SCAN", cursor, "MATCH", self._keys.pattern, "COUNT", count, "TYPE", "hash")
        next_cursor, keys = await self._in_step(await nodes[node].get(), command)
        ids = [self._keys.session_id(key) for key in keys]
        if int(next_cursor):
            return ids, (node, int(next_cursor))
        return ids, (node + 1, 0) if node + 1 < len(nodes) else None

    async def _in_step(self, link: Link, *commands: bytes) -> Any:
        """Send commands whose replies have no tag, and behind them one whose reply has → the first reply.

        Not a PING, which a Redis that cannot write to its disk refuses though it answers what reads.
        """
        tag = next(self._tags)
        fence = packed("EVAL", "return {ARGV[1]}", 0, tag)
        *replies, fenced = await _replies(link, b"".join([*commands, fence]), len(commands) + 1)
        if isinstance(fenced, ReplyError):
            if raised(fenced) is fenced:
                # There is nothing in it to refuse for good: this is another call's.
                link.lose()
            raise StoreUnavailable from fenced
        _own(link, fenced, tag)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise raised(reply)
        return replies[0] if replies else None


async def _replies(link: Link, commands: bytes, count: int) -> list[Any]:
    try:
        return await link.send(commands, count)
    except (LinkLost, TimeoutError) as error:
        raise StoreUnavailable from error


def _own(link: Link, reply: Any, tag: int) -> list[Any]:
    """Strip the tag off a reply. A stray one on a link shifts all that follow: it must not pass for ours."""
    if isinstance(reply, list) and reply[:1] == [b"%d" % tag]:
        return reply[1:]
    raise StoreUnavailable from link.distrust("a reply from Redis belongs to another call")
