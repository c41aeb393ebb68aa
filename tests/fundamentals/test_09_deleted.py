"""Rule 9: deleted stays deleted."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
from session_notes.v1.session_notes_pb2 import READINESS_NEVER_RUN, WRITE_OUTCOME_ACCEPTED
from session_notes.v1.session_state_pb2 import Session
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import SessionCalls, notes, refused, status_of, struct, value

CANARY = "canary-3c1e7a"


def fill(session: SessionCalls) -> None:
    """Put the canary into every part of a session that can contain user data."""
    session.update_session(set={f"{CANARY} name": f"{CANARY} text"})
    session.append_turns([Turn(speaker=CANARY, text=f"{CANARY} said")])
    session.write_notes("written", notes(CANARY, extra=struct({CANARY: CANARY})))
    session.write_notes("tone-run", CANARY, observer="tone")
    session.begin_run("failed")
    session.fail_run("failed", reason=CANARY)
    session.begin_run("at-work")


def refused_as_deleted(session: SessionCalls, run_id: str, observer: str = "") -> None:
    """Assert that every RPC refuses this run of a deleted session."""
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.begin_run(run_id, observer=observer)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.write_notes(run_id, CANARY, observer=observer)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.fail_run(run_id, observer=observer, reason=CANARY)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.renew_run(run_id, observer=observer)


def test_a_deleted_session_is_unknown(session: SessionCalls) -> None:
    """After DeleteSession, every read returns the same as for an unknown session."""
    fill(session)
    assert session.delete().existed is True
    assert session.get_session(include_turns=True) == Session(session_id=session.id, turn_count=0)
    answer = session.get_notes(observer="tone")
    assert (answer.ready, answer.readiness, answer.HasField("latest_run")) == (False, READINESS_NEVER_RUN, False)
    assert list(session.list_runs(include_notes=True).runs) == []


def test_a_second_delete_is_ok(session: SessionCalls) -> None:
    """DeleteSession is idempotent: a second call returns OK and a present `existed: false`."""
    fill(session)
    session.delete()
    answer = session.delete()
    assert (answer.HasField("existed"), answer.existed) == (True, False)


def test_deleting_an_unknown_session_leaves_nothing(session: SessionCalls, store: Store) -> None:
    """DeleteSession of an unknown session is OK, `existed: false`, and leaves no key behind."""
    assert session.delete().existed is False
    assert store.keys(session.id) == []


def test_each_way_to_create_a_session_makes_it_exist(session: SessionCalls) -> None:
    """`existed` is true whichever RPC created the session."""
    session.append_turns(1)
    assert session.delete().existed is True
    session.begin_run("run-1")
    assert session.delete().existed is True
    session.write_notes("run-2")
    assert session.delete().existed is True
    session.update_session()
    assert session.delete().existed is True


def test_a_run_known_at_the_deletion_is_refused(session: SessionCalls, store: Store) -> None:
    """BeginRun, WriteNotes, FailRun and RenewRun refuse the id of a run known at the deletion, with SESSION_DELETED.

    The run may have been in flight, written, failed or another observer's. The refusals leave nothing behind.
    """
    fill(session)
    session.delete()
    before = store.dump(session.id)
    for run_id in ("at-work", "written", "failed"):
        refused_as_deleted(session, run_id)
    refused_as_deleted(session, "tone-run", observer="tone")
    assert store.dump(session.id) == before
    assert store.holding(CANARY, session.id) == []


def test_a_run_beyond_the_history_is_refused(session: SessionCalls) -> None:
    """A run that had left the history is refused too."""
    session.begin_run("run-0")
    for number in range(1, 31):
        session.write_notes(f"run-{number}")
    session.delete()
    refused_as_deleted(session, "run-0")
    refused_as_deleted(session, "run-1")


def test_only_the_run_ids_stay(session: SessionCalls, store: Store) -> None:
    """Only the run ids remain, in one key; no user data is left in the store."""
    fill(session)
    assert store.holding(CANARY, session.id)
    session.delete()
    assert store.keys(session.id) == [store.key(session.id, "deleted").encode()]
    assert store.holding(CANARY, session.id) == []
    assert store.holding("at-work", session.id) != []


def test_the_run_ids_stay_for_an_hour(session: SessionCalls, store: Store) -> None:
    """The run ids stay for an hour, whatever the session's own expiry was."""
    fill(session)
    session.delete()
    (left,) = store.ttls_ms(session.id).values()
    assert 59 * 60_000 < left <= 60 * 60_000


def test_a_refusal_does_not_extend_the_hour(session: SessionCalls, store: Store) -> None:
    """Retries by an observer do not prolong the life of the run ids."""
    fill(session)
    session.delete()
    (before,) = store.ttls_ms(session.id).values()
    refused_as_deleted(session, "at-work")
    (after,) = store.ttls_ms(session.id).values()
    assert after <= before


def test_no_other_key_holds_user_data(session: SessionCalls, store: Store) -> None:
    """No other key of the store holds data of a deleted session."""
    fill(session)
    session.delete()
    assert store.holding(CANARY) == []


def test_a_new_run_creates_a_new_session(session: SessionCalls) -> None:
    """A new run may create the session again: from number 1, without any old field, turn or notes."""
    fill(session)
    session.delete()
    assert session.begin_run("new").run.number == 1
    assert session.write_notes("new", "new notes").outcome == WRITE_OUTCOME_ACCEPTED
    state = session.get_session(include_turns=True)
    assert (state.version, state.turn_count, len(state.fields)) == (0, 0, 0)
    assert set(state.notes) == {"default"}
    assert [run.run_id for run in session.list_runs().runs] == ["new"]


def test_the_old_runs_stay_refused_in_a_new_session(session: SessionCalls) -> None:
    """Old runs stay refused after the session is created again."""
    fill(session)
    session.delete()
    session.begin_run("new")
    refused_as_deleted(session, "at-work")
    assert session.get_notes().latest_run.run_id == "new"


def test_runs_of_both_deletions_are_refused(session: SessionCalls) -> None:
    """After a second deletion, the runs of the first are still refused."""
    session.begin_run("first-life")
    session.delete()
    session.begin_run("second-life")
    session.delete()
    refused_as_deleted(session, "first-life")
    refused_as_deleted(session, "second-life")


def test_the_primary_may_create_it_again(session: SessionCalls) -> None:
    """UpdateSession and AppendTurns create a deleted session again, at version 0 and turn 0."""
    fill(session)
    session.delete()
    assert session.update_session(set={"a": 1}, expected_version=0).version == 1
    assert session.append_turns(1, expected_turn_count=0) == 1
    assert dict(session.get_session().fields) == {"a": value(1)}


def test_an_unknown_run_of_a_deleted_session_is_not_found(session: SessionCalls) -> None:
    """FailRun of a run that never existed is still NOT_FOUND after a deletion."""
    fill(session)
    session.delete()
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("unknown")


def test_runs_in_flight_do_not_restore_deleted_data(session: SessionCalls, store: Store) -> None:
    """Observers that write during the deletion do not bring user data back."""
    ids = count()
    for number in range(400):
        session.begin_run(f"run-{number}")

    def work() -> int:
        written = 0
        while (number := next(ids)) < 400:
            end = status_of(lambda run_id=f"run-{number}": session.write_notes(run_id, CANARY))  # type: ignore[misc]
            assert end in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION)
            written += end == grpc.StatusCode.OK
        return written

    with ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work) for _ in range(8)]
        session.delete()
        assert store.holding(CANARY, session.id) == []
        written = sum(worker.result() for worker in workers)
    assert store.holding(CANARY, session.id) == []
    assert written < 400
    assert session.get_notes().readiness == READINESS_NEVER_RUN
