"""The cause of the embedded store's end, found in its log.

The sidecar's log names the cause in fixed words: the store's own lines may quote what users said.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause for which the store ended.

    Attributes:
        text: The words for the sidecar's log.
        lasting: Whether a restart cannot help until an operator fixes the cause.
    """

    text: str
    lasting: bool = True


BROKEN_FILE = Cause("its append-only file is broken", lasting=False)
"""The sidecar repairs it before it restarts the store."""

_NEWER_VERSION = b"Can't handle RDB format version", Cause("its files are those of a newer version")
_NO_MEMORY = Cause("it is out of memory", lasting=False)
_BROKEN_BASE = Cause("the base of its append-only file is broken")
_MISSING_PART = Cause("a part of its append-only file is missing")
_WRONG_TYPE = Cause("there is something else in the place of one of its files")
# By a part of the line that Valkey logs.
_CAUSES = {
    b"No space left on device": Cause("its disk is full", lasting=False),
    b"Out Of Memory": _NO_MEMORY,
    b"Cannot allocate memory": _NO_MEMORY,
    b"Can't initialize Background Jobs": Cause("it may not start threads", lasting=False),
    b" reading the append only file": BROKEN_FILE,
    b"Internal error in RDB": _BROKEN_BASE,
    b"Error reading the RDB base file": _BROKEN_BASE,
    b"FATAL AOF MANIFEST FILE ERROR": Cause("the manifest of its append-only file is broken"),
    b"doesn't exist": _MISSING_PART,
    b"Unable to obtain the AOF file": _MISSING_PART,
    b"Permission denied": Cause("it may not use its files"),
    b"Read-only file system": Cause("its file system is read-only"),
    b"Input/output error": Cause("its disk is faulty"),
    b"Is a directory": _WRONG_TYPE,
    b"Not a directory": _WRONG_TYPE,
    b"Failed opening Unix socket": Cause("it cannot listen on its unix socket in the data directory"),
    b"is not enough for the server to start": Cause("the limit on open files (ulimit -n) is too low"),
    b"FATAL CONFIG FILE ERROR": Cause("it does not know one of its settings"),
    b"error while loading shared libraries": Cause("a library that it needs is missing"),
}


def cause_in(log: bytes) -> Cause | None:
    """Return the cause that the store logged last, or None if it logged no known one."""
    newer_version, cause = _NEWER_VERSION
    if newer_version in log:  # A consequence of it, such as a broken base, may be logged later.
        return cause
    last = max(_CAUSES, key=log.rfind)
    return _CAUSES[last] if last in log else None
