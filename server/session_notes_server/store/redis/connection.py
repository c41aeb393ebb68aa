"""One connection to one node of the store, shared by all calls in flight."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from session_notes_server.store.errors import Unusable
from session_notes_server.store.log_throttle import LogThrottle

log = logging.getLogger(__name__)

# A loop that was held up finds a timer due and a reply there at once, and runs the timer first. So a timer that is due
# first gives replies that are there a moment to be read.
_SECOND_LOOK_SECONDS = 0.002
_NOTHING = object()
_distrusted = LogThrottle()

WINDOW = 16
"""How many commands, or batches of them, are with the node at a time; the others wait here for their turn.

A node does all that has come over one connection before it looks at the next, and replies that come at once are work
for the loop at once. So a burst of what is large would hold up everybody else, above all a primary's GetNotes, which
has a connection of its own for nothing then.
"""


def pack(*words: str | int | bytes) -> bytes:
    """A command as it goes over the wire."""
    return hiredis.pack_command(words)  # type: ignore[arg-type,no-any-return]  # Its types say "a tuple of one word".


class ConnectionLost(ConnectionError):
    """The connection is gone. What was sent over it and not answered may have been done, or not.

    Attributes:
        replies: Those that came before, of the commands that were sent together.
    """

    def __init__(self, replies: Sequence[Any] = ()) -> None:
        super().__init__()
        self.replies = replies


class Connection(asyncio.Protocol):
    """Sends commands as they come and hands each reply, in the order of the commands, to whom it belongs.

    A short time limit for each call alone would take a queue for an outage: of hundreds of calls one may wait for its
    turn while the node answers the others all the time. A node that answers nobody is another matter, and then the
    connection is given up, with all that wait for it.

    Args:
        timeout_seconds: How long the replies to one `send` may take.
        silence_seconds: How long the node may answer nobody while somebody waits.
    """

    def __init__(self, *, timeout_seconds: float, silence_seconds: float) -> None:
        self._on_lost: Callable[[], None] = _nobody
        self._timeout_seconds = timeout_seconds
        self._silence_seconds = silence_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._awaited: deque[_Awaited] = deque()
        # The last of them, which the node has not been sent yet.
        self._unsent: deque[bytes] = deque()
        # How many of them, from the first on, have had all the time there is.
        self._overdue = 0
        self._heard = self._listening_since = self._loop.time()
        self._timer: asyncio.Handle | None = None
        self._look_due = 0.0
        self._has_answered = self._retired = False

    def send(self, commands: bytes, count: int = 1) -> asyncio.Future[list[Any]]:
        """Send packed commands, `count` of them → their replies; where the node refuses one, a `hiredis.ReplyError`.

        Raises:
            ConnectionLost: the connection is gone, or was before.
            TimeoutError: the node takes too long, though it answers others.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(ConnectionLost())
            return future
        if len(self._awaited) < WINDOW:
            self._transport.write(commands)
        else:
            self._unsent.append(commands)
        self._awaited.append(_Awaited(future, count, self._loop.time()))
        if self._timer is None:
            self._set_timer()
        return future

    def abort(self, why: Exception | None = None) -> None:
        """Give the connection up: whoever waits for a reply hears so, and why, if that is known."""
        if self._transport is None:
            return
        self._transport.abort()
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        while self._awaited:
            awaited = self._awaited.popleft()
            if not awaited.future.done():
                lost = ConnectionLost(awaited.replies)
                lost.__cause__ = why
                awaited.future.set_exception(lost)
        self._on_lost()

    def retire(self) -> None:
        """Close the connection as soon as nobody waits for a reply: another one has taken its place."""
        self._retired = True
        if not self._awaited:
            self.abort()

    def distrust(self, why: str) -> Unusable:
        """Give the connection up for a reply that cannot be ours, log that ever more rarely, and return the cause."""
        if (before := _distrusted.due(why)) is not None:
            more = f" ({before} times since the last such line)" if before else ""
            log.error("%s; dropping the connection%s", why, more)
        cause = Unusable("its replies are not those to our commands: is that Redis, and nothing in between?")
        self.abort(cause)
        return cause

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Have this called when the connection is gone; at once, where it is."""
        self._on_lost = callback
        if self._transport is None:
            self._loop.call_soon(callback)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self.abort(exc)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        self._heard = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                self._take(reply)
        except (hiredis.ProtocolError, IndexError):
            if not self._has_answered:
                self.abort(Unusable(_no_redis(data)))
                return
            self.distrust("unexpected reply from Redis")

    def _take(self, reply: Any) -> None:
        first = self._awaited[0]
        first.replies.append(reply)
        if len(first.replies) < first.count:
            return
        self._awaited.popleft()
        self._has_answered = True
        self._overdue -= self._overdue > 0
        if self._unsent and self._transport is not None:
            self._transport.write(self._unsent.popleft())
        # A caller that has left is not there to be told.
        if not first.future.done():
            first.future.set_result(first.replies)
        if self._retired and not self._awaited:
            self.abort()

    def _due(self) -> float:
        """When the node has been silent for too long, or the first caller who still waits has waited for too long."""
        quiet_since = max(self._heard, self._listening_since, self._awaited[0].since)
        due = quiet_since + self._silence_seconds
        if self._overdue < len(self._awaited):
            due = min(due, self._awaited[self._overdue].since + self._timeout_seconds)
        return due

    def _set_timer(self) -> None:
        self._look_due = self._due()
        self._timer = self._loop.call_at(self._look_due, self._look)

    def _look(self) -> None:
        if self._loop.time() - self._look_due > self._silence_seconds / 2:
            # The loop was held up, and nobody could have been heard: that is no silence of the node's.
            self._listening_since = self._loop.time()
        self._timer = self._loop.call_later(_SECOND_LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._awaited and self._due() <= now:
            quiet_since = max(self._heard, self._listening_since, self._awaited[0].since)
            if quiet_since + self._silence_seconds <= now:
                self.abort(TimeoutError())
                return
            late = self._awaited[self._overdue].future
            self._overdue += 1
            if not late.done():
                late.set_exception(TimeoutError())
        if self._awaited:
            self._set_timer()


class _Awaited:
    """Replies that somebody waits for: how many, those that are there, and since when."""

    __slots__ = ("count", "future", "replies", "since")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, since: float) -> None:
        self.future = future
        self.count = count
        self.since = since
        self.replies: list[Any] = []


def _nobody() -> None:
    pass


def _no_redis(data: bytes) -> str:
    """What answers there instead of Redis, by the first bytes it sent."""
    if data[:2] == b"\x15\x03":  # A TLS alert.
        return "it speaks TLS there: write rediss:// (is TLS (rediss://) spoken on both sides, or on neither?)"
    if data[:1] == b"<" or data[:5] == b"HTTP/":
        return "an HTTP server answers there, and no Redis: is the port right?"
    if data[3:9] == b"\x04\0\0\0\0\0":  # A SETTINGS frame of HTTP/2.
        return "a gRPC or HTTP/2 server answers there, and no Redis: is the port right?"
    return "what answers there is no Redis: is the port right?"
