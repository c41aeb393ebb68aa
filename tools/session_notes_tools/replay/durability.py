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

from session_notes_server.store.limits import TRANSCRIPT_TURNS

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.records import RunWithoutNotes, WriteKind

Checks = Iterator[str | None]

STORED_KINDS: tuple[WriteKind, ...] = ("turn", "field", "run")

_STATES: Mapping[str, set[str]] = {
    "accepted": {"written"},
    "superseded": {"superseded"},
    # The client retried, and only the second response arrived.
    "duplicate": {"written", "superseded"},
}


def no_turn_is_lost(case: Case) -> Checks:
    """The stored transcript is complete, and equals the played one."""
    if read_back := case.history.read_back:
        expected = min(read_back.turn_count, TRANSCRIPT_TURNS)
        yield unless(
            len(read_back.turns) == expected, f"{len(read_back.turns)} turns, counted as {read_back.turn_count}"
        )
        if case.history.plan:
            played = [[turn.speaker, turn.text, turn.extra] for turn in case.transcript]
            yield unless(
                read_back.turn_count == len(played), f"{read_back.turn_count} turns counted, {len(played)} played"
            )
            yield unless(read_back.turns == played[-TRANSCRIPT_TURNS:], "the transcript is not the one that was played")


def no_field_is_lost(case: Case) -> Checks:
    """A planned session has the fields of its last turn, and any other session has one field per update."""
    if read_back := case.history.read_back:
        if case.history.plan:
            turns = case.history.plan.dialogue.turns
            yield unless(read_back.fields == turns[-1].slots, "the fields are not those of the last turn")
            yield unless(read_back.version == len(turns), f"version {read_back.version} after {len(turns)} updates")
        else:
            fields, version = len(read_back.fields), read_back.version
            yield unless(fields == version, f"{fields} fields, each set once, at version {version}")


def no_note_is_lost(case: Case) -> Checks:
    """Listed runs have the notes that they wrote."""
    for write in case.first_writes.values():
        if run := case.listed.get(write.run_id):
            yield unless(run.notes == write.notes, f"{write.run_id} is listed with other notes than it wrote")


def writes_are_stored_once(case: Case) -> Checks:
    """Acknowledged writes are stored once, unknown ones at most once, rejected ones never, and none in part."""
    for kind, stored in case.stored.items():
        times = Counter(name for name, _ in stored)
        for write in case.writes[kind]:
            for name, number in zip(reversed(write.names), count(write.number, -1), strict=False):
                if write.outcome == "acknowledged" and number >= case.oldest_stored[kind]:
                    yield unless(times[name] > 0, f"lost: {kind} {name}")
                elif write.outcome == "rejected":
                    yield unless(times[name] == 0, f"rejected, yet stored: {kind} {name}")
        for name, copies in times.items():
            yield unless(copies == 1, f"stored {copies} times: {kind} {name}")
        numbers = dict(stored)
        for write in case.writes[kind]:
            if len(write.names) > 1 and any(name in numbers for name in write.names):
                places = [numbers.get(name, 0) for name in write.names]
                consecutive = places == list(range(places[0], places[0] + len(places)))
                yield unless(consecutive, f"torn: {kind}s {list(write.names)} at {places}")


def writes_keep_real_time_order(case: Case) -> Checks:
    """A write is stored under the number in its response, above those of all writes that ended before it was sent."""
    for kind, stored in case.stored.items():
        numbers, numbered = dict(stored), []
        for write in case.writes[kind]:
            if write.outcome == "acknowledged":
                name = write.names[-1] if write.names else ""
                if name and name not in numbers:
                    continue  # Trimmed or lost, and its number may have been issued again.
                number = numbers.get(name) or write.number
                yield unless(
                    number == write.number, f"acknowledged as {write.number}, stored as {number}: {kind} {name}"
                )
                numbered.append((number, name or str(number), write))
        latest_sent = 0.0
        for _, name, write in sorted(numbered, key=lambda entry: entry[0]):
            yield unless(write.received >= latest_sent, f"out of order: {kind} {name}")
            latest_sent = max(latest_sent, write.sent)


def writes_are_seen(case: Case) -> Checks:
    """A read shows the newest write that was acknowledged before the read was sent, or a newer one."""
    for kind, writes in case.writes.items():
        acknowledged = sorted(
            (write for write in writes if write.outcome == "acknowledged"), key=attrgetter("received")
        )
        times = [write.received for write in acknowledged]
        newest = [0, *accumulate((write.number for write in acknowledged), max)]
        for sighting in case.sightings:
            if sighting.kind == kind and (number := newest[bisect_left(times, sighting.sent)]):
                seen = sighting.number
                yield unless(seen >= number, f"{kind} {number} was acknowledged before a read showed {kind} {seen}")


def nothing_is_foreign(case: Case) -> Checks:
    """Everything stored comes from a client, and notes match their session, their run and a complete snapshot."""
    for kind, stored in case.stored.items():
        written = {name for write in case.writes[kind] for name in write.names}
        for name, _ in stored:
            yield unless(name in written, f"foreign: {kind} {name}")
    for read in case.all_reads:
        if read.ready:
            yield case.foreign_part(read.run_id, read.observed_turn, read.notes)
    for run in case.listed.values():
        if run.notes is not None:
            yield case.foreign_part(run.run_id, run.observed_turn, run.notes)


def outcomes_stand(case: Case) -> Checks:
    """A run is listed with the number and the outcome that its observer received."""
    outcomes = [
        (write.run_id, write.number, _STATES.get(write.outcome, set())) for write in case.first_writes.values()
    ] + [
        (run.run_id, run.number, {"failed"} if run.failed else {"running", "abandoned"})
        for run in case.history.of(RunWithoutNotes)
    ]
    for run_id, number, states in outcomes:
        if run := case.listed.get(run_id):
            yield unless(run.state in states, f"{run_id} is {run.state}, not {' or '.join(sorted(states))}")
            yield unless(run.number == number, f"{run_id} has number {run.number}, and had {number}")


def counts_grow_by_one(case: Case) -> Checks:
    """Each turn and each update of a planned session increases its count by one."""
    if case.history.plan:
        for kind in STORED_KINDS[:2]:
            for expected, write in enumerate(case.writes[kind], start=1):
                yield unless(write.number == expected, f"{kind} write {expected} was counted as {write.number}")


def deleted_session_is_gone(case: Case) -> Checks:
    """No part of a session remains after its deletion."""
    if case.history.remains is not None:
        yield unless(not case.history.remains, f"left after the deletion: {case.history.remains}")


def unless(holds: bool, problem: str) -> str | None:
    """Return the result of a check: None if its condition holds, else the problem."""
    return None if holds else problem
