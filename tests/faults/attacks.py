"""Attacks on a sidecar with default limits: what they cost it, and how long another caller waits meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import grpc
from session_notes_server.settings import EngineName

from tests.faults.bystander import Bystander, Waits
from tests.faults.measures import (
    MEBIBYTE,
    assert_serves_others,
    cpu_seconds,
    descriptors,
    peak_bytes,
    reset_peak,
    resident_bytes,
)
from tests.support import Sidecar, eventually

MAX_LINES = 3
"""Lines that an attack may add to the log."""


class Bounds(NamedTuple):
    """The most that an attack may cost: MiB of memory at the peak, and milliseconds that another caller waits."""

    mib: float
    milliseconds: float


class Cost(NamedTuple):
    """What an attack cost."""

    mib: float
    milliseconds: float
    cpu_seconds: float
    failures: list[str]
    """The codes of the calls of another caller that failed."""

    def __str__(self) -> str:
        return f"{self.mib:.1f} MiB, {self.milliseconds:.0f} ms, {self.cpu_seconds:.2f} s of CPU {self.failures or ''}"


@dataclass
class Range:
    """Where attacks are made: on a new sidecar each, next to a bystander."""

    store_url: str
    bystander: Bystander
    engine: EngineName
    report: Callable[[str], None]

    def assert_withstood(
        self, name: str, bounds: Bounds, attack: Callable[..., object], prepare: Callable[[Sidecar], object] | None
    ) -> Cost:
        """Assert what an attack costs a new sidecar, and that nothing of it is left.

        Of three attacks, one must be within the bound on waiting, since the machine may be busy.

        Args:
            name: The name of the attack, for the report.
            bounds: What it may cost.
            attack: Attacks a sidecar. It gets the sidecar, and what `prepare` has returned.
            prepare: Prepares the sidecar, which counts for nothing.
        """
        for _ in range(3):
            with Sidecar(self.store_url) as sidecar:
                cost = self._cost(sidecar, attack, prepare)
            self.report(f"{name}: {cost}")
            assert cost.mib <= bounds.mib, cost
            if cost.milliseconds <= bounds.milliseconds:
                return cost
        raise AssertionError(f"another caller waited too long: {cost}")

    def _cost(
        self, sidecar: Sidecar, attack: Callable[..., object], prepare: Callable[[Sidecar], object] | None
    ) -> Cost:
        assert_serves_others(sidecar)
        prepared = [prepare(sidecar)] if prepare is not None else []
        lines, opened = len(sidecar.log.splitlines()), descriptors(sidecar)
        reset_peak(sidecar)
        before, cpu_before = resident_bytes(sidecar), cpu_seconds(sidecar)
        with self.bystander.calling(sidecar.target) as waits:
            attack(sidecar, *prepared)
        cost = _cost_of(peak_bytes(sidecar) - before, cpu_seconds(sidecar) - cpu_before, waits)
        assert "Traceback" not in sidecar.log
        assert len(sidecar.log.splitlines()) <= lines + MAX_LINES, sidecar.log
        if self.engine is EngineName.GRPCIO:
            eventually(lambda: _serves_others(sidecar), 30)  # Its calls may be cancelled for a moment.
        eventually(lambda: descriptors(sidecar) <= opened)
        assert_serves_others(sidecar)
        return cost


def _serves_others(sidecar: Sidecar) -> bool:
    try:
        assert_serves_others(sidecar)
    except (grpc.RpcError, AssertionError):
        return False
    return True


def _cost_of(size: int, seconds: float, waits: Waits) -> Cost:
    return Cost(size / MEBIBYTE, max(waits.seconds) * 1000, seconds, waits.failures)
