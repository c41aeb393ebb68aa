"""Registry of pending work per session: turns and runs that the sidecar does not know yet.

Recorders and background observers register here. Other clients of the same sidecar in this process then count pending
turns in the drift of a reading (see `_drift`), and delete a session together with its pending work.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from session_notes import _targets


class TurnCounts:
    """The turns of a session as known to one holder, or to all holders together.

    Attributes:
        stored: Number of turns that the sidecar has stored, as last reported. None: unknown.
        pending: Number of pending turns.
        uncertain: Whether some pending turns may be stored already: their call is in flight or got no response.
    """

    __slots__ = ("pending", "stored", "uncertain")

    def __init__(self, stored: int | None, pending: int, uncertain: bool) -> None:
        self.stored = stored
        self.pending = pending
        self.uncertain = uncertain


class Holder(Protocol):
    """An object with pending work."""

    def _forget(self, session_id: str) -> Future[None] | None:
        """Drop the pending work of a session that is about to be deleted. Must not block.

        Returns:
            A future that is done when the call in flight for this session ends. None: no call is in flight.
        """

    def _turn_counts(self, session_id: str) -> TurnCounts | None:
        """Return the turn counts of a session. None: the session is unknown."""


_MAX_WAIT_IN_LOOP_SECONDS = 0.2

_lock = threading.RLock()
_holders: dict[str, weakref.WeakSet[Holder]] = {}


def _replace_lock() -> None:
    # Another thread of the parent may have held the lock.
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


def register(target: str, holder: Holder) -> None:
    """Register a holder for a sidecar, as long as the holder exists."""
    with _lock:
        _holders.setdefault(_targets.canonical(target), weakref.WeakSet()).add(holder)


def has_holders(target: str) -> bool:
    """Return whether any holder has been registered for a sidecar."""
    return _targets.canonical(target) in _holders


def forget(target: str, session_id: str) -> list[Future[None]]:
    """Drop the pending work of a session, and return futures of the calls in flight for it."""
    futures = (holder._forget(session_id) for holder in _registered(target))
    return [future for future in futures if future is not None]


def settle(futures: list[Future[None]], timeout: timedelta) -> timedelta:
    """Wait for calls in flight to end, and return the rest of the timeout."""
    if not futures or not isinstance(timeout, timedelta):
        return timeout
    start = time.monotonic()
    seconds = min(timeout.total_seconds(), threading.TIMEOUT_MAX)
    with suppress(RuntimeError):
        # This wait blocks the caller's event loop. The loop's calls reach the sidecar, but cannot end meanwhile.
        if asyncio.get_running_loop():
            seconds = min(seconds, _MAX_WAIT_IN_LOOP_SECONDS)
    wait(futures, seconds)
    return timeout - timedelta(seconds=time.monotonic() - start)


async def settle_async(futures: list[Future[None]], timeout: timedelta) -> timedelta:  # noqa: ASYNC109
    """Do the same as `settle` without blocking the event loop."""
    if not futures or not isinstance(timeout, timedelta):
        return timeout
    start = time.monotonic()
    seconds = min(timeout.total_seconds(), threading.TIMEOUT_MAX)
    await asyncio.wait([asyncio.wrap_future(future) for future in futures], timeout=seconds)
    return timeout - timedelta(seconds=time.monotonic() - start)


def turn_counts(target: str, session_id: str) -> TurnCounts | None:
    """Return the turn counts of a session over all holders. None: no holder knows the session."""
    counts = [c for holder in _registered(target) if (c := holder._turn_counts(session_id)) is not None]
    if not counts:
        return None
    stored = max((c.stored for c in counts if c.stored is not None), default=None)
    return TurnCounts(stored, sum(c.pending for c in counts), any(c.uncertain for c in counts))


def _registered(target: str) -> list[Holder]:
    target = _targets.canonical(target)
    if target not in _holders:
        return []
    with _lock:
        return list(_holders[target])
