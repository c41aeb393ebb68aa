"""The embedded store's data directory: checks, locks, and takeover from an orphaned store.

The directory has two lock files. A sidecar locks the first until it ends. Its store inherits a descriptor of the second
and locks it until the store ends. A store that outlived a killed sidecar is therefore detected without guessing from
process ids, and is stopped before another one starts on the same files.
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
# A directory with one of these files is a data directory.
_SIDECAR_LOCK, _STORE_LOCK = "sidecar.lock", "valkey.lock"
# mkfs creates this directory in the root of a file system.
_LOST_AND_FOUND = "lost+found"
# Temporary files of a killed rewrite by the store, or of a killed repair by `append_only_file`.
_LEFTOVER = re.compile(r"temp-(rewriteaof-(bg-)?[0-9]+|mended)\.aof")


class EmbeddedError(StartupError):
    """The embedded store cannot be started."""


class DataDirectory:
    """A directory for the data of one embedded store, used by one sidecar at a time.

    Args:
        path: The directory. If missing, `claim` creates it with mode 700. An existing one keeps its mode, and must be
            empty or a data directory.

    Attributes:
        path: The directory's absolute path.
        socket: The store's unix socket.
        log: The store's log.

    Raises:
        InvalidSetting: If the path is too long, or relative to a directory that does not exist.
        EmbeddedError: If the directory contains other files, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.expanduser().absolute()
        except RuntimeError:
            raise InvalidSetting(
                f"this user has no home directory for the data directory {path}: give an absolute path with --data-dir"
            ) from None
        except FileNotFoundError:
            raise InvalidSetting(
                f"the data directory {path} is relative to the working directory, which was deleted: "
                "give an absolute path with --data-dir"
            ) from None
        self.socket = self.path / "valkey.sock"
        self.log = self.path / "valkey.log"
        self._lock: IO[str] | None = None
        self._check()

    def _check(self) -> None:
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH_BYTES:
            raise InvalidSetting(
                f"the data directory's path is too long for a unix socket in it: {self.path}\n"
                "Choose a shorter path with --data-dir."
            )
        try:
            names = {path.name for path in self.path.iterdir()}
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.unusable(error) from None
        if names - {_LOST_AND_FOUND} and not names & {_SIDECAR_LOCK, _STORE_LOCK}:
            raise EmbeddedError(
                f"the data directory contains files of another program: {self.path}\n"
                f"Choose an empty or new directory with --data-dir, such as {self.path / 'session-notes'}"
            )

    def claim(self) -> None:
        """Create the directory if missing, and lock it for this sidecar.

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
                "other users can write to the data directory %s (mode %o): they cannot read its files, but they can "
                "remove them",
                *(self.path, mode),
            )

    def release(self) -> None:
        """Let another sidecar claim the directory."""
        if self._lock is not None:
            self._lock.close()

    async def lock_for_store(self) -> IO[str]:
        """Lock the directory for a store. First stop the store of a killed sidecar, if it is still running.

        Raises:
            EmbeddedError: If that store does not stop.
            OSError: If the lock file cannot be used.
        """
        path = self.path / _STORE_LOCK
        lock = lock_file(path)
        if lock is not None:
            return lock
        log.warning("the store of a killed sidecar still runs on %s; stopping it to take over its data", self.path)
        self._send_shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TAKEOVER_SECONDS
        while (lock := lock_file(path)) is None:
            if loop.time() > deadline:
                raise EmbeddedError(
                    f"the store of a killed sidecar is still running on {self.path} and does not stop.\n"
                    "Kill the valkey-server process that uses this directory, and start the sidecar again."
                )
            await asyncio.sleep(0.01)
        return lock

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed rewrites and repairs. The store never removes them."""
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
                f"\nIt must be writable by user {os.geteuid()}, group {os.getegid()} "
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
                pass  # It is already stopping. If it hangs, the wait for its lock times out.
