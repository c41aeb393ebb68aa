"""The embedded store's data directory: its checks, its locks, and the takeover from a store left behind.

Two lock files tell who uses the directory. A sidecar holds the first for as long as it lives. Its store holds the
second through an inherited descriptor. A store that outlived a killed sidecar is therefore recognized without guessing
by process id, and is stopped before another one starts on the same files.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import stat
from pathlib import Path
from typing import IO

from session_notes_server.embedded.locks import lock_file
from session_notes_server.settings import MAX_SOCKET_PATH_BYTES, InvalidSetting, StartupError

log = logging.getLogger(__name__)

TAKEOVER_SECONDS = 10.0
# Only a sidecar gives files these names: a directory with one of them is a data directory.
_SIDECAR_LOCK, _STORE_LOCK = "sidecar.lock", "valkey.lock"
# The directory that mkfs makes in a file system's root.
_LOST_AND_FOUND = "lost+found"
# Temporary files of a rewrite by the store, and of a repair by `append_only_file`, that was killed.
_LEFTOVER = re.compile(r"temp-(rewriteaof-(bg-)?[0-9]+|mended)\.aof")


class EmbeddedError(StartupError):
    """The embedded store cannot be started."""


class DataDirectory:
    """A directory for the data of one embedded store, used by one sidecar at a time.

    Args:
        path: The directory. If missing, `claim` makes it with mode 700. An existing one keeps its mode, and must be
            empty or a data directory already.

    Attributes:
        path: The directory's absolute path.
        socket: The store's unix socket.
        log: The store's log.

    Raises:
        InvalidSetting: If the path is too long, or relative to a directory that does not exist.
        EmbeddedError: If the directory holds other files, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.expanduser().absolute()
        except RuntimeError:
            raise InvalidSetting(
                f"there is no home directory for the data directory {path}: write its whole path with --data-dir"
            ) from None
        except FileNotFoundError:
            raise InvalidSetting(
                f"the working directory, where the data directory {path} should be, is deleted: "
                "write its whole path with --data-dir"
            ) from None
        self.socket = self.path / "valkey.sock"
        self.log = self.path / "valkey.log"
        self._lock: IO[str] | None = None
        self._check()

    def _check(self) -> None:
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH_BYTES:
            raise InvalidSetting(
                f"the data directory's path is too long for a unix socket in it: {self.path}\n"
                "Choose a shorter one with --data-dir."
            )
        try:
            names = {path.name for path in self.path.iterdir()}
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.unusable(error) from None
        if names - {_LOST_AND_FOUND} and not names & {_SIDECAR_LOCK, _STORE_LOCK}:
            raise EmbeddedError(
                f"the data directory holds files of something else: {self.path}\n"
                f"Choose an empty or a new one with --data-dir, such as {self.path / 'session-notes'}"
            )

    def claim(self) -> None:
        """Make the directory if missing, and lock it for this sidecar.

        Raises:
            EmbeddedError: If another sidecar uses the directory, or it cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock_file(self.path / _SIDECAR_LOCK)
        except OSError as error:
            raise self.unusable(error) from None
        if self._lock is None:
            raise EmbeddedError(
                f"another sidecar is running on the data directory {self.path}.\n"
                "Use that sidecar, give this one another directory with --data-dir, "
                "or let both share a Redis with --redis-url."
            )
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o022 and not mode & stat.S_ISVTX:
            log.warning(
                "other users can change the data directory %s (mode %o): they cannot read its files, but can remove "
                "them",
                *(self.path, mode),
            )

    def release(self) -> None:
        """Let another sidecar claim the directory."""
        if self._lock is not None:
            self._lock.close()

    async def lock_for_store(self) -> IO[str]:
        """Lock the directory for a store, and stop a store left behind by a killed sidecar first.

        Raises:
            EmbeddedError: If that store does not stop.
            OSError: If the lock file cannot be used.
        """
        path = self.path / _STORE_LOCK
        lock = lock_file(path)
        if lock is not None:
            return lock
        log.warning("a store left behind by a killed sidecar is still running on %s; taking its data over", self.path)
        self._send_shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TAKEOVER_SECONDS
        while (lock := lock_file(path)) is None:
            if loop.time() > deadline:
                raise EmbeddedError(
                    f"a store left behind on {self.path} does not stop.\n"
                    "End the process valkey-server that runs on this directory, and start the sidecar again."
                )
            await asyncio.sleep(0.01)
        return lock

    def remove_leftovers(self) -> None:
        """Remove temporary files of killed rewrites and repairs: the store never does."""
        for path in self.path.iterdir():
            if _LEFTOVER.fullmatch(path.name) and path.is_file():
                path.unlink()

    def accepts_connections(self) -> bool:
        """Return whether a store accepts connections on the socket."""
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def unusable(self, error: OSError) -> EmbeddedError:
        """Return the error for a directory that cannot be used."""
        text = f"the data directory cannot be used: {self.path} ({error.strerror})."
        if isinstance(error, PermissionError):
            text += (
                f"\nIt must be writable for user {os.geteuid()}, group {os.getegid()} "
                "(in Kubernetes: set fsGroup in the pod's securityContext)."
            )
        return EmbeddedError(f"{text}\nChoose another with --data-dir.")

    def _send_shutdown(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket))
                client.sendall(b"SHUTDOWN\r\n")
            except OSError:
                pass  # It is stopping already, or hangs: then the wait for its lock ends in an error.
