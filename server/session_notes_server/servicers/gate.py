"""How much may be under way. What is beyond is refused at once, before its message is even taken off the wire.

gRPC's own limit on calls would refuse health too, give no reason, and know nothing of bytes. Here handlers take their
message themselves, once they are let in: until then HTTP/2's flow control leaves it with the caller.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Self

import grpc

from session_notes_server.servicers import errors
from session_notes_server.settings import Limits

SWEEP_SECONDS = 0.25
"""A request that is still on its way after one to two of these is slow."""

SLOW_REQUESTS = 8
"""How many slow requests there may be: each can hold all but the last byte of twice the largest message, which is
what gRPC takes for us to refuse."""

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


HEALTH_BYTES = 1024
"""How large a request of health may be: it names a service, and anybody may send it."""


class Gate:
    """Counts calls and the bytes they hold, from before the request is taken until the answer is on its way.

    To be made inside the loop that serves the calls.

    Args:
        calls: How many calls may be under way.
        held_bytes: How many bytes of requests and answers they may hold.
        message_bytes: How many one request may have.
    """

    def __init__(self, *, calls: int, held_bytes: int, message_bytes: int) -> None:
        self._calls = calls
        self._message_bytes = message_bytes
        self._held_bytes = held_bytes
        self._inside: set[Call] = set()
        self._total = 0
        self._large = asyncio.Semaphore(LARGE_REQUESTS)
        # In the order in which they came.
        self._arriving: dict[Call, None] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def inside(self) -> list[asyncio.Task[Any]]:
        """The calls under way, as the tasks they are."""
        return [call.task for call in self._inside]

    def enter(self, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """Let the call of the current task in, until gRPC is done with it.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, nothing is to be done about the call.
        """
        if len(self._inside) >= self._calls or self._total >= self._held_bytes:
            raise errors.overloaded()
        # By the loop we know: before Python 3.12, to find out which one runs is a system call.
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - for the type checker: handlers run in tasks
        call = Call(context, task, self)
        self._inside.add(call)
        # The task's callback, not the context's: gRPC keeps that in a circle that only the garbage collector frees.
        task.add_done_callback(call._leave)
        return call

    async def sweep(self) -> None:
        """Give up requests that do not arrive, for ever; of those that are slow, the newest first."""
        loop = self._loop
        while True:
            last = loop.time()
            await asyncio.sleep(SWEEP_SECONDS)
            if loop.time() - last > 2 * SWEEP_SECONDS:
                continue  # It is we who are slow.
            slow = [call for call in self._arriving if call._began < last]
            for place, call in enumerate(slow):
                if place >= SLOW_REQUESTS:
                    call._give_up(errors.overloaded())
                elif loop.time() - call._began > ARRIVAL_SECONDS:
                    call._give_up(errors.malformed_message())

    def close(self) -> None:
        """Give up all requests that have not arrived: the sidecar stops."""
        for call in self._arriving:
            call._give_up(errors.shutting_down())


class Call:
    """A call that a gate has let in."""

    __slots__ = ("_began", "_context", "_gate", "_given_up", "_held", "task")

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], task: asyncio.Task[Any], gate: Gate) -> None:
        self.task = task
        self._context = context
        self._gate = gate
        self._held = 0
        self._began = 0.0
        self._given_up: errors.StatusError | None = None

    async def request(self, *, large: bool = False) -> bytes:
        """Its message.

        Args:
            large: Whether it may well be a large one, which then waits for its turn.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, where it is too large or there is no room for it; INVALID_ARGUMENT, where
                it does not come.
        """
        if large:
            async with self._gate._large:
                return await self.request()
        gate = self._gate
        if gate._total >= gate._held_bytes:
            raise errors.overloaded()
        self._began = gate._loop.time()
        gate._arriving[self] = None
        try:
            data = await self._context.read()
        except asyncio.CancelledError:
            if self._given_up is None:
                raise
            self.task.uncancel()
            raise self._given_up from None
        finally:
            del gate._arriving[self]
        if not isinstance(data, bytes):
            raise errors.malformed_message()
        if len(data) > gate._message_bytes:
            raise errors.too_large("", limit=gate._message_bytes, actual=len(data))
        if gate._total + len(data) > gate._held_bytes:
            raise errors.overloaded()
        self.hold(len(data))
        return data

    def hold(self, size: int) -> None:
        """Count bytes that it holds until gRPC is done with it."""
        self._held += size
        self._gate._total += size

    def _give_up(self, why: errors.StatusError) -> None:
        if self._given_up is None:
            self._given_up = why
            self.task.cancel()

    def _leave(self, _: object) -> None:
        self._gate._inside.discard(self)
        self._gate._total -= self._held
        self._held = 0


class Gates(NamedTuple):
    """A gate for each kind of call, so that none can keep the others out."""

    calls: Gate
    checks: Gate
    watches: Gate
    reflections: Gate

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """The gates for some limits."""
        size = limits.message_bytes
        counts = (CHECKS, WATCHES, REFLECTIONS)
        return cls(
            Gate(calls=limits.concurrent_calls, held_bytes=HELD_MESSAGES * size, message_bytes=size),
            *(Gate(calls=count, held_bytes=4 * size, message_bytes=HEALTH_BYTES) for count in counts),
        )
