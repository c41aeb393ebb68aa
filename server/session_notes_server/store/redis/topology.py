"""Which node has a key: the only one, the one that Sentinel calls master, or the one that has the key's slot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hiredis import ReplyError

from session_notes_server.store.errors import NotDone, StoreUnavailable, Unusable
from session_notes_server.store.redis import cluster_slots
from session_notes_server.store.redis.connection import Connection, pack
from session_notes_server.store.redis.reconnecting import Backoff, Renewable
from session_notes_server.store.redis.sentinels import open_master
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.url import Address

Node = Renewable[Connection]
"""A node, to us, is the connection to it that is kept open."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    timeout: float
    """One call, or one attempt to connect."""

    silence: float
    """A node that answers nobody."""


class Nodes(Protocol):
    """What the kinds of store have in common."""

    async def of(self, key: str) -> Node:
        """Return the node that has a key."""

    async def all(self) -> Sequence[Node]:
        """Return all nodes that have keys, in an order that stays."""

    async def tags(self) -> Sequence[str]:
        """Return a hash tag for each of these nodes, so that a key with it lives there.

        Raises:
            StoreUnavailable: If there are keys that no node has.
        """

    async def moved(self, key: str, to: str, by: Node) -> Node:
        """Note that a node referred us to another one for a key, from now on, and return that one.

        Args:
            key: The key.
            to: `host:port`, in any form that a node writes it in.
            by: The node that said so.

        Raises:
            StoreUnavailable: If nobody says where that is.
        """

    def asked(self, to: str, by: Node) -> Node:
        """Return the node that another one referred us to for one command.

        Raises:
            StoreUnavailable: If it does not say where that is.
        """

    def outdated(self, node: Node) -> None:
        """Note that a node is not, or no longer, what it was taken for."""

    async def aclose(self) -> None:
        """Close all connections."""


def nodes(target: RedisTarget, limits: Limits) -> Nodes:
    """The nodes of any kind of store."""
    return ClusterNodes(target, limits) if target.is_cluster else OneNode(target, limits)


class OneNode:
    """A single node, or the master of a Sentinel."""

    def __init__(self, target: RedisTarget, limits: Limits) -> None:
        self._target = target
        self._limits = limits
        self._node = _node(self._open, target.backoffs[target.addresses[0]], limits)

    async def of(self, key: str) -> Node:
        """Return the node."""
        return self._node

    async def all(self) -> Sequence[Node]:
        """Return it alone."""
        return [self._node]

    async def tags(self) -> Sequence[str]:
        """Return any tag."""
        return ["0"]

    async def moved(self, key: str, to: str, by: Node) -> Node:
        """Refuse: it is a node of a cluster, used as if it were alone."""
        raise StoreUnavailable from ReplyError("MOVED")

    def asked(self, to: str, by: Node) -> Node:
        """Refuse, as above."""
        raise StoreUnavailable from ReplyError("MOVED")

    def outdated(self, node: Node) -> None:
        """Connect anew: Sentinel, or whatever resolves the name and forwards connections, may know of another."""
        node.renew()

    async def aclose(self) -> None:
        """Close the connection."""
        await _close(self._node)

    async def _open(self) -> Connection:
        limits = self._limits
        if self._target.service:
            opened = await open_master(self._target, timeout_seconds=limits.timeout, silence_seconds=limits.silence)
            return _kept(self._node, opened.connection)
        return await _opened(self._node, self._target, self._target.addresses[0], limits)


class ClusterNodes:
    """The nodes of a cluster that have slots."""

    def __init__(self, target: RedisTarget, limits: Limits) -> None:
        self._target = target
        self._limits = limits
        self._nodes: dict[Address, Node] = {}
        self._slots: Renewable[cluster_slots.Slots] = Renewable(
            self._ask_for_slots, Backoff(), patience_seconds=limits.silence
        )
        self._closing: set[asyncio.Task[None]] = set()

    async def of(self, key: str) -> Node:
        """Return the node that has the key's slot, as far as we know."""
        address = (await self._slots.get()).owners[cluster_slots.slot_of(key)]
        if address is None:
            self._slots.renew()
            raise StoreUnavailable from ReplyError("CLUSTERDOWN")
        node = self._at(address)
        if node.value is None:
            # Whoever takes its place has another address.
            self._slots.renew()
        return node

    async def all(self) -> Sequence[Node]:
        """Return those that have slots, by their addresses."""
        return [self._at(address) for address in sorted((await self._slots.get()).nodes, key=str)]

    async def tags(self) -> Sequence[str]:
        """Return one for each node that has slots."""
        try:
            return (await self._slots.get()).tags()
        except Unusable as error:
            self._slots.renew()
            raise StoreUnavailable from error

    def _at(self, address: Address) -> Node:
        """The node at an address."""
        if address not in self._nodes:

            async def opened() -> Connection:
                return await _opened(node, self._target, address, self._limits)

            node = self._nodes[address] = _node(opened, self._target.backoffs[address], self._limits)
        return self._nodes[address]

    async def moved(self, key: str, to: str, by: Node) -> Node:
        """Note who has the key's slot now. Others may have moved with it."""
        address = self._referred(to, by)
        if address is not None and self._slots.value is not None:
            self._slots.value.move(cluster_slots.slot_of(key), address)
        self._slots.renew()
        if address is None:
            # It has no name for the other one; CLUSTER SLOTS has more of them.
            await self._slots.renewed()
            node = await self.of(key)
            if node is by:
                raise StoreUnavailable from NotDone(_UNNAMED)
            return node
        return self._at(address)

    def asked(self, to: str, by: Node) -> Node:
        """Return the other one, for this command alone: the slot is still on its way there."""
        address = self._referred(to, by)
        if address is None:
            raise StoreUnavailable from NotDone(_UNNAMED)
        return self._at(address)

    def _referred(self, to: str, by: Node) -> Address | None:
        return next((cluster_slots.referred(to, at) for at, node in self._nodes.items() if node is by), None)

    def outdated(self, node: Node) -> None:
        """Ask anew who has what."""
        self._slots.renew()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._slots.aclose()
        await asyncio.gather(*map(_close, self._nodes.values()), *self._closing)

    async def _ask_for_slots(self) -> cluster_slots.Slots:
        connected = [address for address, node in self._nodes.items() if node.value is not None]
        others = [*self._target.addresses, *self._nodes]
        # There may be time for some of them only, and then not always for the same.
        random.shuffle(others)
        failures: list[Exception] = []
        try:
            async with asyncio.timeout(self._limits.timeout):
                for address in dict.fromkeys([*connected, *others]):
                    try:
                        found = await self._slots_by(address)
                    except (OSError, ReplyError) as error:
                        failures.append(error)
                    else:
                        self._forget_all_but(found.nodes)
                        return found
        except TimeoutError as error:
            failures.append(error)
        # What one of them says tells more than that another cannot be reached.
        raise next((error for error in failures if isinstance(error, ReplyError | Unusable)), failures[0])

    async def _slots_by(self, address: Address) -> cluster_slots.Slots:
        """Who has what, as the node at an address sees it."""
        seconds = self._limits.timeout / 3
        connection = (await self._target.open(address, timeout_seconds=seconds, silence_seconds=seconds)).connection
        try:
            [ranges] = await connection.send(pack("CLUSTER", "SLOTS"))
        finally:
            connection.abort()
        if isinstance(ranges, ReplyError):
            raise ranges
        return cluster_slots.read(ranges, address)

    def _forget_all_but(self, addresses: set[Address]) -> None:
        for address in self._nodes.keys() - addresses:
            task = asyncio.create_task(_close(self._nodes.pop(address)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


_UNNAMED = "a node of the cluster refers us to another one and names no host (cluster-preferred-endpoint-type)"


def _node(opened: Callable[[], Awaitable[Connection]], backoff: Backoff, limits: Limits) -> Node:
    return Renewable(opened, backoff, patience_seconds=limits.silence, discard=Connection.retire)


async def _opened(node: Node, target: RedisTarget, address: Address, limits: Limits) -> Connection:
    opened = await target.open(address, timeout_seconds=limits.timeout, silence_seconds=limits.silence)
    return _kept(node, opened.connection)


def _kept(node: Node, connection: Connection) -> Connection:
    connection.when_lost(partial(node.lose, connection))
    return connection


async def _close(node: Node) -> None:
    connection, node.value = node.value, None
    await node.aclose()
    if connection is not None:
        connection.abort()
