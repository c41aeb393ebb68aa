"""Measurements: the slices of one call, and the figures and ratios derived from them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from session_notes_tools.bench.targets import Target

PYTHON, H2LOAD = "python", "h2load"


@dataclass(frozen=True)
class Load:
    """A caller and its concurrency.

    Attributes:
        caller: `python`, which calls as an application does, or `h2load`, which calls as fast as the server responds.
        in_flight: The number of concurrent calls.
    """

    caller: str
    in_flight: int


@dataclass(frozen=True)
class Slice:
    """The result of calling one target for a short time. CPU times are per call; None if unknown."""

    latencies_us: Sequence[float]
    seconds: float
    server_cpu_us: float | None
    store_cpu_us: float | None
    caller_cpu_us: float | None

    @property
    def calls(self) -> int:
        """The number of completed calls."""
        return len(self.latencies_us)

    @property
    def calls_per_second(self) -> float:
        """The throughput."""
        return self.calls / self.seconds

    @property
    def median_us(self) -> float:
        """The median latency."""
        return statistics.median(self.latencies_us)

    @property
    def p99_us(self) -> float:
        """The 99th percentile of the latency."""
        return _p99(self.latencies_us)


@dataclass
class Row:
    """One target under one load: a slice per round."""

    target: Target
    load: Load
    slices: list[Slice] = field(default_factory=list)

    @property
    def median_us(self) -> float:
        """The median latency of all calls."""
        return statistics.median(self._latencies_us)

    @property
    def p99_us(self) -> float:
        """The 99th percentile of the latency of all calls."""
        return _p99(self._latencies_us)

    @property
    def _latencies_us(self) -> list[float]:
        return [latency for slice_ in self.slices for latency in slice_.latencies_us]

    def median_of(self, figure: str) -> float | None:
        """Return the median of a figure over the rounds, or None if it is unknown."""
        values = [value for slice_ in self.slices if (value := _figure(slice_, figure)) is not None]
        return statistics.median(values) if values else None

    def ratio(self, base: Row, figure: str) -> float | None:
        """Return the ratio of a figure to that of another row, as the median over the rounds; None if it is unknown.

        Both slices of a ratio come from the same round, so that a temporarily slow machine does not distort it.
        """
        pairs = [(_figure(a, figure), _figure(b, figure)) for a, b in zip(self.slices, base.slices)]  # noqa: B905
        ratios = [numerator / denominator for numerator, denominator in pairs if numerator is not None and denominator]
        return statistics.median(ratios) if ratios else None

    def as_json(self, bases: Mapping[str, Row]) -> dict[str, Any]:
        """Return the row as JSON.

        Args:
            bases: The rows with which it is compared, by name.
        """
        document: dict[str, Any] = {
            "place": self.target.place,
            "call": self.target.name,
            "protocol": self.target.protocol,
            "caller": self.load.caller,
            "in_flight": self.load.in_flight,
            "calls": sum(slice_.calls for slice_ in self.slices),
            "median_us": round(self.median_us, 1),
            "p99_us": round(self.p99_us, 1),
        }
        for figure in ("calls_per_second", "server_cpu_us", "store_cpu_us", "caller_cpu_us"):
            document[figure] = rounded(self.median_of(figure), 1)
        for name, base in bases.items():
            for figure in ("median_us", "p99_us", "calls_per_second", "server_cpu_us"):
                document[f"{figure}_to_{name}"] = rounded(self.ratio(base, figure), 3)
        return document


def _p99(latencies_us: Sequence[float]) -> float:
    ordered = sorted(latencies_us)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def rounded(value: float | None, digits: int) -> float | None:
    """Round a figure, or return None if it is unknown."""
    return None if value is None else round(value, digits)


def _figure(slice_: Slice, name: str) -> float | None:
    value: float | None = getattr(slice_, name)
    return value
