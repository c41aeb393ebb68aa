"""A child process's end of its pipes: the counterpart of `python_process`.

A process of a replay reads JSON lines from stdin: its job, one line per session, then an empty line. It writes its
records to stdout, one per line. It stops at the end of stdin, and so never outlives its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from session_notes_tools.replay.records import Latencies, Record, to_line


class Stopwatch:
    """The durations of calls, by RPC. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timed(self, rpc: str) -> Iterator[None]:
        """Record the duration of the block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add_duration(rpc, time.monotonic() - started)

    def add_duration(self, rpc: str, seconds: float) -> None:
        """Record the duration of a call."""
        with self._lock:
            self._milliseconds.setdefault(rpc, []).append(round(seconds * 1000, 3))

    def latencies(self) -> list[Latencies]:
        """Return the durations recorded so far."""
        with self._lock:
            return [Latencies(rpc, list(durations)) for rpc, durations in self._milliseconds.items()]


class Report(Stopwatch):
    """The records of a child process, written to its parent. Thread-safe."""

    def add(self, record: Record) -> None:
        """Write a record."""
        line = to_line(record)
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()

    def finish(self) -> None:
        """Write the latencies."""
        for latencies in self.latencies():
            self.add(latencies)


def read_job() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the job and its sessions."""
    lines = []
    for line in sys.stdin:
        if not line.strip():
            break
        lines.append(json.loads(line))
    else:
        raise SystemExit("no job on stdin; start this process with `session-notes replay`")
    return lines[0], lines[1:]


def read_lines() -> Iterator[str]:
    """Yield what the parent writes after the job, line by line, until it closes stdin or exits."""
    for line in sys.stdin:
        yield line.rstrip("\n")


def wait_for_stop() -> None:
    """Wait until the parent closes stdin or exits."""
    # Bypass Python's own buffer. At exit, a thread that waits in it would hold its lock, which aborts the process.
    while os.read(sys.stdin.fileno(), 4096):
        pass
