"""Child processes: restart with backoff, and stop with escalation."""

import asyncio
import re
import signal
import sys
from typing import cast

import pytest
from session_notes_server import child_process
from session_notes_server.child_process import ChildProcess
from session_notes_server.sidecar.lifecycle import background

IGNORE_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


async def restarts(child: ChildProcess, caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    """Keep a child running until it has ended a number of times, and return the log lines."""
    async with background(child.keep_running()), asyncio.timeout(20):
        while len(caplog.messages) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await child.stop()
    return caplog.messages[:count]


async def test_a_process_that_ignores_sigterm_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    """A process that does not end within its time after SIGTERM is killed."""
    child = ChildProcess("child", (sys.executable, "-c", IGNORE_SIGTERM), stop_seconds=0.2)
    process = await child.spawn(stdout=asyncio.subprocess.PIPE)
    assert await cast(asyncio.StreamReader, process.stdout).readline() == b"ready\n"
    await child.stop()
    assert child.pid is None
    assert process.returncode == -signal.SIGKILL
    assert caplog.messages == ["child did not stop within 0 s; killing it"]


async def test_a_program_that_cannot_be_executed_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    """A start that fails is logged and retried with backoff, like an early end."""
    lines = await restarts(ChildProcess("child", ("/no/such/program",)), caplog, 3)
    assert lines == [
        f"child cannot be started (No such file or directory); restarting it in {seconds} s"
        for seconds in ("0.2", "0.4", "0.8")
    ]


async def test_a_stable_process_is_restarted_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ran for a while before it ended is restarted after the shortest pause again."""
    monkeypatch.setattr(child_process, "STABLE_SECONDS", 0.1)
    lines = await restarts(ChildProcess("child", ("sleep", "0.3")), caplog, 3)
    assert [re.sub(r".*in ", "", line) for line in lines] == ["0.2 s"] * 3
