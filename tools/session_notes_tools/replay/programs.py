"""What a program that takes part in a replay says and hears: the other end of `session_notes_server.child_process`.

A program gets its job on stdin as JSON lines: one for all of it, then one per session, then an empty one. What it did
it writes to stdout, a record of the history per line. The end of stdin tells it to stop, so that none outlives its
parent.
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

from session_notes_tools.replay.history import Latencies, Record, to_line


class Stopwatch:
    """How long calls take. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timed(self, rpc: str) -> Iterator[None]:
        """Notes how long a call takes."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.took(rpc, time.monotonic() - started)

    def took(self, rpc: str, seconds: float) -> None:
        """Notes how long a call took."""
        with self._lock:
            self._taken.setdefault(rpc, []).append(round(seconds * 1000, 3))

    def latencies(self) -> list[Latencies]:
        """What was noted so far."""
        with self._lock:
            return [Latencies(rpc, list(taken)) for rpc, taken in self._taken.items()]


class Report(Stopwatch):
    """What a program did, as it tells its parent. Safe to use from many threads."""

    def add(self, record: Record) -> None:
        """Tells of something that happened."""
        line = to_line(record)
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()

    def finish(self) -> None:
        """Tells how long the calls took."""
        for latencies in self.latencies():
            self.add(latencies)


def read_job() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the parent gave: the job, and its sessions."""
    lines = []
    for line in sys.stdin:
        if not line.strip():
            break
        lines.append(json.loads(line))
    else:
        raise SystemExit("no job on stdin: this program is started by `session-notes replay`")
    return lines[0], lines[1:]


def wait_for_stop() -> None:
    """Returns when the parent wants it to, or is gone."""
    # Past Python's own buffer: its lock, held by a thread that still waits, would spoil the end of the program.
    while os.read(sys.stdin.fileno(), 4096):
        pass
