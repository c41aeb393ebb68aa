"""One of several workers: answers calls as a sidecar of one process does, on addresses that its supervisor holds.

Standard input is the socket to the supervisor: the settings come in there, what it has to know goes out, and its end is
ours.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys

from session_notes_server.embedded.valkey import die_with_parent
from session_notes_server.identity.trusted_files import CredentialsError
from session_notes_server.rpc.listening import AddressError
from session_notes_server.settings import InvalidSetting, Settings
from session_notes_server.sidecar import log_setup
from session_notes_server.sidecar.lifecycle import Stop, background, run
from session_notes_server.sidecar.resources import Parts
from session_notes_server.sidecar.sidecar import answering
from session_notes_server.sidecar.supervisor import DELETED, SERVING, WELL
from session_notes_server.telemetry.metrics import cells
from session_notes_server.telemetry.metrics.counting import Metrics

log = logging.getLogger(__name__)


def main() -> None:
    """Answer calls until told to stop, or until there is nobody to tell us."""
    # At once, as everything of a sidecar that is killed: a new one is to have our place.
    die_with_parent(signal.SIGKILL)
    supervisor = socket.socket(fileno=0)
    try:
        number, settings, verbose, counts = pickle.load(supervisor.makefile("rb"))  # noqa: S301, it is our supervisor's
    except EOFError:
        return  # It has just died.
    log_setup.configure(verbose=verbose, form=settings.log_format, who=f"worker {number}")
    metrics = None if counts is None else Metrics(cells.at(counts))
    try:
        run(_work(settings, supervisor, metrics))
    except (AddressError, CredentialsError, InvalidSetting) as error:
        # What our supervisor found in order has changed since.
        log.error("%s", " ".join(str(error).split()))
        sys.exit(1)


async def _work(settings: Settings, supervisor: socket.socket, metrics: Metrics | None) -> None:
    stop = Stop()
    reader, writer = await asyncio.open_unix_connection(sock=supervisor)
    async with (
        background(_answer_supervisor(reader, writer)),
        answering(settings, Parts.of(settings), stop, lambda: writer.write(DELETED), metrics),
    ):
        writer.write(SERVING)
        await stop.wait()


async def _answer_supervisor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that we are well whenever asked, and end with who asks."""
    while await reader.read(64):
        writer.write(WELL)
    os._exit(1)


if __name__ == "__main__":
    main()
