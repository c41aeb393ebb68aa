"""End of the process: recorders with pending turns store them first, within a time limit."""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import TYPE_CHECKING

from session_notes._limits import EXIT_TIMEOUT
from session_notes._logs import warn

if TYPE_CHECKING:
    from session_notes._recorder import Recorder

# Recorders with pending turns. The references keep them alive until their turns are stored.
_watched: set[Recorder] = set()
# The process that imported this module, and the one in which `watch` has registered the handler, if necessary.
_imported_in = os.getpid()
_registered_in: int | None = None


def watch(recorder: Recorder) -> None:
    """Store a recorder's pending turns if the process ends before `unwatch`."""
    global _registered_in
    _watched.add(recorder)
    if _registered_in != os.getpid():
        _registered_in = os.getpid()
        forked = _registered_in != _imported_in
        if forked:
            atexit.register(_finish)
        # Before Python 3.13, child processes of multiprocessing end without atexit, unless they were spawned.
        multiprocessing = sys.modules.get("multiprocessing.process")
        child = multiprocessing is not None and multiprocessing.parent_process() is not None
        if child and (forked or "--multiprocessing-fork" not in sys.orig_argv):
            from multiprocessing.util import Finalize

            Finalize(None, _finish, exitpriority=0)


def unwatch(recorder: Recorder) -> None:
    """Forget a recorder that has no pending turns left."""
    _watched.discard(recorder)


def _finish() -> None:
    deadline = time.monotonic() + EXIT_TIMEOUT.total_seconds()
    recorders = list(_watched)
    for recorder in recorders:
        # A run that begins now would never end.
        recorder._backlog.close(submit=False)
    for recorder in recorders:
        try:
            recorder._finish(deadline)
        except Exception as error:
            warn("turns may not be recorded: %s", type(error).__name__)
        _watched.discard(recorder)


# Registered at import, because handlers run in reverse order: those of the application, which may record, run first.
atexit.register(_finish)
