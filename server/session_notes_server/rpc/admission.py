"""Admission control: bounds on calls and on the bytes they hold, per connection and in all.

Excess calls are refused at once, before their message is even taken off the wire. gRPC's own limit on calls would
refuse health too, give no reason, and know nothing of bytes. Here handlers take their message themselves, once they are
let in: until then HTTP/2's flow control leaves it with the caller.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Set
from typing import Any, NamedTuple, Self

import grpc

from session_notes_server.rpc import errors
from session_notes_server.rpc.budgets import Budget
from session_notes_server.settings import Limits

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
"""A request that is still on its way after one to two of these is slow."""

SLOW_REQUESTS, SLOW_REQUESTS_EACH = 8, 2
"""How many slow requests there may be, in all and per connection: each can hold all but the last byte of twice the
largest message, which is what gRPC takes for us to refuse."""

LARGE_CALLS, LARGE_CALLS_EACH = 16, 4
"""How many requests that may be large are taken off the wire at a time, and how many answers that may be large are made
at a time, in all and per connection; the others wait. More than may be slow."""

ARRIVAL_SECONDS = 10.0
"""How long a request may take to arrive when few are slow: 4 MiB at 3.4 Mbit/s. Callers are next door."""

ANSWER_SECONDS = 20.0
"""How long a caller may take to read its answer; then its call is ended, and what it held is free."""

REPEAT_SECONDS = 60.0

HELD_MESSAGES = 16
"""All the requests and answers of calls in flight may hold as much as so many messages of the largest size, 64 MiB by
default; those of one connection half of that. Parsed, packed for the store and on the way to it, they take about five
times as much memory."""

CHECKS, WATCHES, REFLECTIONS = 1000, 200, 200
"""Health has limits of its own: it is to answer whatever the calls do, and asks nobody who they are. A change is told
to all Watches in one go, which for 10,000 was measured to hold up all others for seconds; for 200 it is 10 ms."""


HEALTH_BYTES = 1024
"""How large a request of health may be: it names a service, and anybody may send it."""


class Gate:
    """Counts calls and the bytes they hold, from before the request is taken until the answer has been read.

    Must be created inside the loop that serves the calls.

    Args:
        calls: How many calls may be in flight.
        held_bytes: How many bytes of requests and answers they may hold.
        message_bytes: How many bytes one request may have.
    """

    def __init__(self, *, calls: int, held_bytes: int, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._calls = Budget(calls, each=calls, little=max(calls // 100, 1))
        self._bytes = Budget(held_bytes, each=held_bytes // 2, little=message_bytes // 4)
        self._peers: dict[str, Peer] = {}
        self._inside: set[Call] = set()
        self._arrivals = asyncio.Semaphore(LARGE_CALLS)
        self._answers = asyncio.Semaphore(LARGE_CALLS)
        # Both in the order in which they came.
        self._arriving: dict[Call, None] = {}
        self._unread: dict[Call, None] = {}
        self._refused = Tally("refused %d calls as OVERLOADED: more calls, or bytes of them, than the limits allow")
        self._ended = Tally(f"ended %d calls whose answers their callers had not read within {ANSWER_SECONDS:.0f} s")
        self._loop = asyncio.get_running_loop()

    @property
    def inside(self) -> list[asyncio.Task[Any]]:
        """The tasks of the calls in flight."""
        return [call.task for call in self._inside]

    def enter(self, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """Let the call of the current task in, until gRPC is done with it.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, if there is no room; nothing has been done about the call.
        """
        # By the loop we know: before Python 3.12, to find out which one runs is a system call.
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - for the type checker: handlers run in tasks
        name = context.peer()
        peer = self._peers.get(name) or Peer(name)
        call = Call(context, task, self, peer)
        # The task's callback, not the context's: gRPC keeps that in a circle that only the garbage collector frees.
        task.add_done_callback(call._leave)
        if not (self._calls.fits(peer.calls, 1) and self._bytes.fits(peer.held, 0)):
            call.answering()
            raise self.overloaded()
        if not peer.unknown:
            self._peers[name] = peer
        self._inside.add(call)
        self._calls.total += 1
        peer.calls += 1
        return call

    def overloaded(self) -> errors.StatusError:
        """Return the refusal of a call for which there is no room; the log says so once a minute."""
        self._refused.add(1, self._loop.time())
        return errors.overloaded()

    async def sweep(self) -> None:
        """Give up requests that do not arrive and answers that are not read, for ever."""
        loop = self._loop
        while True:
            last = loop.time()
            await asyncio.sleep(SWEEP_SECONDS)
            if loop.time() - last > 2 * SWEEP_SECONDS:
                continue  # It is we who are slow.
            self._sweep_requests(last)
            self._sweep_answers(loop.time())

    def _sweep_requests(self, last: float) -> None:
        """Give up requests that have begun to arrive before `last`: of those beyond the limits, the newest first."""
        place, places = 0, dict[Peer, int]()
        for call in self._arriving:
            if call._began >= last:
                continue
            theirs = places.get(call._peer, 0)
            if place >= SLOW_REQUESTS or theirs >= SLOW_REQUESTS_EACH:
                call._give_up(self.overloaded)
                continue
            if self._loop.time() - call._began > ARRIVAL_SECONDS:
                call._give_up(errors.malformed_message)
            place, places[call._peer] = place + 1, theirs + 1

    def _sweep_answers(self, now: float) -> None:
        """End calls whose answers nobody reads."""
        late = set[asyncio.Task[Any]]()
        for call in self._unread:
            if now - call._began <= ANSWER_SECONDS:
                break
            late.add(call.task)
        if late:
            self._ended.add(len(late), now)
            reset(late)

    def close(self) -> None:
        """Give up all requests that have not arrived: the sidecar stops."""
        for call in self._arriving:
            call._give_up(errors.shutting_down)


class Peer:
    """A connection, as far as gRPC tells connections apart.

    All callers on a unix socket have the same name, so there each call is judged as if it had a connection of its own.
    """

    __slots__ = ("answers", "arrivals", "calls", "held", "name", "unknown")

    def __init__(self, name: str) -> None:
        self.name = name
        self.unknown = name.startswith("unix:")
        self.calls = 0
        self.held = 0
        self.arrivals: asyncio.Semaphore | None = None
        self.answers: asyncio.Semaphore | None = None


class Call:
    """A call that a gate has let in."""

    __slots__ = ("_began", "_context", "_gate", "_given_up", "_held", "_making", "_peer", "_waited", "task")

    def __init__(
        self, context: grpc.aio.ServicerContext[Any, Any], task: asyncio.Task[Any], gate: Gate, peer: Peer
    ) -> None:
        self.task = task
        self._context = context
        self._gate = gate
        self._peer = peer
        self._held = 0
        self._began = 0.0
        self._waited = self._making = False
        self._given_up: errors.StatusError | None = None

    async def request(self, *, large: bool = False) -> bytes:
        """Take its message off the wire.

        Args:
            large: Whether it may well be a large one, which then waits for its turn.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, where it is too large or there is no room for it; INVALID_ARGUMENT, where
                it does not come.
        """
        gate, peer = self._gate, self._peer
        if large:
            if peer.arrivals is None:
                peer.arrivals = asyncio.Semaphore(LARGE_CALLS_EACH)
            async with peer.arrivals, gate._arrivals:
                return await self.request()
        if not gate._bytes.fits(peer.held, 0):
            raise gate.overloaded()
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
        if not gate._bytes.fits(peer.held, len(data)):
            raise gate.overloaded()
        self._hold(len(data))
        return data

    async def turn(self) -> None:
        """Wait until an answer that may be large can be made.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, where there is no room for it.
        """
        gate, peer = self._gate, self._peer
        if peer.answers is None:
            peer.answers = asyncio.Semaphore(LARGE_CALLS_EACH)
        # Of its connection until the answer has been read; of all only until it is made, and its bytes are counted.
        await peer.answers.acquire()
        self._waited = True
        await gate._answers.acquire()
        self._making = True
        if not gate._bytes.fits(peer.held, 0):
            raise gate.overloaded()

    def answer(self, size: int, *, refusable: bool) -> None:
        """Count the bytes of its answer, which it holds until the caller has read them.

        Args:
            size: How many bytes.
            refusable: Whether the call has changed nothing, so that it can still be refused.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, where there is no room for them.
        """
        gate = self._gate
        if refusable and not gate._bytes.fits(self._peer.held, size):
            raise gate.overloaded()
        self._hold(size)
        self.answering()

    def answering(self) -> None:
        """Note that gRPC gets its answer or its status now, and that from now on its caller is waited for."""
        if self._making:
            self._making = False
            self._gate._answers.release()
        self._began = self._gate._loop.time()
        self._gate._unread[self] = None

    def answered(self) -> None:
        """Note that its caller has read an answer, of several."""
        self._gate._unread.pop(self, None)

    def _hold(self, size: int) -> None:
        self._held += size
        self._peer.held += size
        self._gate._bytes.total += size

    def _give_up(self, why: Callable[[], errors.StatusError]) -> None:
        if self._given_up is None:
            self._given_up = why()
            self.task.cancel()

    def _leave(self, _: object) -> None:
        gate, peer = self._gate, self._peer
        gate._unread.pop(self, None)
        if self not in gate._inside:
            return
        gate._inside.remove(self)
        gate._calls.total -= 1
        gate._bytes.total -= self._held
        peer.calls -= 1
        peer.held -= self._held
        if not peer.calls:
            gate._peers.pop(peer.name, None)
        if self._making:
            gate._answers.release()
        if self._waited and peer.answers is not None:
            peer.answers.release()


class Tally:
    """A line in the log about calls, at most once a minute, with how many there were since the last one.

    Args:
        line: What it says; `%d` is how many.
    """

    def __init__(self, line: str) -> None:
        self._line = line
        self._count = 0
        self._next = 0.0

    def add(self, count: int, now: float) -> None:
        """Count calls, and log if the last line is long ago."""
        self._count += count
        if now >= self._next:
            log.warning(self._line, self._count)
            self._count, self._next = 0, now + REPEAT_SECONDS


def reset(calls: Set[asyncio.Task[Any]]) -> None:
    """End calls whose handlers are done, for gRPC too, and free what it holds for them.

    grpc.aio can do so only by dropping its state of a call (which sends RST_STREAM), to which two tasks refer: the
    handler's and the one that waits for the caller to cancel. The second is found by what its coroutine refers to.
    """
    for task in asyncio.all_tasks():
        waiting = getattr(task.get_coro(), "cr_await", None)
        if getattr(waiting, "__name__", "") != "_handle_cancellation_from_core":
            continue
        for scope in gc.get_referents(waiting):
            if not calls.isdisjoint(other for other in gc.get_referents(scope) if isinstance(other, asyncio.Task)):
                task.cancel()
    for call in calls:
        call.cancel()


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
