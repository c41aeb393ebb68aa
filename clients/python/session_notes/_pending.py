"""Pending work per session: turns to append and runs to begin that the sidecar does not know of yet.

Recorders and background observers register here. A client of the same sidecar in this process then reads a true drift
while turns are pending, and deletes a session together with what is pending for it.
"""

import threading
import weakref
from concurrent.futures import Future
from typing import Protocol


class Holder(Protocol):
    """Whatever keeps pending work on sessions."""

    def _forget(self, session_id: str) -> "Future[None] | None":
        """Drop what is pending for a session that is being deleted, without blocking.

        Returns:
            A future that is done once the call in flight for this session, if there is one, has ended.
        """

    def _turn_count(self, session_id: str) -> int | None:
        """Return the conversation's length in turns, pending ones included; None while none is pending."""


_lock = threading.Lock()
_holders: "dict[str, weakref.WeakSet[Holder]]" = {}


def register(target: str, holder: Holder) -> None:
    """Make a holder known to the clients of this sidecar, for as long as the holder lives."""
    with _lock:
        _holders.setdefault(target, weakref.WeakSet()).add(holder)


def forget(target: str, session_id: str) -> "list[Future[None]]":
    """Drop what is pending for a session; return futures of the calls in flight for it."""
    futures = (holder._forget(session_id) for holder in _of(target))
    return [future for future in futures if future is not None]


def turn_count(target: str, session_id: str) -> int | None:
    """Return the conversation's length in turns as the best informed holder has it; None while none is pending."""
    counts = (holder._turn_count(session_id) for holder in _of(target))
    return max((count for count in counts if count is not None), default=None)


def _of(target: str) -> list[Holder]:
    if target not in _holders:
        return []
    with _lock:
        return list(_holders[target])
