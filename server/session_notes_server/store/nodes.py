"""Which node has a key: the only one, the one that Sentinel calls master, or the one that has the key's slot."""

from __future__ import annotations

import asyncio
import binascii
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hiredis import ReplyError

from session_notes_server.store.connection import Address, RedisTarget
from session_notes_server.store.failures import StoreUnavailable
from session_notes_server.store.kept import Backoff, Kept
from session_notes_server.store.link import Link, packed

Node = Kept[Link]
"""A node, to us, is the link to it that is kept open."""

_SLOTS = 16384


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
        """The node that has a key."""

    async def all(self) -> Sequence[Node]:
        """All nodes that have keys, in an order that stays."""

    def moved(self, key: str, address: Address) -> Node:
        """Note that a node referred us to another one for a key, from now on → that one."""

    def outdated(self, node: Node) -> None:
        """Note that a node is not, or no longer, what it was taken for."""

    async def aclose(self) -> None:
        """Close all links."""


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
        """It."""
        return self._node

    async def all(self) -> Sequence[Node]:
        """It alone."""
        return [self._node]

    def moved(self, key: str, address: Address) -> Node:
        """It is a node of a cluster, and used as if it were alone: the other one is none of ours."""
        raise StoreUnavailable from ReplyError("MOVED")

    def outdated(self, node: Node) -> None:
        """It is no master any more: Sentinel, if there is one, knows who is."""
        if self._target.service and node.value is not None:
            node.value.lose()

    async def aclose(self) -> None:
        """Close the link."""
        await _close(self._node)

    async def _open(self) -> Link:
        address = self._target.addresses[0]
        if self._target.service:
            address = await self._target.master(timeout_seconds=self._limits.timeout)
        return await _opened(self._node, self._target, address, self._limits)


class ClusterNodes:
    """The nodes of a cluster that have slots."""

    def __init__(self, target: RedisTarget, limits: Limits) -> None:
        self._target = target
        self._limits = limits
        self._nodes: dict[Address, Node] = {}
        self._slots: Kept[list[Address | None]] = Kept(
            self._ask_for_slots, Backoff(), attempt_seconds=limits.timeout, patience_seconds=limits.silence
        )
        self._closing: set[asyncio.Task[None]] = set()

    async def of(self, key: str) -> Node:
        """The node that has the key's slot, as far as we know."""
        address = (await self._slots.get())[_slot(key)]
        if address is None:
            self._slots.renew()
            raise StoreUnavailable
        node = self._at(address)
        if node.value is None:
            # Whoever takes its place has another address.
            self._slots.renew()
        return node

    async def all(self) -> Sequence[Node]:
        """Those that have slots, by their addresses."""
        addresses = {address for address in await self._slots.get() if address is not None}
        return [self._at(address) for address in sorted(addresses, key=str)]

    def _at(self, address: Address) -> Node:
        """The node at an address."""
        if address not in self._nodes:

            async def opened() -> Link:
                return await _opened(self._nodes[address], self._target, address, self._limits)

            self._nodes[address] = _node(opened, self._target.backoffs[address], self._limits)
        return self._nodes[address]

    def moved(self, key: str, address: Address) -> Node:
        """Note who has the key's slot now. Others may have moved with it."""
        if self._slots.value is not None:
            self._slots.value[_slot(key)] = address
        self._slots.renew()
        return self._at(address)

    def outdated(self, node: Node) -> None:
        """Ask anew who has what."""
        self._slots.renew()

    async def aclose(self) -> None:
        """Close all links."""
        await self._slots.aclose()
        await asyncio.gather(*map(_close, self._nodes.values()), *self._closing)

    async def _ask_for_slots(self) -> list[Address | None]:
        linked = [address for address, node in self._nodes.items() if node.value is not None]
        others = [*self._target.addresses, *self._nodes]
        # There may be time for some of them only, and then not always for the same.
        random.shuffle(others)
        failure: Exception = StoreUnavailable()
        for address in dict.fromkeys([*linked, *others]):
            try:
                async with asyncio.timeout(self._limits.timeout / 3):
                    slots = await self._slots_by(address)
            except (OSError, TimeoutError, ReplyError) as error:
                failure = error
            else:
                self._forget_all_but(set(slots))
                return slots
        raise failure

    async def _slots_by(self, address: Address) -> list[Address | None]:
        """Who has what, as the node at an address sees it."""
        link = await self._target.open(
            address, timeout_seconds=self._limits.timeout, silence_seconds=self._limits.timeout
        )
        try:
            (ranges,) = await link.send(packed("CLUSTER", "SLOTS"))
        finally:
            link.lose()
        if isinstance(ranges, ReplyError):
            raise ranges
        slots: list[Address | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            # A node that does not know its own name leaves it to us, who have reached it.
            owner = Address(host.decode() if host else address.host, port)
            slots[first : last + 1] = [owner] * (last + 1 - first)
        return slots

    def _forget_all_but(self, addresses: set[Address | None]) -> None:
        for address in self._nodes.keys() - addresses:
            task = asyncio.create_task(_close(self._nodes.pop(address)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _node(opened: Callable[[], Awaitable[Link]], backoff: Backoff, limits: Limits) -> Node:
    return Kept(opened, backoff, attempt_seconds=limits.timeout, patience_seconds=limits.silence)


async def _opened(node: Node, target: RedisTarget, address: Address, limits: Limits) -> Link:
    link = await target.open(address, timeout_seconds=limits.timeout, silence_seconds=limits.silence)
    link.when_lost(partial(node.lose, link))
    return link


async def _close(node: Node) -> None:
    link, node.value = node.value, None
    await node.aclose()
    if link is not None:
        link.lose()


def _slot(key: str) -> int:
    """The slot of one of our keys, which all have a hash tag: https://redis.io/docs/reference/cluster-spec/."""
    tag = key[key.index("{") + 1 : key.index("}")]
    return binascii.crc_hqx(tag.encode(), 0) % _SLOTS
