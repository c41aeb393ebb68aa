"""Rounds: each calls everything once for a moment, in an order of its own, so that a noisy machine hits all alike.

What is compared is compared within a round; over the rounds, the median counts.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from session_notes_tools.bench.load import Callers, Slice, Target, h2load, saturated

PYTHON, H2LOAD = "python", "h2load"
MANY = 64
FIRST_CALLS = 5 * MANY

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Load:
    """A way of calling.

    Attributes:
        caller: `python`, as an application calls, or `h2load`, as fast as the server can.
        in_flight: How many calls at a time.
    """

    caller: str
    in_flight: int


def loads_for(target: Target) -> list[Load]:
    """All loads there are for a target on this machine."""
    loads = [Load(PYTHON, 1), Load(PYTHON, MANY)]
    if h2load() and target.method.startswith("/") and not target.identified:
        loads.append(Load(H2LOAD, MANY))
    return loads


@dataclass
class Row:
    """What came of calling one target in one way, round by round."""

    target: Target
    load: Load
    slices: list[Slice] = field(default_factory=list)

    @property
    def median_us(self) -> float:
        """How long a call took, for half of them."""
        return statistics.median(self._taken_us)

    @property
    def p99_us(self) -> float:
        """How long a call took, for 99 of 100."""
        ordered = sorted(self._taken_us)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]

    @property
    def _taken_us(self) -> list[float]:
        return [us for one in self.slices for us in one.taken_us]

    def median_of(self, figure: str) -> float | None:
        """The median over the rounds of a figure of a slice; None where it is not known."""
        known = [value for one in self.slices if (value := _figure(one, figure)) is not None]
        return statistics.median(known) if known else None

    def ratio(self, to: Row, figure: str) -> float | None:
        """The median over the rounds of a figure's ratio to that of another row; None where it is not known."""
        pairs = [(_figure(ours, figure), _figure(theirs, figure)) for ours, theirs in zip(self.slices, to.slices)]  # noqa: B905
        known = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
        return statistics.median(known) if known else None

    def document(self, floor: Row | None) -> dict[str, Any]:
        """The row as JSON; `floor`: what it is compared with."""
        told: dict[str, Any] = {
            "place": self.target.place,
            "call": self.target.name,
            "caller": self.load.caller,
            "in_flight": self.load.in_flight,
            "calls": sum(one.calls for one in self.slices),
            "median_us": round(self.median_us, 1),
            "p99_us": round(self.p99_us, 1),
        }
        for figure in ("calls_per_second", "server_cpu_us", "store_cpu_us", "caller_cpu_us"):
            told[figure] = _rounded(self.median_of(figure), 1)
        for figure in ("median_us", "server_cpu_us"):
            told[f"{figure}_to_floor"] = _rounded(self.ratio(floor, figure) if floor else None, 3)
        return told


def _figure(one: Slice, name: str) -> float | None:
    match name:
        case "median_us":
            return statistics.median(one.taken_us)
        case "calls_per_second":
            return one.calls / one.seconds
    value: float | None = getattr(one, name)
    return value


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


async def measured(
    callers: Callers, wanted: Sequence[tuple[Target, Load]], *, rounds: int, seconds: float, seed: int, step: Tell
) -> list[Row]:
    """Call everything in rounds, after one that does not count.

    Args:
        callers: Processes that know all the targets.
        wanted: What to call, in which ways.
        rounds: How many rounds count.
        seconds: How long a slice is to take.
        seed: What the order of each round is drawn from.
        step: Is told of every slice.
    """
    order = random.Random(seed)  # noqa: S311 - no secret
    rows = [Row(target, load) for target, load in wanted]
    rates: dict[int, float] = {}
    for number in range(rounds + 1):
        for which in order.sample(range(len(rows)), len(rows)):
            row = rows[which]
            step(f"round {number} of {rounds}: {row.target.name}, {row.target.place}")
            if row.load.caller == H2LOAD:
                program = h2load()
                assert program is not None  # noqa: S101 - `loads_for` has seen it
                count = max(FIRST_CALLS, int(rates[which] * seconds)) if which in rates else FIRST_CALLS
                one = await saturated(program, row.target, row.load.in_flight, count)
                rates[which] = one.calls / one.seconds
            else:
                one = await callers.slice(row.target, row.load.in_flight, seconds)
            if number:
                row.slices.append(one)
    return rows


def floors(rows: Iterable[Row]) -> Mapping[tuple[str, Load], Row]:
    """The rows of the floor, by how they are reached (`tcp`, `unix`) and the load."""
    return {(how(row.target), row.load): row for row in rows if row.target.place.startswith("floor (")}


def how(target: Target) -> str:
    """How a target is reached."""
    return "unix" if target.address.startswith("unix:") else "tcp"
