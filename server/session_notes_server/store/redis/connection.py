"""A connection to one node of the store, shared by all calls in flight."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from session_notes_server.store.errors import ConnectionLost, Unusable
from session_notes_server.store.log_throttle import LogThrottle

log = logging.getLogger(__name__)

# After the event loop was blocked, a timer and a reply can be due at the same time, and the timer runs first. A due
# timer therefore waits this long for replies that have already arrived.
_GRACE_SECONDS = 0.002
_INCOMPLETE = object()
_untrusted_log = LogThrottle()

WINDOW = 16
"""Maximum number of commands, or batches of commands, that await a reply from the node. Others wait in this process.

A node executes everything it has received over one connection before it turns to the next one, and replies that arrive
together are processed together. Without this bound, a burst of large commands would delay all other calls, even a
primary's GetNotes, which has a separate connection.
"""


def pack(*words: str | int | bytes) -> bytes:
    """Return a command in wire format."""
    return hiredis.pack_command(words)  # type: ignore[arg-type,no-any-return]  # Its types say "a tuple of one word".


class Connection(asyncio.Protocol):
    """A pipelined connection, which matches replies to calls by their order.

    A time limit per call alone would mistake a queue for an outage: among hundreds of pending calls, one may wait long
    while the node answers the others. Therefore a second limit applies to silence. When a node sends nothing at all,
    the connection is closed, and all pending calls fail.

    Args:
        timeout_seconds: Limit for the replies to one `send`.
        silence_seconds: How long the node may send nothing while replies are pending.
    """

    def __init__(self, *, timeout_seconds: float, silence_seconds: float) -> None:
        self._on_lost: Callable[[], None] = _ignore
        self._timeout_seconds = timeout_seconds
        self._silence_seconds = silence_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._pending: deque[_Pending] = deque()
        # Commands of pending calls that have not been sent yet.
        self._unsent: deque[bytes] = deque()
        # Number of pending calls that have timed out. These are always the oldest.
        self._timed_out = 0
        self._last_data = self._listening_since = self._loop.time()
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0
        self._has_answered = self._retired = False

    def send(self, commands: bytes, count: int = 1) -> asyncio.Future[list[Any]]:
        """Send packed commands and return their replies. A reply that is an error is a `hiredis.ReplyError`.

        Args:
            commands: One or more commands.
            count: Number of commands.

        Raises:
            ConnectionLost: If the connection is lost, now or already.
            TimeoutError: If the replies take too long, although the node answers other calls.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(ConnectionLost())
            return future
        if len(self._pending) < WINDOW:
            self._transport.write(commands)
        else:
            self._unsent.append(commands)
        self._pending.append(_Pending(future, count, self._loop.time()))
        if self._timer is None:
            self._set_timer()
        return future

    def abort(self, cause: Exception | None = None) -> None:
        """Close the connection immediately. Pending calls fail with ConnectionLost, from `cause`. Idempotent."""
        if self._transport is None:
            return
        self._transport.abort()
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        while self._pending:
            pending = self._pending.popleft()
            if not pending.future.done():
                lost = ConnectionLost(pending.replies)
                lost.__cause__ = cause
                pending.future.set_exception(lost)
        self._on_lost()

    def abort_untrusted(self, problem: str) -> Unusable:
        """Close the connection after a reply that belongs to no call. Log it, throttled, and return the cause."""
        if (count := _untrusted_log.due(problem)) is not None:
            repeated = f" ({count} times since the last such line)" if count else ""
            log.error("%s; dropping the connection%s", problem, repeated)
        cause = Unusable("its replies do not match the commands: is it Redis, and is there a proxy in between?")
        self.abort(cause)
        return cause

    def retire(self) -> None:
        """Close the connection once no reply is pending, because another one has replaced it."""
        self._retired = True
        if not self._pending:
            self.abort()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the connection is lost, or soon if it already is."""
        self._on_lost = callback
        if self._transport is None:
            self._loop.call_soon(callback)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement asyncio.Protocol."""
        self.abort(exc)

    def data_received(self, data: bytes) -> None:
        """Implement asyncio.Protocol."""
        self._last_data = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self._take(reply)
        except (hiredis.ProtocolError, IndexError):
            if not self._has_answered:
                self.abort(Unusable(_describe_stranger(data)))
                return
            self.abort_untrusted("unexpected reply from Redis")
        else:
            self._send_more()

    def _send_more(self) -> None:
        """Send as many commands as replies have arrived, in one write: each write costs as much as a reply."""
        unsent = self._unsent
        if unsent and self._transport is not None:
            count = len(unsent) + WINDOW - len(self._pending)
            self._transport.write(b"".join([unsent.popleft() for _ in range(min(count, len(unsent)))]))

    def _take(self, reply: Any) -> None:
        first = self._pending[0]
        first.replies.append(reply)
        if len(first.replies) < first.count:
            return
        self._pending.popleft()
        self._has_answered = True
        self._timed_out -= self._timed_out > 0
        # If the caller was cancelled, its future is done.
        if not first.future.done():
            first.future.set_result(first.replies)
        if self._retired and not self._pending:
            self.abort()

    def _silent_since(self) -> float:
        return max(self._last_data, self._listening_since, self._pending[0].since)

    def _next_due(self) -> float:
        """Return when the node will have been silent for too long, or the next pending call will time out."""
        due = self._silent_since() + self._silence_seconds
        if self._timed_out < len(self._pending):
            due = min(due, self._pending[self._timed_out].since + self._timeout_seconds)
        return due

    def _set_timer(self) -> None:
        self._timer_due = self._next_due()
        self._timer = self._loop.call_at(self._timer_due, self._wait_for_replies)

    def _wait_for_replies(self) -> None:
        if self._loop.time() - self._timer_due > self._silence_seconds / 2:
            # The event loop was blocked and could not receive anything, so the node was not silent.
            self._listening_since = self._loop.time()
        self._timer = self._loop.call_later(_GRACE_SECONDS, self._check_timeouts)

    def _check_timeouts(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._pending and self._next_due() <= now:
            if self._silent_since() + self._silence_seconds <= now:
                self.abort(TimeoutError())
                return
            late = self._pending[self._timed_out].future
            self._timed_out += 1
            if not late.done():
                late.set_exception(TimeoutError())
        if self._pending:
            self._set_timer()


class _Pending:
    """A call with pending replies: their number, those received so far, and when the call began to wait."""

    __slots__ = ("count", "future", "replies", "since")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, since: float) -> None:
        self.future = future
        self.count = count
        self.since = since
        self.replies: list[Any] = []


def _ignore() -> None:
    pass


def _describe_stranger(data: bytes) -> str:
    """Describe a server that is not Redis by the first bytes it sent."""
    if data[:2] == b"\x15\x03":  # A TLS alert.
        return "it speaks TLS: write rediss:// (do both sides use TLS (rediss://), or neither?)"
    if data[:1] == b"<" or data[:5] == b"HTTP/":
        return "an HTTP server answers, not Redis: is the port right?"
    if data[3:9] == b"\x04\0\0\0\0\0":  # A SETTINGS frame of HTTP/2.
        return "a gRPC or HTTP/2 server answers, not Redis: is the port right?"
    return "something other than Redis answers: is the port right?"
