"""Load on servers, and what a slice of it took: each call's time, and the CPU of the servers and of the callers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# So many processes, and connections of the generator, share what is in flight.
PROCESSES, CONNECTIONS = 2, 4
_LARGEST_LINE_BYTES = 64 * 1024 * 1024


class LoadError(Exception):
    """Load could not be made. Its text says to a user why."""


@dataclass(frozen=True)
class Target:
    """What can be called: where, which method, and with what.

    Attributes:
        place: What people call where it is: `floor`, `session-notes (tcp)`, …
        name: What people call the call.
        address: As gRPC writes it; for Redis a URL.
        method: `/package.Service/Method`, or one of the callers' words for Redis.
        bodies: Requests as bytes, taken in turn; for Redis the keys.
        servers: The processes that answer, where they are known: their CPU is counted.
        store: The store behind them, likewise.
        identified: Whether callers have to say who they are: by the token and the certificates of the environment.
    """

    place: str
    name: str
    address: str
    method: str
    bodies: tuple[bytes, ...]
    servers: tuple[int, ...] = ()
    store: int | None = None
    identified: bool = False


@dataclass(frozen=True)
class Slice:
    """What came of calling one target for a moment."""

    taken_us: Sequence[float]
    seconds: float
    server_cpu_us: float | None
    store_cpu_us: float | None
    caller_cpu_us: float | None

    @property
    def calls(self) -> int:
        """How many calls were answered."""
        return len(self.taken_us)


class Callers:
    """Processes in Python that call, as applications do.

    Args:
        targets: All there is to call.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = list(targets)
        self._processes: list[asyncio.subprocess.Process] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Callers]:
        """Have the processes for as long as the block takes."""
        calls = [
            (one.address, one.method, [base64.b64encode(body).decode() for body in one.bodies], one.identified)
            for one in self._targets
        ]
        try:
            for _ in range(PROCESSES):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "session_notes_tools.bench.caller"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=_LARGEST_LINE_BYTES,
                )
                self._processes.append(process)
                await _say(process, calls)
            yield self
        finally:
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def slice(self, target: Target, in_flight: int, seconds: float) -> Slice:
        """Call for so long."""
        which = self._targets.index(target)
        busy = self._processes[: min(in_flight, PROCESSES)]
        with _Cpu(target.servers) as server, _Cpu([target.store] if target.store else []) as store:
            answers = await asyncio.gather(
                *(_asked(process, (which, in_flight // len(busy), seconds)) for process in busy)
            )
        taken = [us for taken_us, _, _ in answers for us in taken_us]
        return Slice(
            taken,
            max(took for _, took, _ in answers),
            server.us_a_call(len(taken)),
            store.us_a_call(len(taken)),
            sum(cpu for _, _, cpu in answers) / len(taken) * 1e6,
        )


async def _say(process: asyncio.subprocess.Process, what: Any) -> None:
    assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
    process.stdin.write(json.dumps(what).encode() + b"\n")
    await process.stdin.drain()


async def _asked(process: asyncio.subprocess.Process, what: Any) -> Any:
    assert process.stdout is not None  # noqa: S101 - as above
    await _say(process, what)
    if not (line := await process.stdout.readline()):
        raise LoadError("a calling process ended; what it said is above")
    if isinstance(answer := json.loads(line), str):
        raise LoadError(f"a call failed: {' '.join(answer.split())[:300]}")
    return answer


def h2load() -> str | None:
    """The program of that name (Debian's nghttp2-client): a caller that costs next to nothing. None: there is none."""
    return shutil.which("h2load")


async def saturated(
    program: str, target: Target, in_flight: int, calls: int, *, connections: int = CONNECTIONS
) -> Slice:
    """Have `h2load` make so many calls, as fast as the server answers, with the target's first body.

    It looks at no gRPC status, so it must be known that the call works.
    """
    body = target.bodies[0]
    connections = min(in_flight, connections)
    unix = target.address.removeprefix("unix:") if target.address.startswith("unix:") else None
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        framed, log = Path(folder) / "body", Path(folder) / "log"
        framed.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)
        with _Cpu(target.servers) as server, _Cpu([target.store] if target.store else []) as store:
            process = await asyncio.create_subprocess_exec(
                *(program, "-t", "1", "-c", str(connections), "-m", str(in_flight // connections), "-n", str(calls)),
                *("-d", str(framed), "-H", "content-type: application/grpc", "-H", "te: trailers"),
                *(f"--log-file={log}", *([f"--base-uri=unix:{unix}"] if unix else [])),
                f"http://{'localhost' if unix else target.address}{target.method}",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await process.wait()
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    if len(rows) != calls or any(status != "200" for _, status, _ in rows):
        raise LoadError(f"h2load had {len(rows)} answers to {calls} calls of {target.name} at {target.place}")
    began = min(int(start) for start, _, _ in rows)
    ended = max(int(start) + int(taken) for start, _, taken in rows)
    taken_us = [float(taken) for _, _, taken in rows]
    return Slice(taken_us, (ended - began) / 1e6, server.us_a_call(calls), store.us_a_call(calls), None)


class _Cpu:
    """CPU time that processes take within a block, their threads included."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._before = self._after = 0.0

    def __enter__(self) -> _Cpu:
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._after = self._now()

    def us_a_call(self, calls: int) -> float | None:
        """In µs for each of so many calls; None: no process is known."""
        return (self._after - self._before) / calls * 1e6 if self._processes else None

    def _now(self) -> float:
        return sum(map(_cpu_seconds, self._processes))


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform != "linux":
        times = process.cpu_times()
        return times.user + times.system
    # What clock_getcpuclockid(3) gives for a process. It counts in nanoseconds, cpu_times() in hundredths of a second:
    # several per cent of one measurement.
    return time.clock_gettime((~process.pid << 3) | 2)
