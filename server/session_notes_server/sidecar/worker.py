"""The program of a worker: serves calls like a single-process sidecar, on addresses that its supervisor holds.

Standard input is a socket to the supervisor. Through it, the worker receives its instructions and pings, and sends
messages. The worker ends when the supervisor closes it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import sys

from session_notes_server.settings import Settings, StartupError
from session_notes_server.sidecar import log_setup
from session_notes_server.sidecar.lifecycle import Shutdown, background, run
from session_notes_server.sidecar.resources import Resources
from session_notes_server.sidecar.sidecar import serve_calls
from session_notes_server.sidecar.worker_process import ALIVE, DELETED, SERVING
from session_notes_server.telemetry.metrics import cells
from session_notes_server.telemetry.metrics.counting import Metrics

log = logging.getLogger(__name__)


def main() -> None:
    """Serve calls until a signal, or until the supervisor ends."""
    supervisor = socket.socket(fileno=0)
    try:
        number, settings, verbose, counts = pickle.load(supervisor.makefile("rb"))  # noqa: S301 - from the supervisor
    except EOFError:
        return  # The supervisor has just died.
    log_setup.configure(verbose=verbose, log_format=settings.log_format, process=f"worker {number}")
    metrics = None if counts is None else Metrics(cells.at(counts))
    try:
        run(_serve(settings, supervisor, metrics))
    except StartupError as error:
        # A file, for example, has changed since the supervisor checked it.
        log.error("%s", " ".join(str(error).split()))
        sys.exit(1)


async def _serve(settings: Settings, supervisor: socket.socket, metrics: Metrics | None) -> None:
    shutdown = Shutdown()
    reader, writer = await asyncio.open_unix_connection(sock=supervisor)
    resources = Resources.open(settings)
    async with (
        background(_answer_pings(reader, writer)),
        serve_calls(settings, resources, shutdown, lambda: writer.write(DELETED), metrics),
    ):
        writer.write(SERVING)
        await shutdown.wait()


async def _answer_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the supervisor's pings, and end this process when the supervisor ends."""
    while await reader.read(64):
        writer.write(ALIVE)
    os._exit(1)


if __name__ == "__main__":
    main()
