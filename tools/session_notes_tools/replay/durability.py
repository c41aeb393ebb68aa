"""Promises about writes: stored whole and once, numbered in real-time order, and shown by later reads.

They hold for any number of concurrent writers, and for writes with an unknown outcome. A session that was played from
a plan has one writer, so its end state is known exactly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate, count
from operator import attrgetter

from session_notes_server.store.limits import HISTORY_RUNS, TRANSCRIPT_TURNS

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.records import WriteKind

Checks = Iterator[str | None]

STORED_KINDS: tuple[WriteKind, ...] = ("turn", "field", "run")

_STATES: Mapping[str, set[str]] = {
    "accepted": {"written"},
    "superseded": {"superseded"},
    # The client retried, and only the second response arrived.
    "duplicate": {"written", "superseded"},
}


def no_turn_is_lost(case: Case) -> Checks:
    """The stored transcript is complete, and is the one that was played."""
    if back := case.history.read_back:
        expected = min(back.turn_count, TRANSCRIPT_TURNS)
        yield unless(len(back.turns) == expected, f"{len(back.turns)} turns, counted as {back.turn_count}")
        if case.history.plan:
            played = [[turn.speaker, turn.text, turn.extra] for turn in case.transcript]
            yield unless(back.turn_count == len(played), f"{back.turn_count} turns counted, {len(played)} played")
            yield unless(back.turns == played[-TRANSCRIPT_TURNS:], "the transcript is not the one that was played")


def no_field_is_lost(case: Case) -> Checks:
    """The fields are those of the last turn if they were played, else one for each update."""
    if back := case.history.read_back:
        if case.history.plan:
            turns = case.history.plan.dialogue.turns
            yield unless(back.fields == turns[-1].slots, "the fields are not those of the last turn")
            yield unless(back.version == len(turns), f"version {back.version} after {len(turns)} updates")
        else:
            fields, version = len(back.fields), back.version
            yield unless(fields == version, f"{fields} fields, each set once, at version {version}")


def no_note_is_lost(case: Case) -> Checks:
    """Acknowledged notes are listed unchanged, as far back as the history reaches."""
    if back := case.history.read_back:
        listed = {run.run_id: run for run in back.runs}
        newest = max((run.number for run in case.history.run_begins), default=0)
        for write in case.first_writes.values():
            if write.number > newest - HISTORY_RUNS:
                run = listed.get(write.run_id)
                yield unless(run is not None, f"{write.run_id} wrote notes and is not listed")
                if run is not None:
                    yield unless(run.notes == write.notes, f"{write.run_id} is listed with other notes than it wrote")


def writes_are_stored_once(case: Case) -> Checks:
    """Acknowledged writes are stored once, unknown ones at most once, rejected ones never, and each whole or not."""
    for kind in STORED_KINDS if case.history.read_back else ():
        times = Counter(name for name, _ in case.stored[kind])
        for write in case.writes[kind]:
            for name, number in zip(reversed(write.names), count(write.number, -1), strict=False):
                if write.outcome == "acknowledged" and number >= case.oldest_stored[kind]:
                    yield unless(times[name] > 0, f"lost: {kind} {name}")
                elif write.outcome == "rejected":
                    yield unless(times[name] == 0, f"rejected, yet stored: {kind} {name}")
        for name, copies in times.items():
            yield unless(copies == 1, f"stored {copies} times: {kind} {name}")
        numbers = dict(case.stored[kind])
        for write in case.writes[kind]:
            if len(write.names) > 1 and any(name in numbers for name in write.names):
                stored = [numbers.get(name, 0) for name in write.names]
                row = list(range(stored[0], stored[0] + len(stored)))
                yield unless(stored == row, f"torn: {kind}s {list(write.names)} at {stored}")


def writes_keep_real_time_order(case: Case) -> Checks:
    """A write has the number in its response, and a higher one than every write that ended before it was sent."""
    for kind in STORED_KINDS if case.history.read_back else ():
        stored = dict(case.stored[kind]) if kind != "field" else {}
        numbered = []
        for write in case.writes[kind]:
            if write.outcome == "acknowledged":
                name = write.names[-1] if write.names else ""
                if name and kind != "field" and name not in stored:
                    continue  # Trimmed or lost, and its number may have been issued again.
                number = stored.get(name, write.number)
                yield unless(number == write.number, f"answered {write.number}, is {number}: {kind} {name}")
                numbered.append((number, name or str(number), write))
        latest_sent = 0.0
        for _, name, write in sorted(numbered, key=lambda entry: entry[0]):
            yield unless(write.answered >= latest_sent, f"out of order: {kind} {name}")
            latest_sent = max(latest_sent, write.sent)


def writes_are_seen(case: Case) -> Checks:
    """A read shows every write that was acknowledged before the read was sent, or a newer one."""
    for kind, writes in case.writes.items():
        acknowledged = sorted(
            (write for write in writes if write.outcome == "acknowledged"), key=attrgetter("answered")
        )
        times = [write.answered for write in acknowledged]
        newest = [0, *accumulate((write.number for write in acknowledged), max)]
        for sighting in case.sightings:
            if sighting.kind == kind and (number := newest[bisect_left(times, sighting.sent)]):
                seen = sighting.number
                yield unless(seen >= number, f"{kind} {number} was acknowledged before a read showed {kind} {seen}")


def nothing_is_foreign(case: Case) -> Checks:
    """Everything stored comes from a client, and notes match their session, their run and a whole snapshot."""
    for kind in STORED_KINDS if case.history.read_back else ():
        written = {name for write in case.writes[kind] for name in write.names}
        for name, _ in case.stored[kind]:
            yield unless(name in written, f"foreign: {kind} {name}")
    for read in case.all_reads:
        if read.ready:
            yield case.foreign_part(read.run_id, read.observed_turn, read.notes)
    for run in case.history.read_back.runs if case.history.read_back else ():
        if run.notes is not None:
            yield case.foreign_part(run.run_id, run.observed_turn, run.notes)


def outcomes_stand(case: Case) -> Checks:
    """A run is listed with the number and the outcome that its observer was given."""
    if back := case.history.read_back:
        listed = {run.run_id: run for run in back.runs}
        outcomes = [
            (write.run_id, write.number, _STATES.get(write.outcome, set())) for write in case.first_writes.values()
        ] + [
            (run.run_id, run.number, {"failed"} if run.failed else {"running", "abandoned"})
            for run in case.history.runs_without_notes
        ]
        for run_id, number, states in outcomes:
            if run := listed.get(run_id):
                yield unless(run.state in states, f"{run_id} is {run.state}, not {' or '.join(sorted(states))}")
                yield unless(run.number == number, f"{run_id} has number {run.number}, and had {number}")


def counts_grow_by_one(case: Case) -> Checks:
    """Each turn and each update of the only primary counts once."""
    if case.history.plan:
        for kind in STORED_KINDS[:2]:
            for place, write in enumerate(case.writes[kind], start=1):
                yield unless(write.number == place, f"{kind} write {place} was counted as {write.number}")


def deleted_is_gone(case: Case) -> Checks:
    """Nothing of a session is left after its deletion."""
    if case.history.remains is not None:
        yield unless(not case.history.remains, f"left after the deletion: {case.history.remains}")


def unless(holds: bool, problem: str) -> str | None:
    """Return the result of a check: None if its condition holds, else the problem."""
    return None if holds else problem
