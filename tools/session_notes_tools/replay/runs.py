"""Promises about runs: numbers, outcomes, and which run's notes are current."""

from __future__ import annotations

from collections import Counter

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.durability import Checks, unless
from session_notes_tools.replay.records import NotesRead, NotesWrite, Rejection, RunWithoutNotes, Write


def no_call_is_rejected(case: Case) -> Checks:
    """No call is rejected, since all are valid and no other client uses the sessions."""
    history = case.history
    yield from (f"{rejection.rpc}: {rejection.error}" for rejection in history.of(Rejection))
    yield from [None] * (len(history.of(NotesRead)) + len(history.of(NotesWrite)) + len(history.of(Write)))


def run_numbers_have_no_gaps(case: Case) -> Checks:
    """Runs are numbered 1, 2, 3, … without a gap or a repeat, listed newest first, and end once."""
    runs = case.history.runs()
    numbers = sorted(run.number for run in runs)
    if case.history.plan:
        yield unless(numbers == list(range(1, len(numbers) + 1)), f"the runs begun have the numbers {numbers}")
        end_counts = Counter([*case.first_writes, *(run.run_id for run in case.history.of(RunWithoutNotes))])
        for run_id in (name for run in runs for name in run.names):
            yield unless(end_counts[run_id] == 1, f"{run_id} has ended {end_counts[run_id]} times")
    if read_back := case.history.read_back:
        listed = [run.number for run in read_back.runs]
        newest = max(listed, default=0)
        expected = list(range(newest, max(0, newest - read_back.runs_limit), -1))
        yield unless(listed == expected, f"run numbers with a gap, a repeat or out of order: {listed} of {newest}")


def superseded_notes_are_never_current(case: Case) -> Checks:
    """Notes of a superseded run are never read."""
    superseded = {write.run_id for write in case.first_writes.values() if write.outcome == "superseded"}
    for read in case.all_reads:
        if read.ready:
            current = read.run_id not in superseded and read.state == "written"
            yield unless(current, f"{read.run_id} was read and is {read.state}")


def slow_runs_do_not_overwrite(case: Case) -> Checks:
    """A write is superseded if and only if a newer run has already written."""
    writes = list(case.first_writes.values())
    for write in writes:
        newer = [other for other in writes if other.number > write.number]
        if any(other.received < write.sent for other in newer):
            yield unless(write.outcome != "accepted", f"{write.run_id} came late and was {write.outcome}")
        elif not any(other.sent < write.received for other in newer):
            yield unless(write.outcome != "superseded", f"{write.run_id} was the newest and was {write.outcome}")


def newest_written_run_is_current(case: Case) -> Checks:
    """At the end, the current notes are those of the newest run that wrote."""
    if read_back := case.history.read_back:
        newest = max((write.number for write in case.first_writes.values()), default=None)
        number = read_back.current.number if read_back.current else None
        yield unless(number == newest, f"run {number} is current, run {newest} was the newest to write")


def duplicates_change_nothing(case: Case) -> Checks:
    """A repeated write of notes is a duplicate, with the same write time and number."""
    for write in case.history.of(NotesWrite):
        if write.repeated:
            first = case.first_writes.get(write.run_id)
            unchanged = first and (first.write_time_us, first.number) == (write.write_time_us, write.number)
            yield unless(write.outcome == "duplicate", f"{write.run_id} wrote again and was {write.outcome}")
            yield unless(bool(unchanged), f"{write.run_id} wrote again and got another write time or number")
