"""The Python load generator: processes that make calls as applications do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

from session_notes_tools.bench.cpu import CPUTime
from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.measurements import Slice
from session_notes_tools.bench.targets import Target
from session_notes_tools.python_process import PythonProcess

PROCESSES = 2
"""The calls in flight are divided among this many processes."""

_ERROR_TEXT_LENGTH = 300


class _CallerProcess(PythonProcess):
    """A process that runs the module `caller`."""

    def __init__(self) -> None:
        super().__init__("caller process", ("-m", "session_notes_tools.bench.caller"))

    async def start(self) -> None:
        await super().start()
        self.drain_stderr()

    async def send(self, message: Any) -> None:
        """Send a message as a line of JSON."""
        self.stdin.write(json.dumps(message).encode() + b"\n")
        await self.stdin.drain()

    async def call(self, index: int, in_flight: int, seconds: float) -> tuple[list[float], float, float]:
        """Call a target for `seconds`, and return latencies in µs, elapsed seconds and CPU seconds.

        Raises:
            BenchError: If a call fails.
            ProcessFailed: If the process exits.
        """
        await self.send((index, in_flight, seconds))
        if not (line := await self.stdout.readline()):
            raise self.failure("exited unexpectedly")
        if isinstance(result := json.loads(line), str):
            raise BenchError(f"a call failed: {' '.join(result.split())[:_ERROR_TEXT_LENGTH]}")
        latencies_us, elapsed, cpu = result
        return latencies_us, elapsed, cpu


class Callers:
    """The caller processes of a bench.

    Args:
        targets: The targets that they can call.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = list(targets)
        self._processes: list[_CallerProcess] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Run the processes within the block."""
        calls = [
            (
                target.protocol,
                target.address,
                target.method,
                [base64.b64encode(body).decode() for body in target.bodies],
                target.authenticated,
            )
            for target in self._targets
        ]
        async with contextlib.AsyncExitStack() as stack:
            self._processes = [await stack.enter_async_context(_CallerProcess()) for _ in range(PROCESSES)]
            for process in self._processes:
                await process.send(calls)
            yield self

    async def call(self, target: Target, in_flight: int, seconds: float) -> Slice:
        """Call a target for `seconds` from several processes, and return the combined slice.

        Raises:
            BenchError: If a call fails.
            ProcessFailed: If a process exits.
        """
        index = self._targets.index(target)
        processes = self._processes[: min(in_flight, PROCESSES)]
        with CPUTime(target.servers) as server, CPUTime([target.store] if target.store else []) as store:
            results = await asyncio.gather(
                *(process.call(index, in_flight // len(processes), seconds) for process in processes)
            )
        latencies_us = [latency for latencies, _, _ in results for latency in latencies]
        return Slice(
            latencies_us,
            max(elapsed for _, elapsed, _ in results),
            server.us_per_call(len(latencies_us)),
            store.us_per_call(len(latencies_us)),
            sum(cpu for _, _, cpu in results) / len(latencies_us) * 1e6,
        )
