"""The Python load generator: processes that call as applications do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self, cast

from session_notes_tools.bench.cpu import CPUTime
from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.measurements import Slice
from session_notes_tools.bench.processes import kill
from session_notes_tools.bench.targets import Target

PROCESSES = 2
"""The calls in flight are divided among this many processes."""

_LONGEST_LINE_BYTES = 64 * 1024 * 1024
_ERROR_TEXT_LENGTH = 300


class Callers:
    """Caller processes that know all targets of a bench.

    Args:
        targets: The targets that can be called.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = list(targets)
        self._processes: list[asyncio.subprocess.Process] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Run the processes within the block."""
        calls = [
            (
                target.address,
                target.method,
                [base64.b64encode(body).decode() for body in target.bodies],
                target.authenticated,
            )
            for target in self._targets
        ]
        try:
            for _ in range(PROCESSES):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "session_notes_tools.bench.caller"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=_LONGEST_LINE_BYTES,
                )
                self._processes.append(process)
                await _send(process, calls)
            yield self
        finally:
            for process in self._processes:
                await kill(process)

    async def call(self, target: Target, in_flight: int, seconds: float) -> Slice:
        """Call a target for a time.

        Raises:
            BenchError: If a call fails, or a process ends.
        """
        index = self._targets.index(target)
        processes = self._processes[: min(in_flight, PROCESSES)]
        with CPUTime(target.servers) as server, CPUTime([target.store] if target.store else []) as store:
            results = await asyncio.gather(
                *(_order(process, (index, in_flight // len(processes), seconds)) for process in processes)
            )
        latencies_us = [latency for latencies, _, _ in results for latency in latencies]
        return Slice(
            latencies_us,
            max(elapsed for _, elapsed, _ in results),
            server.us_per_call(len(latencies_us)),
            store.us_per_call(len(latencies_us)),
            sum(cpu for _, _, cpu in results) / len(latencies_us) * 1e6,
        )


async def _send(process: asyncio.subprocess.Process, message: Any) -> None:
    stdin = cast(asyncio.StreamWriter, process.stdin)
    stdin.write(json.dumps(message).encode() + b"\n")
    await stdin.drain()


async def _order(process: asyncio.subprocess.Process, slice_order: tuple[int, int, float]) -> Any:
    await _send(process, slice_order)
    if not (line := await cast(asyncio.StreamReader, process.stdout).readline()):
        raise BenchError("a caller process ended unexpectedly; its own output is above")
    if isinstance(result := json.loads(line), str):
        raise BenchError(f"a call failed: {' '.join(result.split())[:_ERROR_TEXT_LENGTH]}")
    return result
