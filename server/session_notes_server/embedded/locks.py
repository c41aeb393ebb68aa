"""Lock files, held by a process and by children that inherit the descriptor, until the last of them ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def lock_file(path: Path) -> IO[str] | None:
    """Lock a file, creating it if missing, for as long as it stays open in this process or in a child.

    Returns:
        The open file, or None if another process holds the lock.

    Raises:
        OSError: If the file cannot be opened or locked.
    """
    file = open_private(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file


def open_private(path: Path) -> IO[str]:
    """Open a file for appending. If missing, create it with mode 600."""
    # Without O_NONBLOCK, a FIFO at this path would block the process forever.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600), "a")
