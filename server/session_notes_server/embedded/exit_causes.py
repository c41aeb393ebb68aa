"""Causes of the embedded store's exit, recognized by lines in its log.

The sidecar logs a fixed text for each, because the store's own lines may quote user data.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of the store's exit.

    Attributes:
        text: Its text in the sidecar's log.
        lasting: Whether restarts fail until an operator fixes the cause.
    """

    text: str
    lasting: bool = True


BROKEN_FILE = Cause("its append-only file is broken", lasting=False)
"""The sidecar repairs the file before it restarts the store."""

_NEWER_VERSION = b"Can't handle RDB format version", Cause("its files were written by a newer version")
_NO_MEMORY = Cause("it is out of memory", lasting=False)
_BROKEN_BASE = Cause("the base of its append-only file is broken")
_MISSING_PART = Cause("a part of its append-only file is missing")
_WRONG_TYPE = Cause("one of its files is a directory, or its directory is a file")
# The keys are parts of lines that Valkey logs.
_CAUSES = {
    b"No space left on device": Cause("its disk is full", lasting=False),
    b"Out Of Memory": _NO_MEMORY,
    b"Cannot allocate memory": _NO_MEMORY,
    b"Can't initialize Background Jobs": Cause("it is not allowed to start threads", lasting=False),
    b" reading the append only file": BROKEN_FILE,
    b"Internal error in RDB": _BROKEN_BASE,
    b"Error reading the RDB base file": _BROKEN_BASE,
    b"FATAL AOF MANIFEST FILE ERROR": Cause("the manifest of its append-only file is broken"),
    b"doesn't exist": _MISSING_PART,
    b"Unable to obtain the AOF file": _MISSING_PART,
    b"Permission denied": Cause("it is not allowed to use its files"),
    b"Read-only file system": Cause("its file system is read-only"),
    b"Input/output error": Cause("its disk reports errors"),
    b"Is a directory": _WRONG_TYPE,
    b"Not a directory": _WRONG_TYPE,
    b"Failed opening Unix socket": Cause("it cannot listen on its unix socket in the data directory"),
    b"is not enough for the server to start": Cause("the limit on open files (ulimit -n) is too low"),
    b"FATAL CONFIG FILE ERROR": Cause("it does not support one of its settings"),
    b"error while loading shared libraries": Cause("a shared library is missing"),
}


def cause_in(log: bytes) -> Cause | None:
    """Return the last known cause in a log, or None."""
    newer_version, cause = _NEWER_VERSION
    if newer_version in log:  # Its consequences, such as a broken base, may be logged later.
        return cause
    last = max(_CAUSES, key=log.rfind)
    return _CAUSES[last] if last in log else None
