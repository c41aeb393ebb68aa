"""Rounds, each of which calls every target once, in random order.

A temporarily slow machine then affects all targets alike. Ratios are taken within a round, and reported as the median
over the rounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from session_notes_tools.bench.callers import Callers
from session_notes_tools.bench.echo import GRPC_AIO
from session_notes_tools.bench.h2load import call_with_h2load, find_h2load, require_h2load
from session_notes_tools.bench.measurements import H2LOAD, PYTHON, Load, Row
from session_notes_tools.bench.targets import Protocol, Target

MANY_IN_FLIGHT = 64
FIRST_CALLS = 5 * MANY_IN_FLIGHT
"""The number of calls in h2load's first slice, before its rate is known."""

DAPR_CALLS = {"GetNotes": "GetState", "WriteNotes": "SaveState"}
"""The calls that are compared with daprd's."""

Progress = Callable[[str], None]
"""Receives a line of text about each step."""


def loads_for(targets: Sequence[Target]) -> list[tuple[Target, Load]]:
    """Return each target with each of the loads that this machine can put on it.

    h2load calls servers. It sends no token, so if one must be sent, or if h2load is not on PATH, Python callers call
    all gRPC servers instead.
    """
    use_h2load = find_h2load() is not None and not any(target.authenticated for target in targets)
    in_flight: dict[tuple[Protocol, str], tuple[int, ...]] = {
        ("client", PYTHON): (1,),
        ("redis", PYTHON): (1, MANY_IN_FLIGHT),
        ("grpc", H2LOAD if use_h2load else PYTHON): (1, MANY_IN_FLIGHT),
        ("http", H2LOAD): (1, MANY_IN_FLIGHT) if use_h2load else (),
    }
    return [
        (target, Load(caller, number))
        for target in targets
        for (protocol, caller), numbers in in_flight.items()
        if protocol == target.protocol
        for number in numbers
    ]


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


def base_rows(rows: Iterable[Row], row: Row) -> dict[str, Row]:
    """Return the rows with which a row is compared, by name.

    Args:
        rows: All rows.
        row: The row to compare.
    """
    dapr_call = DAPR_CALLS.get(row.target.name)
    bases = {}
    for base in rows:
        if base.load == row.load:
            if base.target.place == f"bare {GRPC_AIO} ({row.target.transport})":
                bases["echo"] = base
            elif base.target.place.startswith("daprd") and base.target.name == dapr_call:
                bases["daprd"] = base
            elif (base.target.place, base.target.name, row.target.name) == (
                row.target.place,
                "GetNotes",
                "BatchGetNotes",
            ):
                bases["get_notes"] = base
    return bases
