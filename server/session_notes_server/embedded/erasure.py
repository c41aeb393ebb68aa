"""Erasure of the embedded store's files: it rewrites its append-only file from what it holds.

That erases: to the append-only file a deletion is one more line, and what was deleted stays in it until then. And it
mends: a disk that was full may have left a hole in the file (see `append_only`), which the store does not notice before
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

# Text that was replaced, or whose time has passed, is gone from the files by then.
AT_LEAST_EVERY = timedelta(hours=1)
# A storm of deletions costs one rewrite in so many seconds. A deletion just after one began waits for this and for
# both, and is to be erased in time still.
PAUSE_SECONDS = 3.0
LOOK_SECONDS = 1.0
POLL_SECONDS = 0.05
ANSWER_SECONDS = 2.0
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.1, 60.0


class RewriteFailed(Exception):
    """The store did not rewrite its file: it is away, or loads, or its disk is full."""


class Erasure:
    """Has the embedded store rewrite its append-only file: after deletions, after a full disk, and every now and then.

    Args:
        data_dir: Where the store keeps its files.
        socket: Where the store listens.
    """

    def __init__(self, data_dir: Path, socket: Path) -> None:
        self._dir = data_dir
        self._socket = socket
        self._wanted = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._asked = self._done = 0

    def ask(self) -> None:
        """Something was deleted: have it out of the files within ERASED_WITHIN."""
        self._asked += 1
        self._wanted.set()

    async def keep_going(self) -> None:
        """Rewrite whenever asked or the file is broken, and at least every hour. Runs until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._watch())
            both.create_task(self._rewrite_when_wanted())

    async def finish(self) -> None:
        """Rewrite if it still is to be, before the store ends. Where that fails, the store's next start does it."""
        with contextlib.suppress(RewriteFailed, TimeoutError):
            await self._look()
            if self._done < self._asked:
                await asyncio.wait_for(self._rewrite(), ERASED_WITHIN.total_seconds())

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(RewriteFailed):  # It is away: its next start is followed by a rewrite.
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        """See whether the store can write to its file, and whether the file is what it believes to have written."""
        try:
            files = append_only_file.in_use(self._dir)
            # Before the store is asked: what it writes in between it knows of, so a busy file does not look broken.
            on_disk = append_only_file.size(files)
        except OSError:
            return  # A rewrite has just replaced them.
        said = await self._answer("INFO persistence")
        if not _can_write(said):
            if self._can_write.is_set():
                log.error(
                    "the embedded store cannot write to its disk, and refuses writes: %d bytes of what it has answered "
                    "are in its memory alone, and are lost if it ends before there is room; nor can it erase",
                    _number(said, "aof_buffer_length"),
                )
                self._can_write.clear()
                self.ask()
            return
        if not self._can_write.is_set():
            log.info("the embedded store can write to its disk again")
            self._can_write.set()
        # A write that failed for a moment only leaves nothing but a file that is too large. Where a rewrite has ended
        # in between, the store has spoken of other files than we have measured.
        too_large = _is_at_rest(said) and on_disk > _number(said, "aof_current_size")
        if too_large and self._done == self._asked and append_only_file.in_use(self._dir) == files:
            log.warning("the embedded store's file has a hole, as a full disk leaves one; having it rewritten")
            self.ask()

    async def _rewrite_when_wanted(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), AT_LEAST_EVERY.total_seconds())
            self._wanted.clear()
            await self._rewrite_at_last()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _rewrite_at_last(self) -> None:
        loop, backoff, told = asyncio.get_running_loop(), FIRST_BACKOFF_SECONDS, False
        late = loop.time() + ERASED_WITHIN.total_seconds()
        while True:
            await self._can_write.wait()
            try:
                await self._rewrite()
            except RewriteFailed:
                if loop.time() > late and not told:
                    log.error("the embedded store cannot rewrite its files: what was deleted is still in them")
                    told = True
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, LAST_BACKOFF_SECONDS)
            else:
                if told:
                    log.info("the embedded store has rewritten its files: what was deleted is erased")
                return

    async def _rewrite(self) -> None:
        # One that is under way may have begun before the deletion, and holds what the store held then.
        said = await self._at_rest()
        # What is not written yet would be in the new base, and be written after it again: a turn there twice.
        if not _can_write(said):
            raise RewriteFailed
        asked = self._asked
        if not (await self._answer("BGREWRITEAOF")).startswith("+"):
            raise RewriteFailed
        said = await self._at_rest()
        if "aof_last_bgrewrite_status:ok" not in said or not _can_write(said):
            raise RewriteFailed
        self._done = asked

    async def _at_rest(self) -> str:
        """Wait until no rewrite is under way → what the store then says of its files."""
        while True:
            said = await self._answer("INFO persistence")
            if _is_at_rest(said):
                return said
            await asyncio.sleep(POLL_SECONDS)

    async def _answer(self, command: str) -> str:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                with contextlib.closing(writer):
                    writer.write(f"{command}\r\n".encode())
                    head = await reader.readuntil(b"\r\n")
                    body = await reader.readexactly(int(head[1:])) if head.startswith(b"$") else b""
        except (OSError, EOFError) as error:
            raise RewriteFailed from error
        return (head + body).decode()


def _can_write(said: str) -> bool:
    return "aof_last_write_status:err" not in said


def _is_at_rest(said: str) -> bool:
    return "aof_rewrite_in_progress:0" in said and "aof_rewrite_scheduled:0" in said


def _number(said: str, name: str) -> int:
    return int(said.partition(f"\n{name}:")[2].partition("\r")[0] or 0)
