"""Pending work per session: turns to append and runs to begin that the sidecar does not know of yet.

Recorders and background observers register here. A client of the same sidecar in this process then reads a true drift
while turns are pending, and deletes a session together with what is pending for it.
"""

import asyncio
import dataclasses
import os
import threading
import time
import weakref
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from session_notes._types import Reading


class Pending(NamedTuple):
    """A session as one holder, or all holders together, know it.

    Attributes:
        stored: How many turns the sidecar has stored, as last known; None: not known.
        pending: How many turns are pending.
        sent: Whether some of them may be stored already: their call is in flight, or got no answer.
    """

    stored: int | None
    pending: int
    sent: bool


class Holder(Protocol):
    """Whatever keeps pending work on sessions."""

    def _forget(self, session_id: str) -> "Future[None] | None":
        """Drop what is pending for a session that is being deleted, without blocking.

        Returns:
            A future that is done once the call in flight for this session, if there is one, has ended.
        """

    def _turn_count(self, session_id: str) -> Pending | None:
        """Return what is known of the session's turns; None where nothing is."""


_IN_A_LOOP_SECONDS = 0.2

_lock = threading.Lock()
_holders: "dict[str, weakref.WeakSet[Holder]]" = {}


def _new_lock() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def register(target: str, holder: Holder) -> None:
    """Make a holder known to the clients of this sidecar, for as long as the holder lives."""
    with _lock:
        _holders.setdefault(_plain(target), weakref.WeakSet()).add(holder)


def forget(target: str, session_id: str) -> "list[Future[None]]":
    """Drop what is pending for a session; return futures of the calls in flight for it."""
    futures = (holder._forget(session_id) for holder in _of(target))
    return [future for future in futures if future is not None]


def settle(futures: "list[Future[None]]", timeout: timedelta) -> timedelta:
    """Wait until calls in flight have ended; return what is left of the timeout."""
    if not futures or not isinstance(timeout, timedelta):
        return timeout
    start = time.monotonic()
    seconds = min(timeout.total_seconds(), threading.TIMEOUT_MAX)
    with suppress(RuntimeError):
        # Calls of this event loop cannot end while it is blocked here, but they reach the sidecar.
        if asyncio.get_running_loop():
            seconds = min(seconds, _IN_A_LOOP_SECONDS)
    wait(futures, seconds)
    return timeout - timedelta(seconds=time.monotonic() - start)


async def settle_async(futures: "list[Future[None]]", timeout: timedelta) -> timedelta:  # noqa: ASYNC109
    """As `settle`, without blocking the event loop."""
    if not futures or not isinstance(timeout, timedelta):
        return timeout
    start = time.monotonic()
    seconds = min(timeout.total_seconds(), threading.TIMEOUT_MAX)
    await asyncio.wait([asyncio.wrap_future(future) for future in futures], timeout=seconds)
    return timeout - timedelta(seconds=time.monotonic() - start)


def turns(target: str, session_id: str) -> Pending | None:
    """Return a session as all holders together know it; None where none does."""
    found = [known for holder in _of(target) if (known := holder._turn_count(session_id)) is not None]
    if not found:
        return None
    stored = max((known.stored for known in found if known.stored is not None), default=None)
    return Pending(stored, sum(known.pending for known in found), any(known.sent for known in found))


class Drift:
    """The drift of one reading while turns of its session are pending.

    The sidecar compares with the turns it has stored, so that turns of other writers count as well, and those that are
    pending here are added. A number that the caller gives takes part only where it can be trusted: while it is not
    known how many turns are stored, a recorder's own count is too low.
    """

    def __init__(self, target: str, request: Any, pending: Pending) -> None:
        self._target = target
        self._session_id: str = request.session_id
        self._pending = pending
        self._max = request.max_turns_behind if request.HasField("max_turns_behind") else None
        self._at_least: int = request.current_turn
        request.ClearField("current_turn")

    def corrected(self, reading: Reading) -> Reading:
        """Return the reading as it is with the pending turns."""
        observed = reading.observed_turn
        if observed is None:
            return reading
        stored = observed + (reading.turns_behind or 0)
        now = turns(self._target, self._session_id) or self._pending
        if now.stored is not None and (now.stored != self._pending.stored or now.sent or self._pending.sent):
            # Some of them may be among those stored. The count is exact unless another writer appended just now, too.
            current = max(stored, now.stored + now.pending)
        else:
            current = stored + self._pending.pending
        behind = max(current, self._at_least) - observed
        fresh = reading.fresh and (self._max is None or behind <= self._max)
        return dataclasses.replace(reading, turns_behind=max(behind, 0), fresh=fresh)


def drift(target: str, request: Any) -> Drift | None:
    """Prepare a GetNotes request, if turns of its session are pending, so that its reading's drift can be corrected."""
    if _plain(target) not in _holders:
        return None
    pending = turns(target, request.session_id)
    if pending is None or not pending.pending or (request.HasField("current_turn") and pending.stored is not None):
        return None
    return Drift(target, request, pending)


def drifts(target: str, request: Any) -> list[Drift | None]:
    """Prepare every entry of a BatchGetNotes request, as `drift`."""
    return [drift(target, entry) for entry in request.requests]


def _of(target: str) -> list[Holder]:
    target = _plain(target)
    if target not in _holders:
        return []
    with _lock:
        return list(_holders[target])


def _plain(target: str) -> str:
    """Return an address in one form: clients of one sidecar may spell it in several."""
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:", "unix://"):
        if target.startswith(scheme):
            target = ("unix:" if scheme == "unix://" else "") + target.removeprefix(scheme)
            break
    host, colon, port = target.rpartition(":")
    return f"127.0.0.1:{port}" if colon and host.lower() in ("localhost", "[::1]") else target
