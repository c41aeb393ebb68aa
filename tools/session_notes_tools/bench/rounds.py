"""Rounds, each of which calls every target once, in random order.

A temporarily slow machine then affects all targets alike. Ratios are taken within a round, and reported as the median
over the rounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from session_notes_tools.bench.callers import Callers
from session_notes_tools.bench.h2load import call_with_h2load, find_h2load, require_h2load
from session_notes_tools.bench.measurements import H2LOAD, PYTHON, Load, Row
from session_notes_tools.bench.targets import Target

MANY_IN_FLIGHT = 64
FIRST_CALLS = 5 * MANY_IN_FLIGHT
"""The number of calls in h2load's first slice, before its rate is known."""

Progress = Callable[[str], None]
"""Receives a line of text about each step."""


def loads_for(target: Target) -> list[Load]:
    """Return the loads that this machine can put on a target. h2load calls only gRPC servers, and sends no token."""
    loads = [Load(PYTHON, 1), Load(PYTHON, MANY_IN_FLIGHT)]
    if find_h2load() and target.method.startswith("/") and not target.authenticated:
        loads.append(Load(H2LOAD, MANY_IN_FLIGHT))
    return loads


async def measure(
    callers: Callers,
    pairs: Sequence[tuple[Target, Load]],
    *,
    rounds: int,
    seconds: float,
    seed: int,
    progress: Progress,
) -> list[Row]:
    """Call all targets in rounds, after a warm-up round.

    Args:
        callers: Running processes for these targets.
        pairs: The targets to call, each with a load.
        rounds: The number of rounds after the warm-up.
        seconds: The length of a slice.
        seed: The seed of the order within the rounds.
        progress: Called before every slice.

    Raises:
        BenchError: If a call fails.
    """
    order = random.Random(seed)  # noqa: S311 - no secret
    rows = [Row(target, load) for target, load in pairs]
    rates: dict[int, float] = {}
    for number in range(rounds + 1):
        for index in order.sample(range(len(rows)), len(rows)):
            row = rows[index]
            progress(f"round {number} of {rounds}: {row.target.name}, {row.target.place}")
            if row.load.caller == H2LOAD:
                calls = max(FIRST_CALLS, int(rates[index] * seconds)) if index in rates else FIRST_CALLS
                slice_ = await call_with_h2load(require_h2load(), row.target, row.load.in_flight, calls)
                rates[index] = slice_.calls_per_second
            else:
                slice_ = await callers.call(row.target, row.load.in_flight, seconds)
            if number:
                row.slices.append(slice_)
    return rows


def floor_rows(rows: Iterable[Row]) -> Mapping[tuple[str, Load], Row]:
    """Return the floor's rows by transport and load."""
    return {(row.target.transport, row.load): row for row in rows if row.target.place.startswith("floor (")}
