"""What a forked child makes anew: threads, locks and channels do not survive `fork`.

gunicorn with `--preload`, Celery and `multiprocessing` fork after an application's modules have made their clients.
"""

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Whatever has to start again in a forked child."""

    def _forked(self) -> None:
        """Start again, in the child, before any of its code runs. Must not block or raise."""


_known: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def register(forkable: Forkable) -> None:
    """Have `_forked` called in every child that this process forks from now on, for as long as the object lives."""
    _known.add(forkable)


def _start_again() -> None:
    for forkable in list(_known):
        forkable._forked()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_again)
