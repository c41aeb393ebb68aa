"""Erasure from the embedded store's files: has the store rewrite its append-only file from what it holds.

In the append-only file a deletion is one more command, and the deleted data stays before it until the file is
rewritten. A rewrite also removes the hole that a full disk may have left in the file (see `append_only_file`), which
the store would not notice before its next start.
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

# Replaced text and expired data are gone from the files after this time.
REWRITE_EVERY = timedelta(hours=1)
# The least time between two rewrites, which bounds the cost of many deletions. A deletion just after the start of a
# rewrite waits for this pause and for both rewrites, and must still be erased within ERASED_WITHIN.
PAUSE_SECONDS = 3.0
CHECK_SECONDS = 1.0
POLL_SECONDS = 0.05
REPLY_SECONDS = 2.0
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.1, 60.0


class RewriteFailed(Exception):
    """The store did not rewrite its file. It does not run, is loading, or its disk is full."""


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
        """Have what was deleted erased from the files within ERASED_WITHIN."""
        self._requested += 1
        self._wanted.set()

    async def run(self) -> None:
        """Rewrite the file on request, when it is broken, and every hour. Runs until cancelled."""
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
            with contextlib.suppress(RewriteFailed):  # The store does not run. A rewrite follows its next start.
                await self._check()
            await asyncio.sleep(CHECK_SECONDS)

    async def _check(self) -> None:
        """Check that the store can write to its file, and that the file has the size that the store expects."""
        try:
            files = append_only_file.in_use(self._dir)
            # Measured before the store is asked: it knows of anything it writes in between, so that a busy file does
            # not look broken.
            size_on_disk = append_only_file.size(files)
        except OSError:
            return  # A rewrite has just replaced the files.
        info = await self._send("INFO persistence")
        if not _can_write(info):
            if self._can_write.is_set():
                log.error(
                    "the embedded store cannot write to its disk, and refuses writes: %d bytes of answered writes are "
                    "in memory only, and are lost if the store ends before there is room; nothing can be erased",
                    _number(info, "aof_buffer_length"),
                )
                self._can_write.clear()
                self.request()
            return
        if not self._can_write.is_set():
            log.info("the embedded store can write to its disk again")
            self._can_write.set()
        # The only trace of a write that failed for a moment is a file that is too large. If a rewrite ended in between,
        # the store reported the size of other files than those measured.
        too_large = _is_idle(info) and size_on_disk > _number(info, "aof_current_size")
        if too_large and self._done == self._requested and append_only_file.in_use(self._dir) == files:
            log.warning("the embedded store's file has a hole, as a full disk leaves one; rewriting the file")
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
        # A rewrite in flight may have begun before the deletion, with the data that the store held then.
        info = await self._wait_until_idle()
        # Commands not yet written to the file would be part of the new base and then be appended after it: a turn would
        # be stored twice.
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
        """Send a command over a connection that is used once, and return the reply."""
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
