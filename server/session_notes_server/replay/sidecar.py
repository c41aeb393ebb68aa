"""A sidecar for one replay: over an embedded store, on a free port, gone without a trace afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta

from session_notes import AsyncPrimaryClient

from session_notes_server.replay.programs import Program

START_SECONDS = 30.0
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)\s*$")


@contextlib.asynccontextmanager
async def throwaway_sidecar() -> AsyncIterator[str]:
    """A sidecar of our own → where it listens.

    Raises:
        ProgramError: It does not start.
    """
    # Whatever the environment says of another sidecar, this one is to touch nobody's store.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    with tempfile.TemporaryDirectory(prefix="session-notes-replay-", ignore_cleanup_errors=True) as folder:
        arguments = ("-m", "session_notes_server", "serve", "--listen", "127.0.0.1:0", "--data-dir", folder)
        async with Program("sidecar", arguments, env) as sidecar:
            try:
                async with asyncio.timeout(START_SECONDS):
                    target = await _listening(sidecar)
            except TimeoutError:
                raise sidecar.error("did not start") from None
            sidecar.listen_on()
            yield target


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
        await client.get_session("replay-probe", timeout=patience)
