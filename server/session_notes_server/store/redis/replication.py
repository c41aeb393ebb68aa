"""Acknowledgements by replicas: a reply is returned only once enough replicas have the data behind it."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from session_notes_server.store.errors import ConnectionLost, StoreUnavailable, Unconfirmed
from session_notes_server.store.redis.connection import Connection, pack

# The share of a call's time limit that WAIT may take. The call may have to wait for an earlier WAIT first.
_WAIT_SHARE = 0.4


class ReplicaAcks:
    """Waits until enough replicas have the data behind the replies on a connection.

    WAIT delays all later commands on its connection. Therefore at most one is in flight per connection, and it serves
    all calls that began to wait before it was sent.

    Args:
        required: Number of replicas that must have the data. 0: none.
        timeout_seconds: Limit for a call.
    """

    def __init__(self, required: int, timeout_seconds: float) -> None:
        self.required = required
        self._wait_ms = int(timeout_seconds * _WAIT_SHARE * 1000)
        # The values must not refer to the connections, or these would never be freed.
        self._states: WeakKeyDictionary[Connection, _State] = WeakKeyDictionary()

    async def wait(self, connection: Connection, key: str) -> None:
        """Wait until enough replicas have the data behind all replies on a connection so far.

        Args:
            connection: A connection to a node.
            key: A key of the sidecar that is stored at this node.

        Raises:
            StoreUnavailable: If too few replicas confirmed it in time.
        """
        state = self._states.get(connection)
        if state is None:
            state = self._states[connection] = _State()
        if state.next is None:
            state.next = asyncio.create_task(self._send_wait(connection, state, key))
        if not await asyncio.shield(state.next):
            raise StoreUnavailable from Unconfirmed("too few replicas have confirmed the write (--min-replicas-acked)")

    def are_missing(self, connection: Connection) -> bool:
        """Return whether too few replicas had the data when WAIT last ran on this connection."""
        state = self._states.get(connection)
        return state is not None and state.missing

    async def _send_wait(self, connection: Connection, state: _State, key: str) -> bool:
        async with state.lock:
            state.next = None
            # WAIT covers only writes of its own connection. If a call is the retry of a write whose reply was lost, its
            # data was written over another connection. This SET comes after all of them, so WAIT covers them too.
            commands = pack("SET", key, 1, "PX", 1000) + pack("WAIT", self.required, self._wait_ms)
            try:
                _, replicas = await connection.send(commands, 2)
            except (ConnectionLost, TimeoutError):
                return False
            # WAIT replies with the number of replicas, even if they are too few. An error counts as none.
            state.missing = not (isinstance(replicas, int) and replicas >= self.required)
            return not state.missing


class _State:
    """The state of WAIT on one connection."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.next: asyncio.Task[bool] | None = None
        self.missing = False
