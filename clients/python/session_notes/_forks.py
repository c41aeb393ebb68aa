"""Support for fork: threads, locks and channels do not survive it, and are re-created in the child.

gunicorn with `--preload`, Celery and `multiprocessing` fork after the application's modules have created their clients.

gRPC's own fork handlers allow a child to use gRPC, on new channels, if no thread is inside gRPC at the moment of the
fork. A blocking call is inside gRPC while it lasts, an asyncio channel as long as it is open. After any other fork,
calls in the child crash or hang (grpcio 1.85). Therefore a fork waits briefly for blocking calls to end, and new calls
wait for the fork. If that does not suffice, the child's clients raise UsageError.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from session_notes._errors import UsageError

_WAIT_SECONDS = 0.5
"""How long a fork waits for calls in flight. With a healthy sidecar, a call takes about 1 ms."""


class Forkable(Protocol):
    """An object that must be reset in a forked child."""

    def _forked(self) -> None:
        """Reset the object in the child, before any other code runs there. Must not block or raise."""


class _Calls:
    """The blocking calls that are inside gRPC. Each call enters it as a context manager."""

    def __init__(self) -> None:
        # Reentrant, because a signal handler that forks may interrupt this code.
        self._changed = threading.Condition()
        self._forks = 0
        self.inside = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._forks:
                self._changed.wait()
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self.inside -= 1
            if self._forks:
                self._changed.notify_all()

    def hold(self) -> None:
        """Block new calls, and wait briefly for those in flight to end."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self.inside, _WAIT_SECONDS)

    def release(self) -> None:
        """Let calls continue."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


calls = _Calls()
asyncio_channels: weakref.WeakSet[object] = weakref.WeakSet()
"""The open channels of asyncio clients."""

_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()
_forks = 0
"""Number of forks between the process that imported this module and the current one."""

_unusable = ""
"""Why gRPC must not be called in this process. Empty: it may be called."""


def register(forkable: Forkable) -> None:
    """Reset the object in every child of this process, as long as it exists."""
    _forkables.add(forkable)


def check() -> None:
    """Raise if gRPC calls would hang or crash in this process.

    Raises:
        UsageError: If gRPC does not work in this forked process.
    """
    if _unusable:
        raise UsageError(
            f"this process was forked from one in which {_unusable}, and gRPC does not work in such a child: "
            "fork before clients are used (gunicorn without --preload, for example), or start processes with spawn"
        )


def channel_options() -> tuple[tuple[str, int], ...]:
    """Return an option that differs from those of inherited channels. With equal options, gRPC shares connections."""
    return (("session_notes.forks", _forks),) if _forks else ()


def _reset_child() -> None:
    global _forks, _unusable
    _forks += 1
    if calls.inside:
        _unusable = "calls were in flight"
    elif asyncio_channels:
        _unusable = "an asyncio client was open"
    elif _forkables and os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in ("0", "false", "no", "n", "f"):
        _unusable = "GRPC_ENABLE_FORK_SUPPORT was off"
    # Another thread of the parent may have held its lock.
    calls.__init__()  # type: ignore[misc]
    asyncio_channels.clear()
    for forkable in list(_forkables):
        forkable._forked()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=calls.hold, after_in_parent=calls.release, after_in_child=_reset_child)
