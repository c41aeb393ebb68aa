"""Every promise a replay can check, as pure functions over the history of a session.

Each yields once per check: None where the promise was kept, else what was broken, in words. No more is needed for it to
be counted, shown and tested: see `PROMISES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.plan import KEPT_TURNS

KEPT_RUNS = 20
"""How many runs a sidecar lists, by the contract."""

Checks = Iterator[str | None]

_STATES: Mapping[str, set[str]] = {
    "accepted": {"written"},
    "superseded": {"superseded"},
    # The client tried again and only the second answer reached it.
    "duplicate": {"written", "superseded"},
}


def no_call_is_refused(case: Case) -> Checks:
    """No call was refused: nobody else works on these sessions, and what is sent is right."""
    refused = case.history.refused
    yield from (f"{one.rpc}: {one.error}" for one in refused)
    yield from [None] * (len(case.history.reads) + len(case.history.written) + len(case.history.begun))


def no_turn_is_lost(case: Case) -> Checks:
    """The transcript read back is the one that was played."""
    if back := case.history.read_back:
        played = [[turn.speaker, turn.text, turn.extra] for turn in case.transcript]
        yield _unless(back.turn_count == len(played), f"{back.turn_count} turns counted, {len(played)} played")
        yield _unless(back.turns == played[-KEPT_TURNS:], "the transcript is not the one that was played")


def no_field_is_lost(case: Case) -> Checks:
    """The fields read back are those of the last turn, after an update per turn."""
    if back := case.history.read_back:
        turns = case.history.plan.dialogue.turns
        yield _unless(back.fields == turns[-1].slots, "the fields are not those of the last turn")
        yield _unless(back.version == len(turns), f"at version {back.version} after {len(turns)} updates")


def no_note_is_lost(case: Case) -> Checks:
    """Acknowledged notes are in ListRuns, unharmed, as long as it goes back that far."""
    if back := case.history.read_back:
        listed = {run.run_id: run for run in back.runs}
        newest = max((run.number for run in case.history.begun), default=0)
        for write in case.first_writes.values():
            if write.number > newest - KEPT_RUNS:
                run = listed.get(write.run_id)
                yield _unless(run is not None, f"{write.run_id} was written and is not listed")
                if run is not None:
                    yield _unless(run.notes == write.notes, f"{write.run_id} is listed with other notes than it wrote")


def an_answer_stands(case: Case) -> Checks:
    """What a run was told became of it is what ListRuns says, number and all."""
    if back := case.history.read_back:
        listed = {run.run_id: run for run in back.runs}
        answers = [
            (
                write.run_id,
                write.number,
                _STATES.get(write.outcome, set()),
            )
            for write in case.first_writes.values()
        ] + [
            (run.run_id, run.number, {"failed"} if run.failed else {"running", "abandoned"})
            for run in case.history.unwritten
        ]
        for run_id, number, states in answers:
            if run := listed.get(run_id):
                yield _unless(run.state in states, f"{run_id} is {run.state}, not {' or '.join(sorted(states))}")
                yield _unless(run.number == number, f"{run_id} has number {run.number}, and had {number}")


def acknowledged_notes_are_seen(case: Case) -> Checks:
    """A read sent after notes were accepted gets those or newer ones."""
    accepted = [write for write in case.first_writes.values() if write.outcome == "accepted"]
    for read in case.all_reads:
        number = max((write.number for write in accepted if write.answered < read.sent), default=0)
        if number:
            yield _unless((read.number or 0) >= number, f"run {number} was accepted, then run {read.number} was read")


def nothing_is_foreign(case: Case) -> Checks:
    """Notes are about this session, this run and a whole snapshot, wherever they come back."""
    for read in case.all_reads:
        if read.ready:
            yield case.foreign(read.run_id, read.observed_turn, read.notes)
    for run in case.history.read_back.runs if case.history.read_back else ():
        if run.notes is not None:
            yield case.foreign(run.run_id, run.observed_turn, run.notes)


def ages_are_true(case: Case) -> Checks:
    """Ages are never negative, and notes are never older than the snapshot they speak of."""
    for read in case.all_reads:
        if read.ready:
            age, snapshot_age = read.age_us, read.snapshot_age_us
            yield _unless(age is not None and age >= 0, f"an age of {age} µs")
            yield _unless(
                age is not None and snapshot_age is not None and 0 <= age <= snapshot_age,
                f"an age of {age} µs and a snapshot age of {snapshot_age} µs",
            )


def run_numbers_never_fall(case: Case) -> Checks:
    """From one read to the next the notes' run gets no older, nor the latest run."""
    for what, numbers in (
        ("run", [read.number for read in case.all_reads]),
        ("latest run", [read.latest_number for read in case.all_reads]),
    ):
        yield from _never_falls(what, [number for number in numbers if number is not None])


def write_times_never_fall(case: Case) -> Checks:
    """From one read to the next the notes get no older."""
    yield from _never_falls(
        "write time", [read.write_time_us for read in case.all_reads if read.write_time_us is not None]
    )


def superseded_is_never_current(case: Case) -> Checks:
    """Notes of a run that was told SUPERSEDED are never read."""
    superseded = {write.run_id for write in case.first_writes.values() if write.outcome == "superseded"}
    for read in case.all_reads:
        if read.ready:
            yield _unless(
                read.run_id not in superseded and read.state == "written", f"{read.run_id} was read and is {read.state}"
            )


def slow_runs_do_not_overwrite(case: Case) -> Checks:
    """A write is SUPERSEDED if a newer run had written, and only then."""
    writes = list(case.first_writes.values())
    for write in writes:
        newer = [other for other in writes if other.number > write.number]
        if any(other.answered < write.sent for other in newer):
            yield _unless(write.outcome != "accepted", f"{write.run_id} came late and was {write.outcome}")
        elif not any(other.sent < write.answered for other in newer):
            yield _unless(write.outcome != "superseded", f"{write.run_id} was the newest and was {write.outcome}")


def the_newest_is_current(case: Case) -> Checks:
    """At the end, the current notes are those of the newest run that wrote."""
    if back := case.history.read_back:
        newest = max((write.number for write in case.first_writes.values()), default=None)
        number = back.current.number if back.current else None
        yield _unless(number == newest, f"run {number} is current, run {newest} was the newest to write")


def duplicates_change_nothing(case: Case) -> Checks:
    """Notes written again are DUPLICATE, and keep their write time and number."""
    for again in case.history.written:
        if again.repeated:
            first = case.first_writes.get(again.run_id)
            kept = first and (first.write_time_us, first.number) == (again.write_time_us, again.number)
            yield _unless(again.outcome == "duplicate", f"{again.run_id} wrote again and was {again.outcome}")
            yield _unless(bool(kept), f"{again.run_id} wrote again and got another write time or number")


def write_times_are_those_answered(case: Case) -> Checks:
    """Notes are read with the write time that their run was told."""
    for read in case.all_reads:
        if write := case.first_writes.get(read.run_id or ""):
            told = write.write_time_us
            yield _unless(read.write_time_us == told, f"{read.run_id} was written at {told}, says {read.write_time_us}")


def drift_is_right(case: Case) -> Checks:
    """`turns_behind` is the current turn less the observed one, and never negative."""
    for read in case.all_reads:
        if read.ready:
            behind = read.current_turn - (read.observed_turn or 0)
            yield _unless(
                read.turns_behind == behind and behind >= 0,
                f"{read.turns_behind} turns behind at {read.current_turn}, having seen {read.observed_turn}",
            )


def fresh_is_right(case: Case) -> Checks:
    """`fresh` is what follows from the bound that was given."""
    for read in case.all_reads:
        bound, behind = read.max_turns_behind, read.turns_behind
        expected = read.ready and (bound is None or (behind is not None and behind <= bound))
        yield _unless(read.fresh == expected, f"fresh: {read.fresh}, {behind} turns behind with {bound} allowed")


def notes_do_not_foresee(case: Case) -> Checks:
    """No run has seen more turns than there were."""
    for read in case.all_reads:
        if read.observed_turn is not None:
            yield _unless(
                read.observed_turn <= read.current_turn, f"{read.observed_turn} turns seen of {read.current_turn}"
            )
    for run in case.history.begun:
        seen, said = run.observed_turn or 0, case.history.plan.turn_count
        yield _unless(seen <= said, f"{run.run_id} has seen {seen} turns of {said}")


def ready_stays_ready(case: Case) -> Checks:
    """Once there are notes, there are notes: whatever newer runs do."""
    for earlier, later in pairwise(case.all_reads):
        if earlier.ready:
            yield _unless(later.ready, f"ready, then {later.readiness}")


def runs_are_numbered_through(case: Case) -> Checks:
    """Runs are numbered 1, 2, 3, …, none missing, none twice, and listed newest first."""
    numbers = sorted(run.number for run in case.history.begun)
    yield _unless(numbers == list(range(1, len(numbers) + 1)), f"the runs begun have the numbers {numbers}")
    if back := case.history.read_back:
        expected = list(range(len(numbers), max(0, len(numbers) - KEPT_RUNS), -1))
        listed = [run.number for run in back.runs]
        yield _unless(listed == expected, f"{listed} listed, {len(numbers)} begun")
    ended = Counter([*case.first_writes, *(run.run_id for run in case.history.unwritten)])
    for run in case.history.begun:
        yield _unless(ended[run.run_id] == 1, f"{run.run_id} has ended {ended[run.run_id]} times")


def counts_grow_by_one(case: Case) -> Checks:
    """Each turn appended and each update counts once."""
    for count, read in enumerate(case.history.reads, start=1):
        yield _unless(read.turn_count == count, f"turn {count} was counted as {read.turn_count}")
        yield _unless(read.version == count, f"update {count} made version {read.version}")


def deleted_is_gone(case: Case) -> Checks:
    """Nothing of a session is left after its deletion."""
    if case.history.left is not None:
        yield _unless(not case.history.left, f"left after the deletion: {case.history.left}")


PROMISES: Mapping[str, Callable[[Case], Checks]] = {
    "no call is refused": no_call_is_refused,
    "nothing lost: the transcript": no_turn_is_lost,
    "nothing lost: the fields": no_field_is_lost,
    "nothing lost: the notes": no_note_is_lost,
    "nothing lost: the next read sees accepted notes": acknowledged_notes_are_seen,
    "nothing foreign, nothing torn": nothing_is_foreign,
    "what a run was told stands": an_answer_stands,
    "ages never negative, never above the snapshot's": ages_are_true,
    "run numbers never fall": run_numbers_never_fall,
    "write times never fall": write_times_never_fall,
    "write times are those the runs were told": write_times_are_those_answered,
    "runs are numbered 1, 2, 3, … and end once": runs_are_numbered_through,
    "turn counts and versions grow by one": counts_grow_by_one,
    "superseded exactly when a newer run wrote": slow_runs_do_not_overwrite,
    "superseded notes are never current": superseded_is_never_current,
    "the newest run that wrote is current": the_newest_is_current,
    "duplicates change nothing": duplicates_change_nothing,
    "drift is right, never negative": drift_is_right,
    "fresh is what the bound says": fresh_is_right,
    "no run has seen turns to come": notes_do_not_foresee,
    "ready stays ready": ready_stays_ready,
    "deleted is gone": deleted_is_gone,
}


def _unless(kept: bool, problem: str) -> str | None:
    return None if kept else problem


def _never_falls(what: str, numbers: list[int]) -> Checks:
    for earlier, later in pairwise(numbers):
        yield _unless(later >= earlier, f"{what} {earlier}, then {later}")
