"""Several workers as one sidecar: one process that answers no calls, and keeps those running that do.

The supervisor checks the settings, owns the embedded store, and holds the addresses, so that whatever is wrong is said
once, at the start, and a port is nobody else's even while no worker listens. Workers are new interpreters, not forks:
gRPC's threads do not survive one. What a worker has to know goes to it over a socket, where no password is seen; and
what has to be known of it comes back there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from session_notes_server.rpc.grpc_options import connections_per_address
from session_notes_server.rpc.listening import check_addresses, hold
from session_notes_server.settings import InvalidSetting, Settings
from session_notes_server.sidecar.lifecycle import (
    AGAIN_SECONDS,
    Shutdown,
    background,
    forbid_core_files,
    log_addresses,
    tell_stopping,
)
from session_notes_server.sidecar.resources import Resources, running
from session_notes_server.sidecar.systemd import READY, keep_alive, notify
from session_notes_server.telemetry.metrics import cells

log = logging.getLogger(__name__)

# A worker that ends at once, again and again, is started after twice as long each time.
FIRST_RESTART_SECONDS, LAST_RESTART_SECONDS = 0.2, 30.0
LIVED_SECONDS = 10.0
# How much longer than its grace a worker may take to end.
STOP_SECONDS = 10.0
# What a worker tells: that it answers calls; that a session was deleted; that it is well, when asked.
SERVING, DELETED, WELL = b"s", b"d", b"w"
# What it is asked, once it answers calls.
ARE_YOU_WELL = b"?"


async def supervise(settings: Settings, tell: Callable[[Sequence[str]], None] = log_addresses) -> None:
    """Run the sidecar in `settings.workers` processes until SIGTERM, SIGINT or SIGHUP. Else as `server.serve`."""
    shutdown = Shutdown()
    if sys.platform != "linux":
        raise InvalidSetting("only Linux shares a port's connections out among processes: leave --workers at 1")
    if all(address.startswith("unix:") for address in settings.listen):
        raise InvalidSetting("a unix socket has one listener: leave --workers at 1, or --listen on a TCP address too")
    check_addresses(settings)
    connections_per_address(settings)
    resources = Resources.of(settings)
    forbid_core_files()
    with contextlib.ExitStack() as held:
        addresses = tuple(held.enter_context(hold(address, shared=True)) for address in settings.listen)
        async with running(resources.embedded, shutdown) as on_deletion, contextlib.AsyncExitStack() as metrics:
            told = replace(settings, listen=addresses)
            workers = [Worker(number, told, shutdown, on_deletion) for number in range(1, settings.workers + 1)]
            await metrics.enter_async_context(_counting(settings, workers))
            kept = [worker.keep_running() for worker in workers]

            def all_well() -> bool:
                # Each is asked, whatever another says.
                answers = [worker.is_well() for worker in workers]
                return all(answers)

            async with (
                background(keep_alive(all_well)),
                background(_tell_once_all_serve(workers, addresses, tell), *kept),
            ):
                await shutdown.wait()
                tell_stopping(settings)
    log.info("stopped")


@contextlib.asynccontextmanager
async def _counting(settings: Settings, workers: Sequence[Worker]) -> AsyncIterator[None]:
    """Tell what all workers count together, if that is wanted."""
    if settings.metrics_listen is None:
        yield
        return
    from session_notes_server.telemetry.metrics.exposition import exposed

    counts = [cells.at(worker.counts) for worker in workers if worker.counts is not None]

    def processes() -> dict[str, int]:
        running = {f"worker {number}": worker.pid for number, worker in enumerate(workers, 1) if worker.pid is not None}
        return {"supervisor": os.getpid(), **running}

    async with exposed(settings.metrics_listen, counts, processes):
        yield


async def _tell_once_all_serve(
    workers: Sequence[Worker], addresses: Sequence[str], tell: Callable[[Sequence[str]], None]
) -> None:
    for worker in workers:
        await worker.serving.wait()
    tell(addresses)
    notify(READY)


class Worker:
    """One worker, and whoever comes in its place.

    Args:
        number: From 1 on.
        settings: All addresses, held; the store running.
        shutdown: Whose haste is the worker's.
        on_deletion: To be told of every deletion, also one that may not have come to pass.

    Attributes:
        counts: Memory for what it counts, as a descriptor. None: it does not count.
        serving: Set once it has answered calls.
        pid: Its process, while it has one.
    """

    def __init__(self, number: int, settings: Settings, shutdown: Shutdown, on_deletion: Callable[[], None]) -> None:
        self._number = number
        self.counts = cells.shared() if settings.metrics_listen else None
        self.serving = asyncio.Event()
        self.pid: int | None = None
        # A unix socket has one listener.
        listen = [address for address in settings.listen if number == 1 or not address.startswith("unix:")]
        verbose = log.isEnabledFor(logging.DEBUG)
        self._told = pickle.dumps((number, replace(settings, listen=tuple(listen)), verbose, self.counts))
        self._patience = settings.grace.total_seconds() + STOP_SECONDS
        self._shutdown = shutdown
        self._on_deletion = on_deletion
        self._writer: asyncio.StreamWriter | None = None
        self._owes_an_answer = False

    def is_well(self) -> bool:
        """Whether it has answered since it was asked last, and ask again. One that ended is ours to replace: well."""
        if self._writer is None:
            return True
        if self._owes_an_answer:
            return False
        self._owes_an_answer = True
        self._writer.write(ARE_YOU_WELL)
        return True

    async def keep_running(self) -> None:
        """Start it, and another whenever it ends by itself. Runs until cancelled; then it ends as a sidecar does."""
        loop, backoff = asyncio.get_running_loop(), FIRST_RESTART_SECONDS
        while True:
            began = loop.time()
            try:
                how = f"ended by itself (exit code {await self._run()})"
            except OSError as error:
                how = f"cannot be started ({error.strerror})"
            self._on_deletion()  # It may have ended between a deletion and its word.
            if loop.time() - began > LIVED_SECONDS:
                backoff = FIRST_RESTART_SECONDS
            log.error("worker %d %s; starting another in its place in %.1f s", self._number, how, backoff)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LAST_RESTART_SECONDS)

    async def _run(self) -> int:
        """Start a process, and do what it says until it ends → its exit code."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            with contextlib.closing(writer):
                process = await asyncio.create_subprocess_exec(
                    # -P: what is in the directory we happen to be in is none of our modules.
                    *(sys.executable, "-P", "-m", "session_notes_server.sidecar.worker"),
                    stdin=theirs.fileno(),
                    pass_fds=[] if self.counts is None else [self.counts],
                    # Ctrl-C in a terminal goes to the whole process group; we tell the workers.
                    start_new_session=True,
                )
                theirs.close()
                self.pid = process.pid
                try:
                    writer.write(self._told)
                    # Not asked before it has said that it serves: it would take the question for more settings.
                    self._writer, self._owes_an_answer = writer, True
                    await self._listen(reader)
                    return await process.wait()
                except asyncio.CancelledError:
                    await self._end(process, reader)
                    raise
                finally:
                    self._writer = None
                    self.pid = None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Do what a process says, until it ends."""
        with contextlib.suppress(ConnectionError):  # It ended without a look at its settings.
            while said := await reader.read(1024):
                if DELETED in said:
                    self._on_deletion()
                if SERVING in said or WELL in said:
                    self._owes_an_answer = False
                if SERVING in said:
                    if self.serving.is_set():
                        log.info("worker %d serves again", self._number)
                    self.serving.set()

    async def _end(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> None:
        async def pass_haste_on() -> None:
            await self._shutdown.haste.wait()
            while True:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                # Too soon after its first signal, this one was no second one.
                await asyncio.sleep(AGAIN_SECONDS)

        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._patience), background(pass_haste_on()):
                await self._listen(reader)
                await process.wait()
        except TimeoutError:
            log.warning("worker %d did not stop within %.0f s; killing it", self._number, self._patience)
            process.kill()
            await process.wait()
            self._on_deletion()
