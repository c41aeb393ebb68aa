"""The supervisor's side of a worker: its process, and the messages exchanged over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from session_notes_server.child_process import STOP_SECONDS, ChildProcess, die_with_parent
from session_notes_server.settings import Settings
from session_notes_server.sidecar.lifecycle import SAME_REQUEST_SECONDS, Shutdown, background
from session_notes_server.telemetry.metrics import cells

log = logging.getLogger(__name__)

SERVING, DELETED, ALIVE = b"s", b"d", b"w"
"""A worker's messages: it serves calls; a session was deleted; it is alive (in response to PING)."""

PING = b"?"
"""The supervisor's message to a worker that serves calls."""


class WorkerProcess(ChildProcess):
    """A worker process, and its successors after restarts.

    Its standard input is a socket to the supervisor. The settings are sent over the socket, because other users could
    see a password on a command line.

    Args:
        number: The worker's number, from 1.
        settings: The settings, with all addresses held and the store running.
        shutdown: An urgent shutdown is passed on to the worker.
        on_deletion: Called after each deletion, and after a crash, which may have prevented the report of one.

    Attributes:
        counts: A descriptor of the memory for its metrics. None: no metrics.
        serving: Set while the worker serves calls.
    """

    def __init__(self, number: int, settings: Settings, shutdown: Shutdown, on_deletion: Callable[[], None]) -> None:
        super().__init__(
            f"worker {number}",
            # -P: modules in the current directory must not shadow installed ones.
            (sys.executable, "-P", "-m", "session_notes_server.sidecar.worker"),
            stop_seconds=settings.grace.total_seconds() + STOP_SECONDS,
        )
        self.counts = cells.shared() if settings.metrics_listen else None
        self.serving = asyncio.Event()
        self._has_served = False
        # Processes cannot share a unix socket.
        listen = tuple(address for address in settings.listen if number == 1 or not address.startswith("unix:"))
        verbose = log.isEnabledFor(logging.DEBUG)
        self._instructions = pickle.dumps((number, replace(settings, listen=listen), verbose, self.counts))
        self._shutdown = shutdown
        self._on_deletion = on_deletion
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._awaits_message = False

    def is_alive(self) -> bool:
        """Return whether the worker has answered the last ping, and send another one.

        A worker that has ended counts as alive: it is being restarted.
        """
        if self._writer is None:
            return True
        if self._awaits_message:
            return False
        self._awaits_message = True
        self._writer.write(PING)
        return True

    async def keep_running(self) -> None:
        """Start the worker, restart it whenever it ends by itself, and stop it when cancelled."""
        try:
            await super().keep_running()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Start the worker and send it its instructions."""
        parent_socket, child_socket = socket.socketpair()
        with child_socket, contextlib.ExitStack() as on_failure:
            self._reader, writer = await asyncio.open_unix_connection(sock=parent_socket)
            on_failure.callback(writer.close)
            await self.spawn(
                stdin=child_socket.fileno(),
                pass_fds=[] if self.counts is None else [self.counts],
                # Workers end at once with a killed supervisor, so that a new sidecar can listen on their addresses.
                preexec_fn=partial(die_with_parent, signal.SIGKILL),
            )
            on_failure.pop_all()
        writer.write(self._instructions)
        # No ping before the first message: the worker would read the ping as part of its instructions.
        self._writer, self._awaits_message = writer, True

    async def wait(self) -> int:
        """Handle the worker's messages until it ends, and return its exit code."""
        with contextlib.suppress(ConnectionError):  # It ended without reading its instructions.
            while messages := await self._reader.read(1024):
                self._handle(messages)
        self.serving.clear()
        code = await super().wait()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if code:  # It may have ended between a deletion and its message.
            self._on_deletion()
        return code

    def _handle(self, messages: bytes) -> None:
        if DELETED in messages:
            self._on_deletion()
        if SERVING in messages or ALIVE in messages:
            self._awaits_message = False
        if SERVING in messages:
            if self._has_served:
                log.info("%s serves again", self.name)
            self._has_served = True
            self.serving.set()

    async def stop(self) -> None:
        """Stop the worker, at once if the shutdown is or becomes urgent."""
        async with background(self._pass_urgency_on()):
            await super().stop()

    async def _pass_urgency_on(self) -> None:
        await self._shutdown.urgent.wait()
        while True:
            self.send_signal(signal.SIGTERM)
            # The worker ignores a second signal that follows the first one within this time.
            await asyncio.sleep(SAME_REQUEST_SECONDS)
