"""What is made again whenever it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from hiredis import ReplyError

from session_notes_server.store.errors import StoreUnavailable

T = TypeVar("T")

# Quick at first, as what was lost may just be starting again; then as often as costs nobody anything, and is soon
# enough to be back within two seconds of the store's return.
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.02, 0.5
# What is there and was found to be of no use, so soon after it was made: the next is of no use either, as it seems.
_SOON_SECONDS = 2 * LAST_BACKOFF_SECONDS
# For so long callers wait through failed attempts, so that a restart or a reset goes unnoticed.
_BLINK_SECONDS = 0.1


class Backoff:
    """Attempts at something, by whoever: one at a time, and after a failure the next not before a growing pause.

    The pause counts from the beginning of an attempt: one at a store that is silent takes long enough by itself.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        """Why the last attempt failed, if it did."""
        self._one_at_a_time = asyncio.Lock()
        self._not_before = 0.0
        self._pause = FIRST_BACKOFF_SECONDS

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """An attempt, when its turn has come: the block, which fails by raising."""
        loop = asyncio.get_running_loop()
        async with self._one_at_a_time:
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
    """Something calls need, like a connection: made when first asked for, and again, with a backoff, whenever lost.

    Callers never try by themselves, so that a store that is away, or refuses our password, is tried once a backoff
    however many calls there are. They wait for it while it may just be a moment, and are refused at once after that.

    Args:
        make: Makes it, within a time limit of its own.
        backoff: When; several that are kept may share one.
        patience_seconds: How long after its loss a caller still waits for it.
        discard: Called with one that another has replaced.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[T]],
        backoff: Backoff,
        *,
        patience_seconds: float,
        discard: Callable[[T], object] = lambda _: None,
    ) -> None:
        self.value: T | None = None
        """It, while it is there."""
        self._make = make
        self._backoff = backoff
        self._patience_seconds = patience_seconds
        self._discard = discard
        self._making: asyncio.Task[None] | None = None
        self._made = self._missing_since = 0.0
        self._next_pause = FIRST_BACKOFF_SECONDS
        self._closed = False
        self._news = asyncio.Event()

    async def get(self) -> T:
        """It, as soon as it is there.

        Raises:
            StoreUnavailable: it is not, and has not been for a while; the cause says why.
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
                    await self._news.wait()
            except TimeoutError:
                pass
        return self.value

    def lose(self, value: T) -> None:
        """Note that this one is lost, and make another."""
        if value is self.value:
            self.value = None
            self._missing_since = asyncio.get_running_loop().time()
            self._make_again(FIRST_BACKOFF_SECONDS)

    def renew(self) -> None:
        """Make another; the old one, if it is there, serves until then.

        Where the new one is found to be of no use as soon as the last, the next comes after a growing pause.
        """
        if self._closed or not (self._making is None or self._making.done()):
            return
        now = asyncio.get_running_loop().time()
        if self.value is None:
            self._missing_since = now
        elif now < self._made + _SOON_SECONDS:
            self._next_pause = min(2 * self._next_pause, LAST_BACKOFF_SECONDS)
        else:
            self._next_pause = FIRST_BACKOFF_SECONDS
        self._make_again(self._next_pause)

    async def renewed(self) -> None:
        """Wait until what is being made is there, no longer than callers wait for one that is lost."""
        if self._making is not None:
            await asyncio.wait([self._making], timeout=self._patience_seconds)

    def _make_again(self, pause_seconds: float) -> None:
        if not self._closed and (self._making is None or self._making.done()):
            self._making = asyncio.create_task(self._make_until_there(pause_seconds))

    async def aclose(self) -> None:
        """Make no more; callers are refused."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])

    async def _make_until_there(self, pause_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._made + _SOON_SECONDS:
            # What was made and lost at once is not made again at once: that would be a storm.
            await asyncio.sleep(pause_seconds)
        while True:
            try:
                async with self._backoff.attempt():
                    made = await self._make()
                    old, self.value = self.value, made
            except (OSError, TimeoutError, ReplyError, StoreUnavailable):
                self._tell()
            else:
                self._made = loop.time()
                if old is not None:
                    self._discard(old)
                self._tell()
                return

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()
