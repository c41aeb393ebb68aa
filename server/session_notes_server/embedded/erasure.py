"""Erasure of deleted data from the embedded store's files, through rewrites of the append-only file.

A deletion appends a command to the file. The deleted data stays in the file until the store rewrites it from memory. A
rewrite also removes a hole left by a full disk (see `append_only_file`), which the store itself would not notice before
its next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta
from pathlib import Path

from session_notes_server.embedded import append_only_file
from session_notes_server.settings import ERASED_WITHIN

log = logging.getLogger(__name__)

# The longest time that replaced and expired data stays in the files.
REWRITE_EVERY = timedelta(hours=1)
# The pause between two rewrites bounds the cost of many deletions. Data deleted just after the start of a rewrite waits
# for that rewrite, this pause and another rewrite, which together must not exceed ERASED_WITHIN.
PAUSE_SECONDS = 3.0
CHECK_SECONDS = 1.0
POLL_SECONDS = 0.05
REPLY_SECONDS = 2.0
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.1, 60.0


class RewriteFailed(Exception):
    """The store did not rewrite its file: it is not running, is loading, or its disk is full."""


class Erasure:
    """Rewrites of the append-only file: after deletions, after the disk was full, and every hour.

    Args:
        data_dir: The store's data directory.
        socket: The store's unix socket.
    """

    def __init__(self, data_dir: Path, socket: Path) -> None:
        self._dir = data_dir
        self._socket = socket
        self._wanted = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._requested = self._done = 0

    def request(self) -> None:
        """Request that the data deleted so far is erased from the files within ERASED_WITHIN."""
        self._requested += 1
        self._wanted.set()

    async def run(self) -> None:
        """Rewrite the file on request, when it has a hole, and every hour. Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._check_regularly())
            tasks.create_task(self._rewrite_when_wanted())

    async def finish(self) -> None:
        """Rewrite the file if a request is pending, before the store stops.

        If this fails, the rewrite after the store's next start erases the data.
        """
        with contextlib.suppress(RewriteFailed, TimeoutError):
            await self._check()
            if self._done < self._requested:
                await asyncio.wait_for(self._rewrite(), ERASED_WITHIN.total_seconds())

    async def _check_regularly(self) -> None:
        while True:
            with contextlib.suppress(RewriteFailed):  # The store is not running. Its next start requests a rewrite.
                await self._check()
            await asyncio.sleep(CHECK_SECONDS)

    async def _check(self) -> None:
        """Check that the store can write to its file, and that the file has the expected size."""
        try:
            files = append_only_file.in_use(self._dir)
            # Measured before INFO, so that writes in between cannot make the file seem too large.
            size_on_disk = append_only_file.size(files)
        except OSError:
            return  # A rewrite has just replaced the files.
        info = await self._send("INFO persistence")
        if not _can_write(info):
            if self._can_write.is_set():
                log.error(
                    "the embedded store cannot write to its disk and refuses writes: %d bytes of acknowledged writes "
                    "are in memory only, and are lost if it ends before space is freed; deleted data cannot be erased",
                    _number(info, "aof_buffer_length"),
                )
                self._can_write.clear()
                self.request()
            return
        if not self._can_write.is_set():
            log.info("the embedded store can write to its disk again")
            self._can_write.set()
        # The only trace of a brief write failure is a file that is too large. If a rewrite has ended since the
        # measurement, INFO reports the size of other files.
        too_large = _is_idle(info) and size_on_disk > _number(info, "aof_current_size")
        if too_large and self._done == self._requested and append_only_file.in_use(self._dir) == files:
            log.warning("the embedded store's append-only file has a hole, probably from a full disk; rewriting it")
            self.request()

    async def _rewrite_when_wanted(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), REWRITE_EVERY.total_seconds())
            self._wanted.clear()
            await self._rewrite_with_retries()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _rewrite_with_retries(self) -> None:
        loop, backoff, reported = asyncio.get_running_loop(), FIRST_BACKOFF_SECONDS, False
        overdue = loop.time() + ERASED_WITHIN.total_seconds()
        while True:
            await self._can_write.wait()
            try:
                await self._rewrite()
            except RewriteFailed:
                if loop.time() > overdue and not reported:
                    log.error("the embedded store cannot rewrite its files: deleted data is still in them")
                    reported = True
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, LAST_BACKOFF_SECONDS)
            else:
                if reported:
                    log.info("the embedded store has rewritten its files: deleted data is erased")
                return

    async def _rewrite(self) -> None:
        # A rewrite in flight may have begun before the deletion, and would write the deleted data.
        info = await self._wait_until_idle()
        # Commands not yet written to the file would be in the new base and also be appended after it, which would store
        # a turn twice.
        if not _can_write(info):
            raise RewriteFailed
        requested = self._requested
        if not (await self._send("BGREWRITEAOF")).startswith("+"):
            raise RewriteFailed
        info = await self._wait_until_idle()
        if "aof_last_bgrewrite_status:ok" not in info or not _can_write(info):
            raise RewriteFailed
        self._done = requested

    async def _wait_until_idle(self) -> str:
        """Wait until no rewrite is in flight, and return the store's INFO."""
        while True:
            info = await self._send("INFO persistence")
            if _is_idle(info):
                return info
            await asyncio.sleep(POLL_SECONDS)

    async def _send(self, command: str) -> str:
        """Send a command over a new connection, and return the reply."""
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                with contextlib.closing(writer):
                    writer.write(f"{command}\r\n".encode())
                    head = await reader.readuntil(b"\r\n")
                    body = await reader.readexactly(int(head[1:])) if head.startswith(b"$") else b""
        except (OSError, EOFError) as error:
            raise RewriteFailed from error
        return (head + body).decode()


def _can_write(info: str) -> bool:
    return "aof_last_write_status:err" not in info


def _is_idle(info: str) -> bool:
    return "aof_rewrite_in_progress:0" in info and "aof_rewrite_scheduled:0" in info


def _number(info: str, name: str) -> int:
    return int(info.partition(f"\n{name}:")[2].partition("\r")[0] or 0)
