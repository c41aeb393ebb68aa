"""Credential files, which are read only if their owner and mode can be trusted, and reloaded when they change.

They contain callers' tokens and certificates, and the sidecar's credentials for the store. An unusable file prevents
the sidecar from starting. If a file becomes unusable later, its last valid content stays in use, and one log line names
the file and the fault, but never the content.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from session_notes_server.settings import StartupError

log = logging.getLogger(__name__)

T = TypeVar("T")

RELOAD_SECONDS = 1.0
MAX_FILE_BYTES = 1024 * 1024


class CredentialsError(StartupError):
    """An unusable credential file. The text names the file and the fault, and never quotes the content."""


class Reloader(Generic[T]):
    """The content of files, read again on access, at most once a second.

    The files are small and local, so reading them is cheap, and modification times could miss a change.

    Args:
        name: A description of the content, for the log.
        load: Reads and checks the files. Raises CredentialsError if they are unusable.
    """

    def __init__(self, name: str, load: Callable[[], T]) -> None:
        self._name = name
        self._load = load
        self._content = load()
        self._fault = ""
        self._next = time.monotonic() + RELOAD_SECONDS

    def current(self, *, force: bool = False) -> T:
        """Return the last valid content. With `force`, read the files even if less than a second has passed."""
        if force or time.monotonic() >= self._next:
            try:
                content = self._load()
            except CredentialsError as error:
                if str(error) != self._fault:
                    log.error("%s; the last valid %s stays in use", error, self._name)
                self._fault = str(error)
            else:
                if content != self._content or self._fault:
                    log.info("reloaded: %s", self._name)
                self._content, self._fault = content, ""
            self._next = time.monotonic() + RELOAD_SECONDS
        return self._content


def read_trusted_file(path: Path, *, secret: bool = False) -> bytes:
    """Return the content of a file whose owner and mode can be trusted. No other user may read a `secret` file.

    Raises:
        CredentialsError: If the file does not exist, cannot be trusted or cannot be read.
    """
    content = read_if_present(path, secret=secret)
    if content is None:
        raise CredentialsError(f"the file {path} does not exist")
    return content


def read_if_present(path: Path, *, secret: bool = False) -> bytes | None:
    """Return the content of a file as `read_trusted_file` does, or None if it does not exist."""
    try:
        # Non-blocking, because opening a named pipe would otherwise block the thread.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _check_trusted(path, os.fstat(file.fileno()), secret=secret)
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise CredentialsError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return content


def lines(path: Path, content: bytes) -> Iterator[tuple[int, str]]:
    """Yield the number and text of every line that is neither empty nor a comment."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is not UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _check_trusted(path: Path, status: os.stat_result, *, secret: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CredentialsError(f"{path} is not a regular file")
    if status.st_uid not in {os.geteuid(), 0}:
        raise CredentialsError(f"{path} belongs to another user; its owner must be the sidecar's user or root")
    # A file of root may be readable by its group, because containers mount secrets that way. PostgreSQL applies the
    # same rule to its private key.
    forbidden = (0o027 if status.st_uid == 0 != os.geteuid() else 0o077) if secret else 0o002
    if status.st_mode & forbidden:
        access, mode = ("read or change", "600") if secret else ("change", "o-w")
        raise CredentialsError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: other users can {access} it; run chmod {mode} on it"
        )
