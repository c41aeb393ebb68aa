"""CPU time of processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Self

import psutil


class CPUTime:
    """The CPU time that processes, including all their threads, use during a `with` block."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._before = self._after = 0.0

    def __enter__(self) -> Self:
        self._before = self._seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self._after = self._seconds()

    def us_per_call(self, calls: int) -> float | None:
        """Return the CPU time in µs divided by the number of calls, or None without processes."""
        return (self._after - self._before) / calls * 1e6 if self._processes else None

    def _seconds(self) -> float:
        return sum(map(_cpu_seconds, self._processes))


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform != "linux":
        times = process.cpu_times()
        return times.user + times.system
    # The clock id that clock_getcpuclockid(3) returns for a process. That clock counts nanoseconds, while
    # cpu_times() counts hundredths of a second, which is several per cent of a slice.
    return time.clock_gettime((~process.pid << 3) | 2)
