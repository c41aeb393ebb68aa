"""Time limits for slow callers: on requests that are arriving, and on responses that are not yet read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from session_notes_server.rpc import errors
from session_notes_server.rpc.grpc_reset import reset

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
"""Interval of the sweep. A request that has not arrived after one to two intervals is slow."""

SLOW_REQUESTS, SLOW_REQUESTS_PER_PEER = 8, 2
"""Bounds on slow requests. Each can hold up to twice the largest message, which is what gRPC accepts."""

REQUEST_SECONDS = 10.0
"""Time for a request to arrive while few are slow: enough for 4 MiB at 3.4 Mbit/s. Callers are nearby."""

RESPONSE_SECONDS = 20.0
"""Time for a caller to read its response. Then its call is reset, and what it held is freed."""

LOG_SECONDS = 60.0


class Transfer:
    """The current transfer of a call: its request on the way in, or its response on the way out.

    Args:
        task: The task of the call's handler.
        peer: The call's connection.
    """

    __slots__ = ("began", "given_up", "peer", "task")

    def __init__(self, task: asyncio.Task[Any], peer: object) -> None:
        self.task = task
        self.peer = peer
        self.began = 0.0
        self.given_up: errors.StatusError | None = None
        """The status of a request that did not arrive, once its task has been cancelled for it."""

    def give_up(self, status: Callable[[], errors.StatusError]) -> None:
        """Stop waiting for the request, and have the call end with a status."""
        if self.given_up is None:
            self.given_up = status()
            self.task.cancel()


class Transfers:
    """The transfers of all calls, in order of their beginning.

    Args:
        overloaded: Makes the rejection of a slow request when too many are slow.
    """

    def __init__(self, overloaded: Callable[[], errors.StatusError]) -> None:
        self.arriving: dict[Transfer, None] = {}
        """Requests that have not arrived."""
        self.unread: dict[Transfer, None] = {}
        """Responses that have not been read."""
        self._overloaded = overloaded
        self._resets = ThrottledWarning(f"reset %d calls whose responses were unread after {RESPONSE_SECONDS:.0f} s")
        self._loop = asyncio.get_running_loop()

    async def sweep(self) -> None:
        """Give up late requests and reset calls with late responses, until cancelled."""
        loop = self._loop
        while True:
            last = loop.time()
            await asyncio.sleep(SWEEP_SECONDS)
            if loop.time() - last > 2 * SWEEP_SECONDS:
                continue  # This process is late, not its callers.
            self._sweep_requests(last)
            self._sweep_responses(loop.time())

    def give_up_requests(self) -> None:
        """Give up all requests that have not arrived, on shutdown."""
        for transfer in self.arriving:
            transfer.give_up(errors.shutting_down)

    def _sweep_requests(self, last: float) -> None:
        """Give up requests that began to arrive before `last`: late ones, and the newest of those beyond the bounds."""
        slow, slow_per_peer = 0, dict[object, int]()
        for transfer in self.arriving:
            if transfer.began >= last:
                continue
            slow_of_peer = slow_per_peer.get(transfer.peer, 0)
            if slow >= SLOW_REQUESTS or slow_of_peer >= SLOW_REQUESTS_PER_PEER:
                transfer.give_up(self._overloaded)
                continue
            if self._loop.time() - transfer.began > REQUEST_SECONDS:
                transfer.give_up(errors.request_timeout)
            slow, slow_per_peer[transfer.peer] = slow + 1, slow_of_peer + 1

    def _sweep_responses(self, now: float) -> None:
        """Reset calls whose responses have been unread for too long."""
        late = set[asyncio.Task[Any]]()
        for transfer in self.unread:
            if now - transfer.began <= RESPONSE_SECONDS:
                break
            late.add(transfer.task)
        if late:
            self._resets.add(len(late), now)
            reset(late)


class ThrottledWarning:
    """A warning that counts calls, logged at most once a minute.

    Args:
        text: The warning, with `%d` for the number of calls since the last one.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._count = 0
        self._next = 0.0

    def add(self, count: int, now: float) -> None:
        """Count calls, and log them unless the last warning is recent."""
        self._count += count
        if now >= self._next:
            log.warning(self._text, self._count)
            self._count, self._next = 0, now + LOG_SECONDS
