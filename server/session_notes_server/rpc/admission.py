"""Admission control: bounds on calls and on the bytes they hold, per connection and in total.

Excess calls are rejected immediately, before their request is read. An engine's own limit on calls would also reject
health checks, gives no reason and does not count bytes. Each handler therefore reads its own request, once its call is
admitted. Until then, HTTP/2 flow control leaves all but 64 KiB of the request with the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any, NamedTuple, Self

import grpc

from session_notes_server.rpc import errors
from session_notes_server.rpc.budgets import Budget
from session_notes_server.rpc.engines import Engine
from session_notes_server.rpc.transfers import ThrottledWarning, Transfer, Transfers
from session_notes_server.settings import Limits

LARGE_CALLS, LARGE_CALLS_PER_PEER = 16, 4
"""How many potentially large requests are read, and potentially large responses built, at a time. Others wait."""

HELD_MESSAGES = 16
"""Bound on the bytes of all calls in flight, as a number of messages of the maximum size. By default this is 64 MiB.
One connection may use half of it. Parsed, packed and in transit to the store, requests take about five times as much
memory."""

HEALTH_CHECKS, HEALTH_WATCHES, REFLECTION_STREAMS = 1000, 200, 200
"""Health has separate bounds, because it must respond whatever other calls do, and requires no credentials. A change is
sent to all Watches in one step. With 10,000 Watches this delayed other calls by seconds, and with 200 by 10 ms."""

HEALTH_BYTES = 1024
"""Maximum size of a health request, which contains only a service name and can come from any caller."""


class Admission:
    """Bounds on one kind of call: calls in flight, the bytes they hold, and the size of a request.

    Must be created inside the event loop that serves the calls.
    """

    def __init__(self, engine: Engine, *, calls: int, held_bytes: int, message_bytes: int) -> None:
        self._engine = engine
        self._message_bytes = message_bytes
        self._calls = Budget(calls, each=calls, little=max(calls // 100, 1))
        self._bytes = Budget(held_bytes, each=held_bytes // 2, little=message_bytes // 4)
        self._peers: dict[Hashable, Peer] = {}
        self._admitted: set[AdmittedCall] = set()
        self._requests = asyncio.Semaphore(LARGE_CALLS)
        self._responses = asyncio.Semaphore(LARGE_CALLS)
        self._rejections = ThrottledWarning("rejected %d calls as OVERLOADED: too many calls or bytes in flight")
        self.transfers = Transfers(self.overloaded, engine.drop_unread)
        self._loop = asyncio.get_running_loop()

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks of the calls in flight."""
        return [call.task for call in self._admitted]

    def admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> AdmittedCall:
        """Admit the current task's call, until the task ends.

        Raises:
            StatusError: RESOURCE_EXHAUSTED if there is no room. The call has had no effect.
        """
        # Pass the loop, because before Python 3.12 finding the running loop is a system call.
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - for the type checker: handlers run in tasks
        connection = self._engine.connection(context)
        peer = self._peers.get(connection) or Peer(connection)
        call = AdmittedCall(context, task, self, peer)
        self._engine.on_end(context, task, call._leave)
        if not (self._calls.fits(peer.calls, 1) and self._bytes.fits(peer.held, 0)):
            call.sending()
            raise self.overloaded()
        if connection is not None:
            self._peers[connection] = peer
        self._admitted.add(call)
        self._calls.total += 1
        peer.calls += 1
        return call

    def overloaded(self) -> errors.StatusError:
        """Return the status of a call rejected for lack of room, and count the call for the log."""
        self._rejections.add()
        return errors.overloaded()


class Peer:
    """A connection, or a single call whose connection is unknown."""

    __slots__ = ("calls", "connection", "held", "requests", "responses")

    def __init__(self, connection: Hashable | None) -> None:
        self.connection = connection
        self.calls = 0
        self.held = 0
        self.requests: asyncio.Semaphore | None = None
        self.responses: asyncio.Semaphore | None = None


class AdmittedCall(Transfer):
    """A call in flight, and the bytes it holds."""

    peer: Peer

    __slots__ = ("_admission", "_held", "_responds", "_waited")

    def __init__(
        self, context: grpc.aio.ServicerContext[Any, Any], task: asyncio.Task[Any], admission: Admission, peer: Peer
    ) -> None:
        super().__init__(context, task, peer)
        self._admission = admission
        self._held = 0
        self._waited = self._responds = False

    async def read_request(self, *, large: bool = False) -> bytes:
        """Read the request. Requests that may be `large` are read a few at a time.

        Raises:
            StatusError: RESOURCE_EXHAUSTED if it is too large or there is no room for it, DEADLINE_EXCEEDED if it does
                not arrive in time, INVALID_ARGUMENT if the caller ends the stream without one.
        """
        admission, peer = self._admission, self.peer
        message = admission._engine.arrived(self.context, self._reserve)
        if message is not None:
            return message
        if large:
            if peer.requests is None:
                peer.requests = asyncio.Semaphore(LARGE_CALLS_PER_PEER)
            async with peer.requests, admission._requests:
                return await self.read_request()
        if not admission._bytes.fits(peer.held, 0):
            raise admission.overloaded()
        self.began = admission._loop.time()
        admission.transfers.arriving[self] = None
        try:
            message = await admission._engine.read(self.context, self._reserve)
        except asyncio.CancelledError:
            if self.given_up is None:
                raise
            self.task.uncancel()
            raise self.given_up from None
        finally:
            del admission.transfers.arriving[self]
        if message is None:
            raise errors.malformed_message()
        return message

    def _reserve(self, size: int) -> None:
        """Count the bytes of a request, unless it is too large or there is no room for it."""
        admission = self._admission
        if size > admission._message_bytes:
            raise errors.too_large("", limit=admission._message_bytes, actual=size)
        if not admission._bytes.fits(self.peer.held, size):
            raise admission.overloaded()
        self._hold(size)

    async def wait_to_respond(self) -> None:
        """Wait until this call may build a potentially large response.

        Raises:
            StatusError: RESOURCE_EXHAUSTED if there is no room for it.
        """
        admission, peer = self._admission, self.peer
        if peer.responses is None:
            peer.responses = asyncio.Semaphore(LARGE_CALLS_PER_PEER)
        # The connection's semaphore is held until the caller has read the response, the shared one only until the
        # response is built and its bytes are counted.
        await peer.responses.acquire()
        self._waited = True
        await admission._responses.acquire()
        self._responds = True
        if not admission._bytes.fits(peer.held, 0):
            raise admission.overloaded()

    def hold_response(self, size: int, *, droppable: bool) -> None:
        """Count the bytes of the response, until the caller has read it.

        Raises:
            StatusError: RESOURCE_EXHAUSTED if there is no room for a droppable response, whose call had no effect.
                TOO_LARGE instead of OVERLOADED if there would be none for it alone, because no retry would succeed.
        """
        admission = self._admission
        if droppable and not admission._bytes.fits(self.peer.held, size):
            needed, bound = self._held + size, admission._bytes.bound
            raise errors.too_large("response", limit=bound, actual=needed) if needed > bound else admission.overloaded()
        self._hold(size)
        self.sending()

    def sending(self) -> None:
        """Start the time limit for the caller to read a response or status, which now goes to the engine."""
        if self._responds:
            self._responds = False
            self._admission._responses.release()
        self.began = self._admission._loop.time()
        self._admission.transfers.unread[self] = None

    def sent(self) -> None:
        """Stop the time limit, because the caller has read a response of a stream."""
        self._admission.transfers.unread.pop(self, None)

    def _hold(self, size: int) -> None:
        self._held += size
        self.peer.held += size
        self._admission._bytes.total += size

    def _leave(self, _: object) -> None:
        admission, peer = self._admission, self.peer
        admission.transfers.unread.pop(self, None)
        if self not in admission._admitted:
            return
        admission._admitted.remove(self)
        admission._calls.total -= 1
        admission._bytes.total -= self._held
        peer.calls -= 1
        peer.held -= self._held
        if not peer.calls:
            admission._peers.pop(peer.connection, None)
        if self._responds:
            admission._responses.release()
        if self._waited and peer.responses is not None:
            peer.responses.release()


class Admissions(NamedTuple):
    """Admission control for each kind of call, so that no kind can crowd out the others."""

    calls: Admission
    health_checks: Admission
    health_watches: Admission
    reflection_streams: Admission

    @classmethod
    def of(cls, limits: Limits, engine: Engine) -> Self:
        """Create admission control for an engine, with the limits from the settings."""
        size = limits.message_bytes
        counts = (HEALTH_CHECKS, HEALTH_WATCHES, REFLECTION_STREAMS)
        return cls(
            Admission(engine, calls=limits.concurrent_calls, held_bytes=HELD_MESSAGES * size, message_bytes=size),
            *(Admission(engine, calls=count, held_bytes=4 * size, message_bytes=HEALTH_BYTES) for count in counts),
        )
