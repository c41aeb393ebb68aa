"""A temporary sidecar: on a free port, over an embedded store by default, and removed without a trace."""

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

from session_notes_tools.python_process import PythonProcess

START_SECONDS = 30.0
REACH_TIMEOUT = timedelta(seconds=3)
"""The time a sidecar named by `--target` has to answer its first call."""

_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)\s*$")
# Settings for another sidecar. A temporary one must use neither its store nor its trace collector.
_FOREIGN_SETTINGS = ("SESSION_NOTES_", "OTEL_")


@dataclass(frozen=True)
class TemporarySidecar:
    """A running sidecar that its `with` block stops.

    Attributes:
        target: Its TCP address.
        unix: Its unix socket's address.
        pid: Its process id.
    """

    target: str
    unix: str
    pid: int


@contextlib.asynccontextmanager
async def temporary_sidecar(*flags: str) -> AsyncIterator[TemporarySidecar]:
    """Run a sidecar with further flags of `serve`.

    Raises:
        ProcessFailed: If it does not start.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_SETTINGS)}
    with tempfile.TemporaryDirectory(prefix="session-notes-temporary-", ignore_cleanup_errors=True) as folder:
        unix = f"unix:{folder}/sidecar.sock"
        arguments = ("-m", "session_notes_tools", "serve", "--listen", "127.0.0.1:0", "--listen", unix)
        async with PythonProcess("sidecar", (*arguments, "--data-dir", folder, *flags), env) as sidecar:
            try:
                async with asyncio.timeout(START_SECONDS):
                    target = await _listening_address(sidecar)
            except TimeoutError:
                raise sidecar.failure("did not start") from None
            sidecar.drain_stderr()
            if sidecar.pid is None:
                raise sidecar.failure("ended at once")
            yield TemporarySidecar(target, unix, sidecar.pid)


async def _listening_address(sidecar: PythonProcess) -> str:
    while (line := await sidecar.read_stderr_line()) is not None:
        if match := _LISTENING.search(line):
            return match[1]
    await sidecar.check_exit()
    raise sidecar.failure("ended at once")


async def wait_until_reachable(target: str, timeout: timedelta) -> None:  # noqa: ASYNC109 - the client retries until then
    """Return as soon as the sidecar answers a call.

    Raises:
        Unavailable: If it does not answer within the timeout.
    """
    async with AsyncPrimaryClient(target) as client:
        await client.get_session("probe", timeout=timeout)
