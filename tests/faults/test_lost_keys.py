"""Lost keys: a session with some of its keys evicted or deleted stays consistent."""

from datetime import timedelta
from itertools import chain, combinations

import grpc
import pytest
from session_notes.v1.notes_pb2 import RUN_STATE_FAILED
from session_notes.v1.session_notes_pb2 import (
    READINESS_EXPIRED,
    READINESS_FAILED,
    READINESS_NEVER_RUN,
    READINESS_READY,
    WRITE_OUTCOME_ACCEPTED,
    WRITE_OUTCOME_DUPLICATE,
    WRITE_OUTCOME_SUPERSEDED,
)
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import SessionCalls, Sidecar, eventually, notes, refused

PARTS = ("", "turns", "runs", "ids")
LOST = list(chain.from_iterable(combinations(PARTS, count) for count in range(1, len(PARTS) + 1)))
OLD, NEW = [Turn(speaker="user", text="old"), Turn(speaker="user", text="older")], Turn(speaker="user", text="new")


def lose(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """Fill a session, where run `A` has written and `B` is in flight, and delete some of its keys."""
    session.update_session(set={"a": 1})
    session.append_turns(OLD)
    session.write_notes("A", "notes of A")
    session.begin_run("B")
    for part in lost:
        assert store.client.delete(store.key(session.id, part)) == 1


def name(lost: tuple[str, ...]) -> str:
    """Return the test id of a set of lost keys."""
    return "+".join(part or "session" for part in lost)


@pytest.mark.parametrize("lost", LOST, ids=name)
def test_reads_show_what_is_left(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """Without its hash a session does not exist, and the loss of any other key loses only its own contents."""
    lose(session, store, lost)
    stored, reading, runs = session.get_session(include_turns=True), session.get_notes(), session.list_runs().runs
    if "" in lost:
        assert (stored.turn_count, len(stored.turns), len(stored.fields), len(stored.notes)) == (0, 0, 0, 0)
        assert (reading.readiness, len(runs)) == (READINESS_NEVER_RUN, 0)
        return
    assert (stored.turn_count, list(stored.fields)) == (2, ["a"])
    assert list(stored.turns) == ([] if "turns" in lost else OLD)
    expired = "runs" in lost
    assert reading.readiness == stored.notes["default"].readiness == (READINESS_EXPIRED if expired else READINESS_READY)
    assert [run.run_id for run in runs] == ([] if expired else ["B", "A"])


@pytest.mark.parametrize("lost", LOST, ids=name)
def test_writes_continue(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """After a loss, writes restore no old turn, confuse no runs, and never lower a number of a live session."""
    lose(session, store, lost)
    restarted, runs_kept = "" in lost, not {"", "runs"} & set(lost)
    begun = session.begin_run("C", include_transcript=True)
    assert (begun.run.run_id, begun.run.number) == ("C", 1 if restarted else 3)
    assert list(begun.transcript) == ([] if restarted or "turns" in lost else OLD)
    if runs_kept:
        assert session.fail_run("B").run.run_id == "B"
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_WRITTEN"):
            session.fail_run("A")
    else:
        for run_id in ("A", "B"):
            with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
                session.fail_run(run_id)
    written = session.write_notes("C", "notes of C")
    assert (written.outcome, written.run.run_id) == (WRITE_OUTCOME_ACCEPTED, "C")
    if not runs_kept:
        retried = session.write_notes("A", "notes of A")
        number_kept = not restarted and "ids" not in lost
        assert (retried.outcome, retried.run.run_id) == (
            WRITE_OUTCOME_SUPERSEDED if number_kept else WRITE_OUTCOME_ACCEPTED,
            "A",
        )
        assert retried.run.number == (1 if number_kept else written.run.number + 1)
    assert session.append_turns([NEW]) == (1 if restarted else 3)
    turns_kept = [] if restarted or "turns" in lost else OLD
    assert list(session.get_session(include_turns=True).turns) == [*turns_kept, NEW]
    assert session.update_session(set={"b": 2}).version == (1 if restarted else 2)
    assert session.get_notes().notes == notes("notes of C" if runs_kept or number_kept else "notes of A")


@pytest.mark.parametrize("lost", LOST, ids=name)
def test_a_deletion_removes_what_is_left(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """DeleteSession leaves no key but the ids of remembered runs, which are still rejected."""
    lose(session, store, lost)
    assert session.delete().existed is ("" not in lost)
    if "ids" in lost and ("" in lost or "runs" in lost):
        assert store.keys(session.id) == []
        return
    assert store.keys(session.id) == [store.key(session.id, "deleted").encode()]
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.write_notes("B", "notes of B")


def test_a_deletion_knows_the_runs_of_a_lost_session(session: SessionCalls, store: Store) -> None:
    """Calls rejected because the session is lost remove no ids, so that a deletion still rejects late writes."""
    lose(session, store, ("",))
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("B")
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.renew_run("B")
    with refused(grpc.StatusCode.ABORTED, "TURN_COUNT_MISMATCH"):
        session.append_turns([NEW], expected_turn_count=2)
    session.delete()
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.write_notes("B", "notes of B")


@pytest.mark.parametrize("lost", LOST, ids=name)
def test_append_ids_are_as_durable_as_run_ids(session: SessionCalls, store: Store, lost: tuple[str, ...]) -> None:
    """An append is recognized until its session or the key with its record is lost."""
    session.append(OLD, "a")
    lose(session, store, lost)
    again = session.append(OLD, "a")
    kept = not {"", "runs"} & set(lost)
    assert (again.turn_count, again.duplicate) == ((2, True) if kept else (2 if "" in lost else 6, False))
    assert session.append(OLD, "a").duplicate
    session.append([NEW], "b")
    store.client.delete(store.key(session.id, "ids"))
    session.delete()
    for append_id in ("a", "b"):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
            session.append([NEW], append_id)


def test_lost_ids_are_rebuilt_for_runs_and_appends(session: SessionCalls, store: Store) -> None:
    """If the ids are lost, a new append does not hide the runs, and a new run does not hide the appends."""
    lose(session, store, ("ids",))
    session.append(OLD, "a")
    assert session.fail_run("B").run.run_id == "B"
    store.client.delete(store.key(session.id, "ids"))
    session.begin_run("C")
    assert session.append(OLD, "a").duplicate


def test_lost_ids_are_rebuilt_for_old_current_notes(session: SessionCalls, store: Store) -> None:
    """If the ids are lost, the run of the current notes is recognized, even if a thousand newer runs have begun."""
    session.write_notes("A", "notes of A")
    for _ in range(1001):
        session.begin_run()
    store.client.delete(store.key(session.id, "ids"))
    assert session.write_notes("A", "notes of A").outcome == WRITE_OUTCOME_DUPLICATE
    store.client.delete(store.key(session.id, "ids"))
    session.delete()
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.write_notes("A", "notes of A")


def test_a_lost_run_does_not_block_only_if_idle(session: SessionCalls, store: Store) -> None:
    """A run in flight whose record is lost does not block a run with `only_if_idle`."""
    lose(session, store, ("runs",))
    assert session.begin_run("C", only_if_idle=True).started


def test_lost_runs_in_flight_make_room(session: SessionCalls, store: Store) -> None:
    """The oldest of more than 100 runs in flight makes room, even if its record is lost."""
    for number in range(100):
        session.begin_run(f"run-{number}")
    store.client.delete(store.key(session.id, "runs"))
    assert session.begin_run("next").run.number == 101
    session.begin_run("last")
    assert session.fail_run("last").run.state == RUN_STATE_FAILED


def test_a_lost_run_that_begins_again_has_no_notes(session: SessionCalls, store: Store) -> None:
    """If the run of the current notes is lost and begins again, no notes are current, whatever that run does next."""
    session.append_turns(OLD)
    session.begin_run("A")
    session.write_notes("A")
    session.begin_run("B", observed_turn=1)
    store.client.delete(store.key(session.id, "runs"))
    assert session.begin_run("A").run.number == 1
    session.begin_run("C", observed_turn=1)
    assert not session.renew_run("C").obsolete
    session.fail_run("C")
    session.fail_run("A", reason="no budget left")
    assert session.get_notes().readiness == session.get_session().notes["default"].readiness == READINESS_FAILED
    window = session.begin_run("D", include_transcript=True, after_current_notes=True)
    assert list(window.transcript) == OLD
    assert session.write_notes("E", observed_turn=1).outcome == WRITE_OUTCOME_ACCEPTED


def test_the_lease_of_a_lost_run_does_not_count(session: SessionCalls, store: Store) -> None:
    """If a lost run in flight begins again, its new lease counts, and not the one before the loss."""
    session.begin_run("A")
    store.client.delete(store.key(session.id, "runs"))
    session.begin_run("A", lease=timedelta(microseconds=1))
    assert session.begin_run("B", only_if_idle=True).started


def test_a_lost_transcript_takes_no_room(session: SessionCalls, store: Store) -> None:
    """A lost transcript does not count towards the limit of the turns appended after it."""
    session.append_turns([Turn(text="x" * 60_000)] * 60)
    session.append_turns([Turn(text="x" * 60_000)] * 60)
    store.client.delete(store.key(session.id, "turns"))
    session.append_turns([Turn(text="y" * 60_000)] * 60)
    session.append_turns([NEW])
    assert len(session.get_session(include_turns=True).turns) == 61


@pytest.mark.parametrize("part", PARTS)
def test_a_key_of_another_type_is_logged(session: SessionCalls, store: Store, part: str, sidecar: Sidecar) -> None:
    """A key of another type is INTERNAL to the caller, and the log gives the cause and a remedy."""
    session.append_turns(1)
    key = store.key(session.id, part)
    store.client.delete(key)
    store.client.set(key, "another program's", ex=60)
    call = session.append_turns if part in ("", "turns") else lambda: session.begin_run("run-1")
    with refused(grpc.StatusCode.INTERNAL, "INTERNAL"):
        call()
    eventually(lambda: "holds a value of another type" in sidecar.log, 10)  # The log does not delay calls.
    assert "another --prefix" in sidecar.log
    store.client.delete(key)


def test_an_id_never_finds_another_run(session: SessionCalls, store: Store) -> None:
    """An id that points to another run's record, as after a partial restore, finds nothing."""
    session.begin_run("A")
    number = session.begin_run("C").run.number
    store.client.hset(store.key(session.id, "ids"), "default A", number)
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("A")
    assert session.write_notes("C").outcome == WRITE_OUTCOME_ACCEPTED
