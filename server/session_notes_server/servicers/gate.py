"""How much may be under way. What is beyond is refused at once, before its message is even taken off the wire.

gRPC's own limit on calls would refuse health too, give no reason, and know nothing of bytes. Here handlers take their
message themselves, once they are let in: until then HTTP/2's flow control leaves it with the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, NamedTuple, Self

import grpc

from session_notes_server.servicers import errors
from session_notes_server.settings import Limits

SWEEP_SECONDS = 0.25
"""A request that is still on its way after one to two of these is slow."""

SLOW_REQUESTS = 8
"""How many slow requests there may be: each can hold all of the largest message but its last byte."""

LARGE_REQUESTS = 16
"""How many requests that may be large are taken off the wire at a time; the others wait. More than may be slow."""

ARRIVAL_SECONDS = 10.0
"""How long a request may take to arrive when few are slow: 4 MiB at 3.4 Mbit/s. Callers are next door."""

HELD_MESSAGES = 16
"""All the requests and answers of calls under way may hold as much as so many messages of the largest size, 64 MiB by
default. At work the sidecar takes about five times as much memory: parsed, packed for the store, on the way to it."""

CHECKS, WATCHES, REFLECTIONS = 1000, 200, 200
"""Health has limits of its own: it is to answer whatever the calls do, and asks nobody who they are. A change is told
to all Watches in one go, which for 10,000 was measured to hold up all others for seconds; for 200 it is 10 ms."""


class Gate:
    """Counts calls and the bytes they hold, from before the request is taken until the answer is on its way.

    Args:
        calls: How many calls may be under way.
        held_bytes: How many bytes of requests and answers they may hold.
    """

    def __init__(self, *, calls: int, held_bytes: int) -> None:
        self._calls = calls
        self._held_bytes = held_bytes
        self._held: dict[asyncio.Task[Any], int] = {}
        self._total = 0
        self._large = asyncio.Semaphore(LARGE_REQUESTS)
        # In the order in which they came.
        self._arriving: dict[asyncio.Task[Any], float] = {}
        self._given_up: dict[asyncio.Task[Any], errors.StatusError] = {}

    @property
    def inside(self) -> list[asyncio.Task[Any]]:
        """The calls under way, as the tasks they are."""
        return list(self._held)

    def enter(self) -> None:
        """Let the call of the current task in, until that task is done.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, nothing is to be done about the call.
        """
        if len(self._held) >= self._calls or self._total >= self._held_bytes:
            raise errors.overloaded()
        task = _current_task()
        self._held[task] = 0
        task.add_done_callback(self._leave)

    async def request(self, context: grpc.aio.ServicerContext[Any, Any], *, large: bool = False) -> bytes:
        """The message of the call of the current task, which has entered.

        Args:
            context: The call's.
            large: Whether it may well be a large one, which then waits for its turn.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, where there is no room for it; INVALID_ARGUMENT, where it does not come.
        """
        async with self._large if large else contextlib.nullcontext():
            if self._total >= self._held_bytes:
                raise errors.overloaded()
            data = await self._arrival(context)
            if self._total + len(data) > self._held_bytes:
                raise errors.overloaded()
            self.hold(len(data))
            return data

    async def _arrival(self, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        task = _current_task()
        self._arriving[task] = asyncio.get_running_loop().time()
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if (why := self._given_up.get(task)) is None:
                raise
            task.uncancel()
            raise why from None
        finally:
            del self._arriving[task]
            self._given_up.pop(task, None)
        if not isinstance(data, bytes):
            raise errors.malformed_message()
        return data

    def hold(self, size: int) -> None:
        """Count bytes that the call of the current task holds until it is done."""
        self._held[_current_task()] += size
        self._total += size

    async def sweep(self) -> None:
        """Give up requests that do not arrive, for ever; of those that are slow, the newest first."""
        loop = asyncio.get_running_loop()
        while True:
            last = loop.time()
            await asyncio.sleep(SWEEP_SECONDS)
            if loop.time() - last > 2 * SWEEP_SECONDS:
                continue  # It is we who are slow.
            slow = [(task, began) for task, began in self._arriving.items() if began < last]
            for place, (task, began) in enumerate(slow):
                if place >= SLOW_REQUESTS:
                    self._give_up(task, errors.overloaded())
                elif loop.time() - began > ARRIVAL_SECONDS:
                    self._give_up(task, errors.malformed_message())

    def close(self) -> None:
        """Give up all requests that have not arrived: the sidecar stops."""
        for task in self._arriving:
            self._give_up(task, errors.shutting_down())

    def _give_up(self, task: asyncio.Task[Any], why: errors.StatusError) -> None:
        if task not in self._given_up:
            self._given_up[task] = why
            task.cancel()

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self._total -= self._held.pop(task)


class Gates(NamedTuple):
    """A gate for each kind of call, so that none can keep the others out."""

    calls: Gate
    checks: Gate
    watches: Gate
    reflections: Gate

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """The gates for some limits."""
        counts = (CHECKS, WATCHES, REFLECTIONS)
        return cls(
            Gate(calls=limits.concurrent_calls, held_bytes=HELD_MESSAGES * limits.message_bytes),
            *(Gate(calls=count, held_bytes=4 * limits.message_bytes) for count in counts),
        )


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker: handlers run in tasks
    return task
