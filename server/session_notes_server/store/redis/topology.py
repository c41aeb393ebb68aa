"""Topology of the store: the node for a key, which is a single node, a Sentinel's master, or the owner of a slot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hiredis import ReplyError

from session_notes_server.store.errors import StoreUnavailable, Unconfirmed, Unusable
from session_notes_server.store.redis import cluster_slots
from session_notes_server.store.redis.connection import Connection, pack
from session_notes_server.store.redis.reconnecting import Backoff, Renewable
from session_notes_server.store.redis.sentinels import open_master
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.url import Address

Node = Renewable[Connection]
"""A node, represented by the connection to it."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits, in seconds."""

    call: float
    """For one call, or one attempt to connect."""

    silence: float
    """For a node that sends nothing while replies are pending."""


class Topology(Protocol):
    """Interface common to all kinds of store."""

    async def of(self, key: str) -> Node:
        """Return the node that has a key."""

    async def all(self) -> Sequence[Node]:
        """Return all nodes that have keys, in a stable order."""

    async def hash_tags(self) -> Sequence[str]:
        """Return a hash tag for each node that has keys. Keys with that tag are stored at the node.

        Raises:
            StoreUnavailable: If some keys have no node.
        """

    async def moved(self, key: str, to: str, by: Node) -> Node:
        """Follow a permanent redirection (MOVED), and return the new node.

        Args:
            key: The key.
            to: `host:port`, in any form that nodes use.
            by: The node that redirects.

        Raises:
            StoreUnavailable: If no node reveals the address.
        """

    def asked(self, to: str, by: Node) -> Node:
        """Follow a redirection of one command (ASK), and return the other node.

        Raises:
            StoreUnavailable: If the redirection contains no address.
        """

    def refresh(self, node: Node) -> None:
        """Read the topology again, because this node may no longer be the right one."""

    async def aclose(self) -> None:
        """Close all connections."""


def open_topology(target: RedisTarget, timeouts: Timeouts) -> Topology:
    """Return the topology of any kind of store, without connecting yet."""
    return Cluster(target, timeouts) if target.is_cluster else SingleNode(target, timeouts)


class SingleNode:
    """A single node, or the master behind Sentinels."""

    def __init__(self, target: RedisTarget, timeouts: Timeouts) -> None:
        self._target = target
        self._timeouts = timeouts
        self._node = _node(self._open, target.backoffs[target.addresses[0]], timeouts)

    async def of(self, key: str) -> Node:
        """Return the node."""
        return self._node

    async def all(self) -> Sequence[Node]:
        """Return the only node, in a list."""
        return [self._node]

    async def hash_tags(self) -> Sequence[str]:
        """Return any tag."""
        return ["0"]

    async def moved(self, key: str, to: str, by: Node) -> Node:
        """Raise StoreUnavailable: this is a node of a cluster, used as a single node."""
        raise StoreUnavailable from ReplyError("MOVED")

    def asked(self, to: str, by: Node) -> Node:
        """Raise StoreUnavailable, as `moved` does."""
        raise StoreUnavailable from ReplyError("MOVED")

    def refresh(self, node: Node) -> None:
        """Connect again: Sentinel, DNS or a proxy may now lead to another node."""
        node.renew()

    async def aclose(self) -> None:
        """Close the connection."""
        await _close(self._node)

    async def _open(self) -> Connection:
        if not self._target.service:
            return await _connect(self._node, self._target, self._target.addresses[0], self._timeouts)
        opened = await open_master(
            self._target, timeout_seconds=self._timeouts.call, silence_seconds=self._timeouts.silence
        )
        return _tied(self._node, opened.connection)


class Cluster:
    """The nodes of a cluster that have slots."""

    def __init__(self, target: RedisTarget, timeouts: Timeouts) -> None:
        self._target = target
        self._timeouts = timeouts
        self._nodes: dict[Address, Node] = {}
        self._slots: Renewable[cluster_slots.SlotMap] = Renewable(
            self._fetch_slots, Backoff(), patience_seconds=timeouts.silence
        )
        self._closing: set[asyncio.Task[None]] = set()

    async def of(self, key: str) -> Node:
        """Return the node that has the key's slot, according to the last known slots."""
        address = (await self._slots.get()).owners[cluster_slots.slot_of(key)]
        if address is None:
            self._slots.renew()
            raise StoreUnavailable from ReplyError("CLUSTERDOWN")
        node = self._at(address)
        if node.value is None:
            # Another node may have taken over its slots, at another address.
            self._slots.renew()
        return node

    async def all(self) -> Sequence[Node]:
        """Return the nodes that have slots, sorted by address."""
        return [self._at(address) for address in sorted((await self._slots.get()).nodes, key=str)]

    async def hash_tags(self) -> Sequence[str]:
        """Return a hash tag for each node that has slots."""
        try:
            return (await self._slots.get()).hash_tags()
        except Unusable as error:
            self._slots.renew()
            raise StoreUnavailable from error

    def _at(self, address: Address) -> Node:
        if address not in self._nodes:

            async def connect() -> Connection:
                return await _connect(node, self._target, address, self._timeouts)

            node = self._nodes[address] = _node(connect, self._target.backoffs[address], self._timeouts)
        return self._nodes[address]

    async def moved(self, key: str, to: str, by: Node) -> Node:
        """Record the new owner of the key's slot, and fetch all slots again, since others may have moved too."""
        address = self._redirection(to, by)
        if address is not None and self._slots.value is not None:
            self._slots.value.move(cluster_slots.slot_of(key), address)
        self._slots.renew()
        if address is None:
            # The redirection names no host. CLUSTER SLOTS contains more names.
            await self._slots.renewed()
            node = await self.of(key)
            if node is by:
                raise StoreUnavailable from Unconfirmed(_UNNAMED)
            return node
        return self._at(address)

    def asked(self, to: str, by: Node) -> Node:
        """Return the other node for one command, while the slot is being moved there."""
        address = self._redirection(to, by)
        if address is None:
            raise StoreUnavailable from Unconfirmed(_UNNAMED)
        return self._at(address)

    def _redirection(self, to: str, by: Node) -> Address | None:
        return next((cluster_slots.parse_redirection(to, at) for at, node in self._nodes.items() if node is by), None)

    def refresh(self, node: Node) -> None:
        """Fetch the slots again."""
        self._slots.renew()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._slots.aclose()
        await asyncio.gather(*map(_close, self._nodes.values()), *self._closing)

    async def _fetch_slots(self) -> cluster_slots.SlotMap:
        connected = [address for address, node in self._nodes.items() if node.value is not None]
        others = [*self._target.addresses, *self._nodes]
        # There may be time for only a few of them, and these should not always be the same.
        random.shuffle(others)
        failures: list[Exception] = []
        try:
            async with asyncio.timeout(self._timeouts.call):
                for address in dict.fromkeys([*connected, *others]):
                    try:
                        slots = await self._fetch_slots_from(address)
                    except (OSError, ReplyError) as error:
                        failures.append(error)
                    else:
                        self._close_all_but(slots.nodes)
                        return slots
        except TimeoutError as error:
            failures.append(error)
        # A reply from one node is more informative than the failure to reach another.
        raise next((error for error in failures if isinstance(error, ReplyError | Unusable)), failures[0])

    async def _fetch_slots_from(self, address: Address) -> cluster_slots.SlotMap:
        seconds = self._timeouts.call / 3
        connection = (await self._target.open(address, timeout_seconds=seconds, silence_seconds=seconds)).connection
        try:
            [reply] = await connection.send(pack("CLUSTER", "SLOTS"))
        finally:
            connection.abort()
        if isinstance(reply, ReplyError):
            raise reply
        return cluster_slots.parse_slots(reply, address)

    def _close_all_but(self, addresses: set[Address]) -> None:
        for address in self._nodes.keys() - addresses:
            task = asyncio.create_task(_close(self._nodes.pop(address)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


_UNNAMED = "a node of the cluster redirects to another one without naming its host (cluster-preferred-endpoint-type)"


def _node(connect: Callable[[], Awaitable[Connection]], backoff: Backoff, timeouts: Timeouts) -> Node:
    return Renewable(connect, backoff, patience_seconds=timeouts.silence, discard=Connection.retire)


async def _connect(node: Node, target: RedisTarget, address: Address, timeouts: Timeouts) -> Connection:
    opened = await target.open(address, timeout_seconds=timeouts.call, silence_seconds=timeouts.silence)
    return _tied(node, opened.connection)


def _tied(node: Node, connection: Connection) -> Connection:
    """Notify the node when the connection is lost."""
    connection.on_lost(partial(node.lose, connection))
    return connection


async def _close(node: Node) -> None:
    connection, node.value = node.value, None
    await node.aclose()
    if connection is not None:
        connection.abort()
