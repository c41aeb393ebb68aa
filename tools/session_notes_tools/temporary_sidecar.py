"""Temporary sidecars, on a free port and by default with an embedded store. They leave nothing behind."""

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
"""The time limit for the first response of the sidecar at `--target`."""

_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)\s*$")
# Variables with these prefixes configure another sidecar, whose store and trace collector must not be used.
_SETTING_PREFIXES = ("SESSION_NOTES_", "OTEL_")


@dataclass(frozen=True)
class TemporarySidecar:
    """A running sidecar, stopped at the end of its `with` block.

    Attributes:
        target: Its TCP address.
        unix: Its unix socket address.
        pid: Its process id.
    """

    target: str
    unix: str
    pid: int


def drop_credentials() -> None:
    """Remove clients' credentials from the environment: they belong to another sidecar, and this one has none."""
    for name in [name for name in os.environ if name.startswith(("SESSION_NOTES_TOKEN", "SESSION_NOTES_TLS"))]:
        del os.environ[name]


@contextlib.asynccontextmanager
async def temporary_sidecar(*flags: str) -> AsyncIterator[TemporarySidecar]:
    """Run a sidecar with additional flags of `serve`.

    Raises:
        ProcessFailed: If it does not start.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_SETTING_PREFIXES)}
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
                raise sidecar.failure("exited during startup")
            yield TemporarySidecar(target, unix, sidecar.pid)


async def _listening_address(sidecar: PythonProcess) -> str:
    while (line := await sidecar.read_stderr_line()) is not None:
        if match := _LISTENING.search(line):
            return match[1]
    await sidecar.check_exit()
    raise sidecar.failure("exited during startup")


async def wait_until_reachable(target: str, timeout: timedelta) -> None:  # noqa: ASYNC109 - the client retries until then
    """Wait until the sidecar responds to a call.

    Raises:
        Unavailable: If it does not respond within the timeout.
    """
    async with AsyncPrimaryClient(target) as client:
        await client.get_session("probe", timeout=timeout)
