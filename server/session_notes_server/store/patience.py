"""How long to wait for a node of the store: not only by the clock, but by whether it says anything at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

# A loop that was held up finds a timer due and a reply there at once, and runs the timer first. So a timer that is due
# first gives replies that are there a moment to be read, and those who wait for them their turn.
_SECOND_LOOK_SECONDS = 0.002


class Patience:
    """Ends operations on a node that takes too long, or that has fallen silent.

    A short timeout alone would take a queue of our own for an outage: with hundreds of operations under way, one may
    wait for its turn while the node answers others all the time. A node that answers nobody is another matter. While it
    is known to be silent, one operation at a time tries it, and all others end at once.

    Args:
        timeout: How long an operation may take at most.
        silence: How long its node may answer nobody meanwhile.
    """

    def __init__(self, *, timeout: timedelta, silence: timedelta) -> None:
        self._timeout_seconds = timeout.total_seconds()
        self._silence_seconds = silence.total_seconds()
        self._heard: dict[str, float] = {}
        self._silent: set[str] = set()
        self._tried: set[str] = set()

    def heard(self, node: str) -> None:
        """Note that a node has just answered somebody."""
        self._heard[node] = asyncio.get_running_loop().time()
        self._silent.discard(node)

    @asynccontextmanager
    async def wait(self, node: str) -> AsyncIterator[Callable[[], None]]:
        """Give the block the time it may have → a check, for after a wait, of whether trying is still worth it.

        Raises:
            TimeoutError: it took too long, or the node is silent; so does the check.
        """
        trying = node in self._silent and node not in self._tried

        def check() -> None:
            if node in self._silent and not trying:
                raise TimeoutError

        check()
        if trying:
            self._tried.add(node)
        try:
            async with self._limited(node):
                yield check
        finally:
            if trying:
                self._tried.discard(node)

    @asynccontextmanager
    async def _limited(self, node: str) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        timer: asyncio.TimerHandle
        over = False
        listening_since = start

        def due() -> float:
            quiet_since = max(listening_since, self._heard.get(node, start))
            return min(quiet_since + self._silence_seconds, start + self._timeout_seconds)

        def look() -> None:
            nonlocal timer, listening_since
            if loop.time() - timer.when() > self._silence_seconds / 2:
                # The loop was held up, and nobody could have been heard: that is no silence of the node's.
                listening_since = loop.time()
            timer = loop.call_later(_SECOND_LOOK_SECONDS, loop.call_soon, look_again)

        def look_again() -> None:
            nonlocal timer
            if over:
                return
            if due() > loop.time():
                timer = loop.call_at(due(), look)
                return
            if self._heard.get(node, 0) < start:
                self._silent.add(node)
            limit.reschedule(0)

        async with asyncio.timeout(None) as limit:
            timer = loop.call_at(due(), look)
            try:
                yield
            finally:
                over = True
                timer.cancel()
