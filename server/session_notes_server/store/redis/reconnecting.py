"""Reconnecting with backoff: resources that are re-created whenever they are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from hiredis import ReplyError

from session_notes_server.store.errors import StoreUnavailable

T = TypeVar("T")

# The first pause is short, because the store may just be restarting. The last one is long enough for attempts to cost
# nothing, and short enough to reconnect within two seconds of the store's return.
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.02, 0.5
# A resource that is lost or rejected this soon after its creation was probably useless, and so will the next one be.
_SHORT_LIFE_SECONDS = 2 * LAST_BACKOFF_SECONDS
# How long callers wait while attempts fail, so that they do not notice a restart or a reset.
_BLINK_SECONDS = 0.1


class Backoff:
    """A schedule of attempts that resources can share: one at a time, with growing pauses after failures.

    A pause counts from the beginning of the failed attempt, since trying to reach a silent store already takes long.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        """The exception of the last attempt, if it failed."""
        self._lock = asyncio.Lock()
        self._not_before = 0.0
        self._pause = FIRST_BACKOFF_SECONDS

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Wait until an attempt is due, then run the block as the attempt. It fails if the block raises."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if (wait := self._not_before - loop.time()) > 0:
                await asyncio.sleep(wait)
            began = loop.time()
            try:
                yield
            except Exception as error:
                self.failure = error
                self._not_before = began + self._pause
                self._pause = min(2 * self._pause, LAST_BACKOFF_SECONDS)
                raise
            self.failure = None
            self._pause = FIRST_BACKOFF_SECONDS


class Renewable(Generic[T]):
    """A resource that calls need, such as a connection. It is created on first use, and again whenever it is lost.

    Callers never create it themselves, so a store that is down, or refuses the password, sees one attempt per backoff
    however many calls arrive. Callers wait briefly after a loss. Later they fail immediately.

    Args:
        create: Creates the resource, within its own time limit.
        backoff: Schedule of the attempts. Several resources may share one.
        patience_seconds: How long after a loss callers wait.
        discard: Called with each resource that was replaced.
    """

    def __init__(
        self,
        create: Callable[[], Awaitable[T]],
        backoff: Backoff,
        *,
        patience_seconds: float,
        discard: Callable[[T], object] = lambda _: None,
    ) -> None:
        self.value: T | None = None
        """The resource, or None while it does not exist."""
        self._create = create
        self._backoff = backoff
        self._patience_seconds = patience_seconds
        self._discard = discard
        self._renewal: asyncio.Task[None] | None = None
        self._created = self._missing_since = 0.0
        self._next_pause = FIRST_BACKOFF_SECONDS
        self._closed = False
        self._changed = asyncio.Event()

    async def get(self) -> T:
        """Return the resource, once it exists.

        Raises:
            StoreUnavailable: If it has been missing for too long. The cause is the reason.
        """
        if self.value is None:
            self.renew()
        while self.value is None:
            patience = self._patience_seconds
            if self._backoff.failure is not None:
                patience = min(patience, _BLINK_SECONDS)
            left = self._missing_since + patience - asyncio.get_running_loop().time()
            if self._closed or left <= 0:
                raise StoreUnavailable from self._backoff.failure or TimeoutError()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self.value

    def lose(self, value: T) -> None:
        """Report the loss of a resource. If it is the current one, create another."""
        if value is self.value:
            self.value = None
            self._missing_since = asyncio.get_running_loop().time()
            self._start_renewal(FIRST_BACKOFF_SECONDS)

    def renew(self) -> None:
        """Create another resource. The current one, if any, is used until then.

        If the new one is renewed again soon after its creation, the next creation waits for a growing pause.
        """
        if self._closed or self._is_renewing():
            return
        now = asyncio.get_running_loop().time()
        if self.value is None:
            self._missing_since = now
        elif now < self._created + _SHORT_LIFE_SECONDS:
            self._next_pause = min(2 * self._next_pause, LAST_BACKOFF_SECONDS)
        else:
            self._next_pause = FIRST_BACKOFF_SECONDS
        self._start_renewal(self._next_pause)

    async def renewed(self) -> None:
        """Wait for a renewal in progress to end, at most as long as callers wait after a loss."""
        if self._renewal is not None:
            await asyncio.wait([self._renewal], timeout=self._patience_seconds)

    async def aclose(self) -> None:
        """Stop creating resources. Callers that find none fail immediately."""
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    def _is_renewing(self) -> bool:
        return self._renewal is not None and not self._renewal.done()

    def _start_renewal(self, pause_seconds: float) -> None:
        if not self._closed and not self._is_renewing():
            self._renewal = asyncio.create_task(self._renew(pause_seconds))

    async def _renew(self, pause_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._created + _SHORT_LIFE_SECONDS:
            # Without this pause, connections that are lost immediately would be re-created in a tight loop.
            await asyncio.sleep(pause_seconds)
        while True:
            try:
                async with self._backoff.attempt():
                    created = await self._create()
                    replaced, self.value = self.value, created
            except (OSError, TimeoutError, ReplyError, StoreUnavailable):
                self._notify()
            else:
                self._created = loop.time()
                if replaced is not None:
                    self._discard(replaced)
                self._notify()
                return

    def _notify(self) -> None:
        self._changed.set()
        self._changed.clear()
