"""Promises about readings of the notes: readiness, age, drift and freshness."""

from __future__ import annotations

from itertools import pairwise

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.durability import Checks, unless


def ages_are_true(case: Case) -> Checks:
    """Ages are never negative, and notes are never older than their snapshot."""
    for read in case.all_reads:
        if read.ready:
            age, snapshot_age = read.age_us, read.snapshot_age_us
            yield unless(age is not None and age >= 0, f"an age of {age} µs")
            yield unless(
                age is not None and snapshot_age is not None and 0 <= age <= snapshot_age,
                f"an age of {age} µs and a snapshot age of {snapshot_age} µs",
            )


def run_numbers_never_fall(case: Case) -> Checks:
    """From one read to the next, neither the current run nor the latest run gets older."""
    yield from _never_falls("run", [read.number for read in case.all_reads])
    yield from _never_falls("latest run", [read.latest_number for read in case.all_reads])


def write_times_never_fall(case: Case) -> Checks:
    """From one read to the next, the write time never decreases."""
    yield from _never_falls("write time", [read.write_time_us for read in case.all_reads])


def write_times_match_responses(case: Case) -> Checks:
    """Readings have the write time that WriteNotes returned."""
    for read in case.all_reads:
        if write := case.first_writes.get(read.run_id or ""):
            time = write.write_time_us
            yield unless(read.write_time_us == time, f"{read.run_id} wrote at {time}, was read as {read.write_time_us}")


def drift_is_right(case: Case) -> Checks:
    """`turns_behind` is the current turn minus the observed one, and never negative."""
    for read in case.all_reads:
        if read.ready:
            behind = read.current_turn - (read.observed_turn or 0)
            yield unless(
                read.turns_behind == behind and behind >= 0,
                f"{read.turns_behind} turns behind at turn {read.current_turn}, having seen {read.observed_turn}",
            )


def fresh_is_right(case: Case) -> Checks:
    """`fresh` follows from the bound in the request."""
    for read in case.all_reads:
        bound, behind = read.max_turns_behind, read.turns_behind
        expected = read.ready and (bound is None or (behind is not None and behind <= bound))
        yield unless(read.fresh == expected, f"fresh: {read.fresh}, {behind} turns behind with {bound} allowed")


def no_run_sees_future_turns(case: Case) -> Checks:
    """No run has seen more turns than existed."""
    for read in case.all_reads:
        if read.observed_turn is not None:
            seen, current = read.observed_turn, read.current_turn
            yield unless(seen <= current, f"notes on {seen} turns at turn {current}")
    for run in case.history.runs():
        seen, played = run.observed_turn or 0, len(case.transcript)
        yield unless(seen <= played, f"{run.names[0]} has seen {seen} turns of {played}")


def ready_stays_ready(case: Case) -> Checks:
    """Once notes are ready they stay ready, regardless of newer runs."""
    for earlier, later in pairwise(case.all_reads):
        if earlier.ready:
            yield unless(later.ready, f"ready, then {later.readiness}")


def _never_falls(name: str, numbers: list[int | None]) -> Checks:
    for earlier, later in pairwise(number for number in numbers if number is not None):
        yield unless(later >= earlier, f"{name} {earlier}, then {later}")
