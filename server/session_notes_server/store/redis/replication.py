"""Writes that wait for replicas: what a failover must not lose has to be in more than one place."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from session_notes_server.store.errors import NotDone, StoreUnavailable
from session_notes_server.store.redis.connection import Connection, ConnectionLost, pack

# Of the time a call has, what replicas may take: a call may have to sit out the wait of those before it, too.
_SHARE = 0.4


class Replicas:
    """Tells whether enough replicas have what nodes answered over their connections.

    WAIT holds up all that comes after it on its connection. So one is in flight per connection, and speaks for all
    who asked before it was sent.

    Args:
        enough: How many replicas.
        timeout_seconds: How long a call may take.
    """

    def __init__(self, enough: int, timeout_seconds: float) -> None:
        self.enough = enough
        self._patience_ms = int(timeout_seconds * _SHARE * 1000)
        # Their values must not refer to the connections, or these would stay for ever.
        self._waits: WeakKeyDictionary[Connection, _Wait] = WeakKeyDictionary()

    async def have_it(self, connection: Connection, key: str) -> None:
        """Return once enough replicas have all that was answered over a connection until now.

        Args:
            connection: The connection to a node.
            key: Some key of ours that lives at this node.

        Raises:
            StoreUnavailable: If they do not, as far as we know.
        """
        wait = self._waits.get(connection)
        if wait is None:
            wait = self._waits[connection] = _Wait()
        if wait.next is None:
            wait.next = asyncio.create_task(self._ask(connection, wait, key))
        if not await asyncio.shield(wait.next):
            raise StoreUnavailable from NotDone("too few replicas have what was written (--min-replicas-acked)")

    def were_missed(self, connection: Connection) -> bool:
        """Whether too few replicas had the last write over a connection."""
        wait = self._waits.get(connection)
        return wait is not None and wait.missed

    async def _ask(self, connection: Connection, wait: _Wait, key: str) -> bool:
        async with wait.one_at_a_time:
            wait.next = None
            # WAIT speaks of what its own connection wrote, and what we answer for may have been written over another,
            # when this is the retry of a write whose reply was lost. So here is a write that comes after all of those.
            commands = pack("SET", key, 1, "PX", 1000) + pack("WAIT", self.enough, self._patience_ms)
            try:
                _, replicas = await connection.send(commands, 2)
            except (ConnectionLost, TimeoutError):
                return False
            # WAIT never fails: it says how many there are. An error is none.
            wait.missed = not (isinstance(replicas, int) and replicas >= self.enough)
            return not wait.missed


class _Wait:
    """The state of WAIT on one connection."""

    def __init__(self) -> None:
        self.one_at_a_time = asyncio.Lock()
        self.next: asyncio.Task[bool] | None = None
        self.missed = False
