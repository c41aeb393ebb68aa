"""A bystander: a process of its own that reads notes while a test attacks a sidecar, and reports how long it waits."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from tests.support import SessionCalls, new_channel, new_session_id

ROOT = Path(__file__).parents[2]
PAUSE_SECONDS, MIN_CALLS = 0.002, 20


@dataclass
class Waits:
    """How long calls took, and the codes of those that failed."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Bystander:
    """The process. It takes its orders from its standard input: a line to begin calling, and one to stop."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.faults.bystander"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @contextmanager
    def calling(self, target: str) -> Iterator[Waits]:
        """Call GetNotes one at a time during the block. How long the calls took is known after it."""
        waits = Waits()
        self._order(target)
        assert self._report() == "calling"
        try:
            yield waits
        finally:
            self._order("stop")
            waits.seconds, waits.failures = json.loads(self._report())

    def _order(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def _report(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def call_until_stopped(target: str) -> Waits:
    """Call GetNotes over a warm connection until a line arrives, and at least MIN_CALLS times."""
    waits, stopped = Waits(), threading.Event()
    with new_channel(target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "said")
        for _ in range(10):
            session.get_notes()
        threading.Thread(target=_set_at_a_line, args=(stopped,)).start()
        print("calling", flush=True)  # noqa: T201 - the protocol of this process
        while not stopped.wait(PAUSE_SECONDS) or len(waits.seconds) < MIN_CALLS:
            began = time.perf_counter()
            try:
                session.get_notes(timeout=30)
            except grpc.RpcError as error:
                waits.failures.append(error.code().name)
            waits.seconds.append(time.perf_counter() - began)
    return waits


def _set_at_a_line(event: threading.Event) -> None:
    sys.stdin.readline()
    event.set()


if __name__ == "__main__":
    while order := sys.stdin.readline().strip():
        result = call_until_stopped(order)
        print(json.dumps([result.seconds, result.failures]), flush=True)  # noqa: T201 - the protocol of this process
