"""Writes that wait for replicas: what a failover must not lose has to be in more than one place."""

from __future__ import annotations

import asyncio

from session_notes_server.store.failures import StoreUnavailable
from session_notes_server.store.link import Link, LinkLost, packed

# Of the time a call has, what replicas may take: a call may have to sit out the wait of those before it, too.
_SHARE = 0.4


class Replicas:
    """Tells whether enough replicas have what a node answered over a link.

    WAIT holds up all that comes after it on its connection. So one is under way at a time, and speaks for all who asked
    before it was sent.

    Args:
        link: The link of the writes.
        enough: How many replicas.
        timeout_seconds: How long a call may take.
    """

    def __init__(self, link: Link, enough: int, timeout_seconds: float) -> None:
        self._link = link
        self._enough = enough
        self._patience_ms = int(timeout_seconds * _SHARE * 1000)
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[bool] | None = None

    async def have_it(self, key: str) -> None:
        """Return once enough replicas have all that was answered until now.

        Args:
            key: Some key of ours that lives at this node.

        Raises:
            StoreUnavailable: they do not, as far as we know.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._ask(key))
        if not await asyncio.shield(self._next):
            raise StoreUnavailable

    async def _ask(self, key: str) -> bool:
        async with self._one_at_a_time:
            self._next = None
            # WAIT speaks of what its own connection wrote, and what we answer for may have been written over another,
            # when this is the retry of a write whose reply was lost. So here is a write that comes after all of those.
            commands = packed("SET", key, 1, "PX", 1000) + packed("WAIT", self._enough, self._patience_ms)
            try:
                _, replicas = await self._link.send(commands, 2)
            except (LinkLost, TimeoutError):
                return False
            # WAIT never fails: it says how many there are. An error is none.
            return isinstance(replicas, int) and replicas >= self._enough
