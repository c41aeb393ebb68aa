"""A cluster's hash slots: which node has which, as CLUSTER SLOTS and redirections tell in all their forms."""

from __future__ import annotations

import binascii
import itertools
from typing import Any

from session_notes_server.store.errors import Unusable
from session_notes_server.store.redis.url import Address

COUNT = 16384


class Slots:
    """The node that has each slot.

    Args:
        owners: By slot. None: no node serves it, or nobody says which.
    """

    def __init__(self, owners: list[Address | None]) -> None:
        self.owners = owners
        self.nodes = {owner for owner in owners if owner is not None}
        self._is_whole = None not in set(owners)
        self._tags: list[str] = []

    def move(self, slot: int, owner: Address) -> None:
        """Note that a node has a slot now."""
        self.owners[slot] = owner
        self.nodes.add(owner)

    def tags(self) -> list[str]:
        """A hash tag for each node, so that keys with it live there.

        Raises:
            Unusable: If there is a slot that no node serves.
        """
        if not self._is_whole:
            raise Unusable("the cluster has slots that no node serves, or none that it names")
        if not self._tags:
            missing = set(self.owners)
            for tag in map(str, itertools.count()):
                owner = self.owners[of_tag(tag)]
                if owner in missing:
                    missing.remove(owner)
                    self._tags.append(tag)
                if not missing:
                    break
        return self._tags


def slot_of(key: str) -> int:
    """The slot of one of our keys, which all have a hash tag: https://redis.io/docs/reference/cluster-spec/."""
    return of_tag(key[key.index("{") + 1 : key.index("}")])


def of_tag(tag: str) -> int:
    """The slot of keys with a hash tag."""
    return binascii.crc_hqx(tag.encode(), 0) % COUNT


def read(ranges: Any, asked: Address) -> Slots:
    """Read the answer to CLUSTER SLOTS.

    Args:
        ranges: The answer.
        asked: The node that gave it: where a node's host is unknown, it is the same as this one's.

    Raises:
        Unusable: If no node has slots, or it is no such answer.
    """
    owners: list[Address | None] = [None] * COUNT
    try:
        for first, last, *nodes in ranges:
            if nodes:
                owners[first : last + 1] = [_owner(nodes[0], asked)] * (last + 1 - first)
    except (TypeError, ValueError, AttributeError):
        raise Unusable("what it says of its cluster's slots is not understood (CLUSTER SLOTS)") from None
    if len(owners) != COUNT:
        raise Unusable("what it says of its cluster's slots is not understood (CLUSTER SLOTS)")
    if not any(owners):
        raise Unusable("it is in a cluster in which no node has slots that it can name")
    return Slots(owners)


def _owner(node: list[Any], asked: Address) -> Address | None:
    """The address of a node, which names itself by host, port, id and, from Redis 7 on, more names."""
    host, port, *more = node
    if host == b"?":
        # It prefers its host name and has none; the others are among the last.
        names = more[1] if len(more) > 1 else []
        host = dict(zip(names[::2], names[1::2], strict=False)).get(b"ip", b"?")
    return _address((host or b"").decode(), port, asked)


def referred(text: str, asked: Address) -> Address | None:
    """Read the `host:port` of a redirection, by the node that was asked; None: it names no host, or is malformed."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        return None
    return _address(host.removeprefix("[").removesuffix("]"), int(port), asked)


def _address(host: str, port: int, asked: Address) -> Address | None:
    if host == "?" or not 0 < port < 65536:
        return None
    # An unknown host is the one that was asked, unless that was a socket.
    host = host or (asked.host if asked.port else "")
    return Address(host, port) if host else None
