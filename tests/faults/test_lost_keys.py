"""A store that has lost some of a session's keys, by eviction or by DEL: what is left is not taken for more."""

from itertools import chain, combinations

import grpc
import pytest
from session_notes.v1.notes_pb2 import RUN_STATE_FAILED
from session_notes.v1.session_notes_pb2 import (
    READINESS_EXPIRED,
    READINESS_NEVER_RUN,
    READINESS_READY,
    WRITE_OUTCOME_ACCEPTED,
    WRITE_OUTCOME_SUPERSEDED,
)
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import SessionCalls, Sidecar, notes, refused

PARTS = ("", "turns", "runs", "ids")
LOST = list(chain.from_iterable(combinations(PARTS, count) for count in range(1, len(PARTS) + 1)))
OLD, NEW = [Turn(speaker="user", text="old"), Turn(speaker="user", text="older")], Turn(speaker="user", text="new")


def lose(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """Fill a session, and delete some of its keys: `A` has written, `B` is in flight."""
    session.update_session(set={"a": 1})
    session.append_turns(OLD)
    session.write_notes("A", "notes of A")
    session.begin_run("B")
    for part in lost:
        assert store.client.delete(store.key(session.id, part)) == 1


def name(lost: tuple[str, ...]) -> str:
    """The name of a test."""
    return "+".join(part or "session" for part in lost)


@pytest.mark.parametrize("lost", LOST, ids=name)
def test_reads_show_what_is_left_of_this_life(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """Without its hash there is no session; any other key takes only its own contents along."""
    lose(session, store, lost)
    found, answer, runs = session.get_session(include_turns=True), session.get_notes(), session.list_runs().runs
    if "" in lost:
        assert (found.turn_count, len(found.turns), len(found.fields), len(found.notes)) == (0, 0, 0, 0)
        assert (answer.readiness, len(runs)) == (READINESS_NEVER_RUN, 0)
        return
    assert (found.turn_count, list(found.fields)) == (2, ["a"])
    assert list(found.turns) == ([] if "turns" in lost else OLD)
    gone = "runs" in lost
    assert answer.readiness == found.notes["default"].readiness == (READINESS_EXPIRED if gone else READINESS_READY)
    assert [run.run_id for run in runs] == ([] if gone else ["B", "A"])


@pytest.mark.parametrize("lost", LOST, ids=name)
def test_writes_go_on(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """No old turn comes back, no run is taken for another, and numbers only rise while the session lives."""
    lose(session, store, lost)
    anew, known = "" in lost, not {"", "runs"} & set(lost)
    begun = session.begin_run("C", include_transcript=True)
    assert (begun.run.run_id, begun.run.number) == ("C", 1 if anew else 3)
    assert list(begun.transcript) == ([] if anew or "turns" in lost else OLD)
    if known:
        assert session.fail_run("B").run.run_id == "B"
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_WRITTEN"):
            session.fail_run("A")
    else:
        for run_id in ("A", "B"):
            with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
                session.fail_run(run_id)
    written = session.write_notes("C", "notes of C")
    assert (written.outcome, written.run.run_id) == (WRITE_OUTCOME_ACCEPTED, "C")
    if not known:
        retried = session.write_notes("A", "notes of A")
        old = not anew and "ids" not in lost  # Its number is still known.
        assert (retried.outcome, retried.run.run_id) == (
            WRITE_OUTCOME_SUPERSEDED if old else WRITE_OUTCOME_ACCEPTED,
            "A",
        )
        assert retried.run.number == (1 if old else written.run.number + 1)
    assert session.append_turns([NEW]) == (1 if anew else 3)
    kept = [] if anew or "turns" in lost else OLD
    assert list(session.get_session(include_turns=True).turns) == [*kept, NEW]
    assert session.update_session(set={"b": 2}).version == (1 if anew else 2)
    assert session.get_notes().notes == notes("notes of C" if known or old else "notes of A")


@pytest.mark.parametrize("lost", LOST, ids=name)
def test_a_deletion_removes_what_is_left(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """DeleteSession leaves no key but the ids of runs, which are still refused where they were known."""
    lose(session, store, lost)
    assert session.delete().existed is ("" not in lost)
    if "ids" in lost and ("" in lost or "runs" in lost):
        assert store.keys(session.id) == []
        return
    assert store.keys(session.id) == [store.key(session.id, "deleted").encode()]
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.write_notes("B", "notes of B")


def test_only_if_idle_does_not_wait_for_a_run_that_is_lost(session: SessionCalls, store: Store) -> None:
    """A run in flight whose record is lost holds up no other."""
    lose(session, store, ("runs",))
    assert session.begin_run("C", only_if_idle=True).started


def test_many_runs_in_flight_may_be_lost(session: SessionCalls, store: Store) -> None:
    """The oldest of more than 100 runs in flight gives way, also where its record is lost."""
    for number in range(100):
        session.begin_run(f"run-{number}")
    store.client.delete(store.key(session.id, "runs"))
    assert session.begin_run("next").run.number == 101
    session.begin_run("last")
    assert session.fail_run("last").run.state == RUN_STATE_FAILED


def test_a_new_life_starts_without_the_room_of_the_old(session: SessionCalls, store: Store) -> None:
    """A transcript that is lost takes up no room: what is appended after it stays."""
    session.append_turns([Turn(text="x" * 60_000)] * 60)
    session.append_turns([Turn(text="x" * 60_000)] * 60)
    store.client.delete(store.key(session.id, "turns"))
    session.append_turns([Turn(text="y" * 60_000)] * 60)
    session.append_turns([NEW])
    assert len(session.get_session(include_turns=True).turns) == 61


@pytest.mark.parametrize("part", PARTS)
def test_a_key_of_another_type_is_named_in_the_log(
    session: SessionCalls, store: Store, part: str, sidecar: Sidecar
) -> None:
    """INTERNAL to the caller; the log says what is wrong, and what to do."""
    session.append_turns(1)
    key = store.key(session.id, part)
    store.client.delete(key)
    store.client.set(key, "another program's", ex=60)
    call = session.append_turns if part in ("", "turns") else lambda: session.begin_run("run-1")
    with refused(grpc.StatusCode.INTERNAL, "INTERNAL"):
        call()
    assert "holds a value of another type" in sidecar.log
    assert "another --prefix" in sidecar.log
    store.client.delete(key)


def test_no_run_is_ever_taken_for_another(session: SessionCalls, store: Store) -> None:
    """An id that leads to the record of another run, as after a partial restore, leads nowhere."""
    session.begin_run("A")
    number = session.begin_run("C").run.number
    store.client.hset(store.key(session.id, "ids"), "default A", number)
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("A")
    assert session.write_notes("C").outcome == WRITE_OUTCOME_ACCEPTED
