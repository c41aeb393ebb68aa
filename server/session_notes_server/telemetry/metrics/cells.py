"""Where a process counts: floats in memory of a fixed layout, which another process may read at the same time.

To count is an addition to one of them. There is no lock, because the event loop's thread alone counts, and no lookup of
labels, because every series has had its place from the start. prometheus_client's own counters need both, and to be
added up over processes they need files too: for the dozen things that a call counts that was several times as much.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import TypeAlias

from session_notes_server.telemetry.metrics.families import ALL, Family

Cells: TypeAlias = "memoryview[float]"
"""All numbers of one process, as doubles."""

_SIZES = [family.width * len(family.series) for family in ALL]
_PLACES = dict(zip([family.name for family in ALL], accumulate(_SIZES, initial=0), strict=False))
_BYTES = sum(_SIZES) * 8


def private() -> Cells:
    """Cells for a process that tells of itself."""
    return memoryview(bytearray(_BYTES)).cast("d")


def shared() -> int:
    """Memory for cells that other processes may have too, as a descriptor; Linux only.

    It belongs to no process and no file system: what a worker counted is still there when it was killed, and the one in
    its place goes on counting from there.
    """
    descriptor = os.memfd_create("session-notes-metrics")
    os.truncate(descriptor, _BYTES)
    return descriptor


def at(descriptor: int) -> Cells:
    """The cells in shared memory."""
    return memoryview(mmap.mmap(descriptor, _BYTES)).cast("d")


def series(family: Family) -> Iterator[tuple[tuple[str, ...], range]]:
    """Every series of a metric: the values of its labels, and which cells are its own."""
    first = _PLACES[family.name]
    for labels in family.series:
        yield labels, range(first, first := first + family.width)


def _first(family: Family, labels: tuple[str, ...]) -> int:
    return _PLACES[family.name] + family.series.index(labels) * family.width


class Number:
    """A counter or a gauge.

    Args:
        cells: The process's.
        family: Which metric.
        labels: Which of its series.
    """

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: Cells, family: Family, *labels: str) -> None:
        self._cells, self._at = cells, _first(family, labels)

    def add(self, more: float = 1.0) -> None:
        """Count."""
        self._cells[self._at] += more

    def set(self, value: float) -> None:
        """Be this from now on."""
        self._cells[self._at] = value


class Histogram:
    """How often values of which size came. The arguments are those of `Number`."""

    __slots__ = ("_at", "_bounds", "_cells", "_sum")

    def __init__(self, cells: Cells, family: Family, *labels: str) -> None:
        self._cells, self._bounds = cells, family.bounds
        self._at = _first(family, labels)
        self._sum = self._at + family.width - 1

    def add(self, value: float) -> None:
        """Count a value."""
        cells = self._cells
        cells[self._at + bisect_left(self._bounds, value)] += 1.0
        cells[self._sum] += value
