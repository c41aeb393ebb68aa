"""Time limits for slow callers: on requests that are arriving, and on responses that are unread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from session_notes_server.rpc import errors

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
"""Interval of the sweep. A request that has not arrived after one to two intervals is slow."""

SLOW_REQUESTS, SLOW_REQUESTS_PER_PEER = 8, 2
"""Bounds on slow requests, in total and per connection. Each can hold twice the maximum message size."""

REQUEST_SECONDS = 10.0
"""Time limit for a request to arrive, within the bounds on slow requests. Enough for 4 MiB at 3.4 Mbit/s."""

RESPONSE_SECONDS = 20.0
"""Time limit for a caller to read its response. Beyond it, the memory is freed: grpc.aio's engine resets the call, and
the native engine closes the connection."""

LOG_SECONDS = 60.0


class Transfer:
    """The current transfer of a call: its arriving request, or its unread response."""

    __slots__ = ("began", "context", "given_up", "peer", "task")

    def __init__(self, context: Any, task: asyncio.Task[Any], peer: object) -> None:
        self.context = context
        self.task = task
        self.peer = peer
        self.began = 0.0
        self.given_up: errors.StatusError | None = None
        """The status of the call, once its task is cancelled because the request did not arrive."""

    def give_up(self, status: Callable[[], errors.StatusError]) -> None:
        """Stop waiting for the request, and end the call with a status."""
        if self.given_up is None:
            self.given_up = status()
            self.task.cancel()


class Transfers:
    """The transfers of all calls, oldest first.

    Args:
        overloaded: Returns the status for a request beyond the bounds on slow requests.
        drop_unread: Ends calls whose responses are unread.
    """

    def __init__(
        self, overloaded: Callable[[], errors.StatusError], drop_unread: Callable[[list[Transfer]], None]
    ) -> None:
        self.arriving: dict[Transfer, None] = {}
        """Requests that are arriving."""
        self.unread: dict[Transfer, None] = {}
        """Responses that are unread."""
        self._overloaded = overloaded
        self._drop_unread = drop_unread
        self._drops = ThrottledWarning(f"ended %d calls whose responses were unread after {RESPONSE_SECONDS:.0f} s")
        self._loop = asyncio.get_running_loop()

    async def sweep(self) -> None:
        """Give up late requests and end calls with unread responses, until cancelled."""
        loop = self._loop
        while True:
            last = loop.time()
            await asyncio.sleep(SWEEP_SECONDS)
            if loop.time() - last > 2 * SWEEP_SECONDS:
                continue  # This process was slow, not its callers.
            self._sweep_requests(last)
            self._sweep_responses(loop.time())

    def give_up_requests(self) -> None:
        """Give up all requests that are arriving, on shutdown."""
        for transfer in self.arriving:
            transfer.give_up(errors.shutting_down)

    def _sweep_requests(self, last: float) -> None:
        """Give up requests that began before `last` and are late, or are not among the oldest within the bounds."""
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
        """End calls whose responses have been unread for longer than the limit."""
        late = list[Transfer]()
        for transfer in self.unread:
            if now - transfer.began <= RESPONSE_SECONDS:
                break
            late.append(transfer)
        if late:
            self._drops.add(len(late))
            self._drop_unread(late)


class ThrottledWarning:
    """A warning with the number of calls since the last one, logged immediately, then at most once a minute.

    For events that single calls cause. `store.LogThrottle` is for a persistent state, whose reason it repeats less and
    less often.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, count: int = 1) -> None:
        """Add to the count, which is logged now or within a minute."""
        self._count += count
        if self._timer is None:
            self._log()

    def _log(self) -> None:
        self._timer = None
        if self._count:
            log.warning(self._text, self._count)
            self._count, self._timer = 0, asyncio.get_running_loop().call_later(LOG_SECONDS, self._log)
