"""A sidecar for the moment: on a free port, over an embedded store unless told otherwise, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from session_notes import AsyncPrimaryClient
from session_notes_server.child_process import Program

START_SECONDS = 30.0
PATIENCE = timedelta(seconds=3)
"""How long somebody else's sidecar may take to give a sign of life."""

_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)\s*$")


@dataclass(frozen=True)
class Throwaway:
    """A sidecar that is there for as long as somebody needs it.

    Attributes:
        target: Where it listens, on TCP.
        unix: Where else: its unix socket.
        pid: Its process.
    """

    target: str
    unix: str
    pid: int


@contextlib.asynccontextmanager
async def throwaway_sidecar(*flags: str) -> AsyncIterator[Throwaway]:
    """A sidecar of our own, with further arguments of `serve`.

    Raises:
        ProgramError: It does not start.
    """
    # Whatever the environment says of another sidecar, this one is to touch nobody's store, and nobody's traces.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SESSION_NOTES_", "OTEL_"))}
    with tempfile.TemporaryDirectory(prefix="session-notes-throwaway-", ignore_cleanup_errors=True) as folder:
        unix = f"unix:{folder}/sidecar.sock"
        arguments = ("-m", "session_notes_tools", "serve", "--listen", "127.0.0.1:0", "--listen", unix)
        async with Program("sidecar", (*arguments, "--data-dir", folder, *flags), env) as sidecar:
            try:
                async with asyncio.timeout(START_SECONDS):
                    target = await _listening(sidecar)
            except TimeoutError:
                raise sidecar.error("did not start") from None
            sidecar.listen_on()
            yield Throwaway(target, unix, sidecar.process.pid)


async def _listening(sidecar: Program) -> str:
    while (line := await sidecar.complaint()) is not None:
        if found := _LISTENING.search(line):
            return found[1]
    await sidecar.ended_well()
    raise sidecar.error("ended at once")


async def reach(target: str, patience: timedelta) -> None:
    """Returns as soon as the sidecar answers.

    Raises:
        Unavailable: It does not.
    """
    async with AsyncPrimaryClient(target) as client:
        # A call that goes on trying until its time is over.
        await client.get_session("probe", timeout=patience)
