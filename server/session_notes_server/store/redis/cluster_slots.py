"""Hash slots of a cluster and the nodes that serve them, parsed from CLUSTER SLOTS and from redirections."""

from __future__ import annotations

import binascii
import itertools
from typing import Any

from session_notes_server.store.errors import Unusable
from session_notes_server.store.redis.url import Address

COUNT = 16384


class SlotMap:
    """The node that serves each slot.

    Args:
        owners: Addresses by slot. None: no node serves the slot, or the owner is unnamed.
    """

    def __init__(self, owners: list[Address | None]) -> None:
        self.owners = owners
        self.nodes = {owner for owner in owners if owner is not None}
        self._is_complete = None not in set(owners)
        self._hash_tags: list[str] = []

    def move(self, slot: int, owner: Address) -> None:
        """Record the new owner of a slot."""
        self.owners[slot] = owner
        self.nodes.add(owner)

    def hash_tags(self) -> list[str]:
        """Return a hash tag for each node. Keys with that tag are stored at the node.

        Raises:
            Unusable: If a slot has no owner.
        """
        if not self._is_complete:
            raise Unusable("the cluster has slots that no node serves, or whose node has no name")
        if not self._hash_tags:
            missing = set(self.owners)
            for tag in map(str, itertools.count()):
                owner = self.owners[slot_of_tag(tag)]
                if owner in missing:
                    missing.remove(owner)
                    self._hash_tags.append(tag)
                if not missing:
                    break
        return self._hash_tags


def slot_of(key: str) -> int:
    """Return the slot of a key with a hash tag: https://redis.io/docs/reference/cluster-spec/."""
    return slot_of_tag(key[key.index("{") + 1 : key.index("}")])


def slot_of_tag(tag: str) -> int:
    """Return the slot of keys with this hash tag."""
    return binascii.crc_hqx(tag.encode(), 0) % COUNT


def parse_slots(reply: Any, sender: Address) -> SlotMap:
    """Parse a reply to CLUSTER SLOTS.

    Args:
        reply: The reply.
        sender: The node that sent it. Nodes listed without a host have the host of this one.

    Raises:
        Unusable: If no named node has slots, or the reply is malformed.
    """
    owners: list[Address | None] = [None] * COUNT
    try:
        for first, last, *nodes in reply:
            if nodes:
                owners[first : last + 1] = [_owner(nodes[0], sender)] * (last + 1 - first)
    except (TypeError, ValueError, AttributeError):
        raise Unusable("its reply to CLUSTER SLOTS is not understood: is it Redis or Valkey?") from None
    if len(owners) != COUNT:
        raise Unusable("its reply to CLUSTER SLOTS is not understood: is it Redis or Valkey?")
    if not any(owners):
        raise Unusable("it is in a cluster in which no node that it can name has slots")
    return SlotMap(owners)


def _owner(node: list[Any], sender: Address) -> Address | None:
    """Return the address of a node, given as host, port, id and, from Redis 7 on, further names."""
    host, port, *more = node
    if host == b"?":
        # The node prefers host names and has none. The further names include its address.
        names = more[1] if len(more) > 1 else []
        host = dict(zip(names[::2], names[1::2], strict=False)).get(b"ip", b"?")
    return _address((host or b"").decode(), port, sender)


def parse_redirection(text: str, sender: Address) -> Address | None:
    """Parse the `host:port` of a redirection sent by a node. Return None if it is malformed or names no host."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        return None
    return _address(host.removeprefix("[").removesuffix("]"), int(port), sender)


def _address(host: str, port: int, sender: Address) -> Address | None:
    if host == "?" or not 0 < port < 65536:
        return None
    # An empty host means the sender's, unless the sender is at a unix socket.
    host = host or (sender.host if sender.port else "")
    return Address(host, port) if host else None
