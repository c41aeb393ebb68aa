"""Memory for the metrics of a process: floats in a fixed layout, which other processes may read at any time.

Counting is one addition to a float. It takes no lock, because only the event loop's thread counts, and no lookup of
labels, because the index of every series is fixed. prometheus_client's counters take both, and files to sum several
processes. For the dozen numbers per call, they cost several times as much.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import TypeAlias

from session_notes_server.telemetry.metrics.families import ALL, PROBED, Family

Cells: TypeAlias = "memoryview[float]"
"""All numbers of one process, as doubles."""

_FAMILIES = (*ALL, *PROBED)
_SIZES = [family.width * len(family.series) for family in _FAMILIES]
_OFFSETS = dict(zip([family.name for family in _FAMILIES], accumulate(_SIZES, initial=0), strict=False))
_BYTES = sum(_SIZES) * 8


def private() -> Cells:
    """Return cells for a sidecar of one process."""
    return memoryview(bytearray(_BYTES)).cast("d")


def shared() -> int:
    """Return a file descriptor of memory for cells that several processes share. Linux only.

    The memory outlives a worker that is killed, and the worker's replacement continues its counts.
    """
    descriptor = os.memfd_create("session-notes-metrics")
    os.truncate(descriptor, _BYTES)
    return descriptor


def at(descriptor: int) -> Cells:
    """Return the cells in shared memory."""
    return memoryview(mmap.mmap(descriptor, _BYTES)).cast("d")


def series(family: Family) -> Iterator[tuple[tuple[str, ...], range]]:
    """Yield every series of a metric: the values of its labels, and the indices of its cells."""
    first = _OFFSETS[family.name]
    for labels in family.series:
        yield labels, range(first, first := first + family.width)


def value(cells: Cells, family: Family) -> float:
    """Return the value of a gauge without labels."""
    return cells[_OFFSETS[family.name]]


def _first_index(family: Family, labels: tuple[str, ...]) -> int:
    return _OFFSETS[family.name] + family.series.index(labels) * family.width


class Number:
    """One series of a counter or a gauge."""

    __slots__ = ("_cells", "_index")

    def __init__(self, cells: Cells, family: Family, *labels: str) -> None:
        self._cells, self._index = cells, _first_index(family, labels)

    def add(self, amount: float = 1.0) -> None:
        """Add to the value."""
        self._cells[self._index] += amount

    def set(self, value: float) -> None:
        """Replace the value."""
        self._cells[self._index] = value


class Histogram:
    """One series of a histogram: counts of values by size, and their sum."""

    __slots__ = ("_bounds", "_cells", "_index", "_sum_index")

    def __init__(self, cells: Cells, family: Family, *labels: str) -> None:
        self._cells, self._bounds = cells, family.bounds
        self._index = _first_index(family, labels)
        self._sum_index = self._index + family.width - 1

    def add(self, value: float) -> None:
        """Count a value."""
        cells = self._cells
        cells[self._index + bisect_left(self._bounds, value)] += 1.0
        cells[self._sum_index] += value
