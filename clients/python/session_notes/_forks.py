"""What a forked child makes anew: threads, locks and channels do not survive `fork`.

gunicorn with `--preload`, Celery and `multiprocessing` fork after an application's modules have made their clients.

gRPC's own handlers let a child use gRPC, on new channels, if no thread is inside gRPC at the moment of the fork. A
blocking call is inside for as long as it lasts, an asyncio channel for as long as it is open. In a child of any other
fork, calls crash or hang (grpcio 1.85). So a fork waits a moment for blocking calls to end, while new ones wait for the
fork. Where that is not enough, the child's clients refuse to call.
"""

import os
import threading
import weakref
from typing import Protocol

from session_notes._errors import UsageError

_WAIT_SECONDS = 0.5
"""How long a fork waits for calls in flight. A call to a healthy sidecar takes about a millisecond."""


class Forkable(Protocol):
    """Whatever has to start again in a forked child."""

    def _forked(self) -> None:
        """Start again, in the child, before any of its code runs. Must not block or raise."""


class _Calls:
    """The blocking calls that are inside gRPC; entered by each for as long as it lasts."""

    def __init__(self) -> None:
        # Reentrant: a signal handler that forks may interrupt us.
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
        """Hold new calls back, and wait a moment for the others to end."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self.inside, _WAIT_SECONDS)

    def release(self) -> None:
        """Let calls go on."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


calls = _Calls()
asyncio_channels: "weakref.WeakSet[object]" = weakref.WeakSet()
"""Those that are open."""

_known: "weakref.WeakSet[Forkable]" = weakref.WeakSet()
_forks = 0
"""How many forks lie between this process and the one that imported us."""

_unusable = ""
"""Why gRPC must not be called in this process; empty: it may be."""


def register(forkable: Forkable) -> None:
    """Have `_forked` called in every child that this process forks from now on, for as long as the object lives."""
    _known.add(forkable)


def check() -> None:
    """Raise where calls would hang or crash.

    Raises:
        UsageError: This process was forked at a moment after which gRPC does not work.
    """
    if _unusable:
        raise UsageError(
            f"this process was forked from one in which {_unusable}, and gRPC does not work in such a child: "
            "fork before clients are used (gunicorn without --preload, for example), or start processes by spawn"
        )


def channel_options() -> tuple[tuple[str, int], ...]:
    """Return what tells a channel of this process from an inherited one: alike, they would share connections."""
    return (("session_notes.forks", _forks),) if _forks else ()


def _start_again() -> None:
    global _forks, _unusable
    _forks += 1
    if calls.inside:
        _unusable = "calls were in flight"
    elif asyncio_channels:
        _unusable = "an asyncio client was open"
    elif _known and os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in ("0", "false", "no", "n", "f"):
        _unusable = "GRPC_ENABLE_FORK_SUPPORT was off"
    # Another thread of the parent may have held its lock.
    calls.__init__()  # type: ignore[misc]
    asyncio_channels.clear()
    for forkable in list(_known):
        forkable._forked()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=calls.hold, after_in_parent=calls.release, after_in_child=_start_again)
