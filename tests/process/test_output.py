"""Output: with blocked, full or closed streams, calls are answered and the process ends."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.stores import free_port
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, program

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@contextmanager
def serving(
    *flags: str, home: Path, before: Sequence[str] = (), stdout: int | None = None, stderr: int | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a sidecar on the given streams, and yield its process and its address once it answers."""
    target = f"127.0.0.1:{free_port()}"
    command = [*program(), "serve", "--listen", target, "--data-dir", str(home / "data"), *flags]
    with subprocess.Popen([*before, *command], stdout=stdout, stderr=stderr) as process:
        try:
            eventually(lambda: _answers(target), 20)
            yield process, target
        finally:
            process.kill()


def _answers(target: str) -> bool:
    with new_channel(target) as channel:
        try:
            return SessionCalls(channel, new_session_id()).get_notes(timeout=2).ready is False
        except Exception:
            return False


def full_pipe() -> tuple[int, int]:
    """Return a pipe with room for a few lines."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


@linux
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["-v"], id="verbose"),
        pytest.param(["-v", "--log-format", "json", "--workers", "2"], id="JSON of workers"),
        pytest.param(["--dev"], id="--dev"),
    ],
)
def test_a_log_without_a_reader_does_not_block(flags: list[str], tmp_path: Path) -> None:
    """With stdout and stderr on a full pipe without a reader, calls are answered, and SIGTERM ends the sidecar."""
    reader, writer = full_pipe()
    try:
        with serving(*flags, home=tmp_path, stdout=writer, stderr=writer) as (process, target):
            with new_channel(target) as channel:
                session = SessionCalls(channel, new_session_id())
                for _ in range(100):
                    session.get_notes(timeout=5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
    finally:
        os.close(reader)
        os.close(writer)


LINES = """
import logging, sys
from session_notes_server.sidecar import log_setup
from session_notes_server.settings import LogFormat

log_setup.configure(verbose=True, log_format=LogFormat.JSON)
for number in range(20_000):
    logging.info("line %d", number)
print("logged", flush=True)
sys.stdin.readline()
logging.info("after the gap")
"""


@linux
def test_dropped_lines_are_counted() -> None:
    """A reader that resumes gets the queued lines in order, the number of dropped lines, and then later lines."""
    command = [sys.executable, "-c", LINES]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "logged\n"
        messages = list[str]()
        while not messages or messages[-1].startswith("line "):
            messages.append(json.loads(process.stderr.readline())["message"])
        *queued, report = messages
        assert queued == [f"line {number}" for number in range(len(queued))]
        assert report == f"dropped {20_000 - len(queued)} log lines, because stderr did not accept them"
        process.stdin.write("\n")
        process.stdin.close()
        assert [json.loads(line)["message"] for line in process.stderr] == ["after the gap"]
        assert process.wait(10) == 0


HUGE = """
import logging
from session_notes_server.sidecar import log_setup

log_setup.configure(verbose=False)
logging.info("x" * (log_setup.BUFFER_BYTES + 1))
log_setup.flush()
logging.info("next")
"""


def test_only_a_line_that_is_too_long_is_dropped() -> None:
    """A line larger than the buffer is dropped and counted, and the next one is written."""
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, timeout=20)
    report, following = done.stderr.splitlines()
    assert report.endswith("dropped 1 log lines, because stderr did not accept them")
    assert following.endswith("next")


@linux
@pytest.mark.parametrize("stream", ["full disk", "closed pipe"])
def test_a_log_that_cannot_be_written(stream: str, tmp_path: Path) -> None:
    """ENOSPC or EPIPE for every line has no effect on the sidecar or its exit code."""
    if stream == "full disk":
        full = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, full = os.pipe()
        os.close(reader)
    try:
        with serving("-v", home=tmp_path, stdout=full, stderr=full) as (process, _):
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
    finally:
        os.close(full)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_command_without_stdout(closed: str, sidecar: Sidecar) -> None:
    """A command with closed output succeeds."""
    command = [*program(), "session", "list", "--json", "--target", sidecar.target]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], stderr=subprocess.PIPE, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"")


@linux
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """Without stdin, stdout or stderr, the sidecar and its store run, and no output ends up in another file."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    with serving("-v", "--workers", "2", home=tmp_path, before=shell) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert not [path for path in (tmp_path / "data").glob("*.lock") if path.read_bytes()]
