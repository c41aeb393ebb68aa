"""Rule 7: each RPC on a session is one atomic step."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from session_notes.v1.notes_pb2 import RUN_STATE_RUNNING, RUN_STATE_SUPERSEDED, RUN_STATE_WRITTEN
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_DUPLICATE, WriteNotesRequest
from session_notes.v1.session_state_pb2 import AppendTurnsRequest, UpdateSessionRequest

from tests.stores import Store
from tests.support import SessionCalls, eventually, notes, refused, status_of, turns, value


def test_a_field_comes_back_as_it_was_set(session: SessionCalls) -> None:
    """UpdateSession sets fields with any kind of value, and GetSession returns them unchanged."""
    content: dict[str, Any] = {
        "text": "größer\0🙂",
        "empty": "",
        "null": None,
        "true": True,
        "false": False,
        "zero": 0,
        "number": -1.5,
        "largest": 2**53 - 1,
        "list": [1, "two", None, []],
        "struct": {"a": {"b": [True]}},
        "no struct": {},
        'odd name {} * "\n': 1,
    }
    session.update_session(set=content)
    assert dict(session.get_session().fields) == {name: value(item) for name, item in content.items()}


def test_other_fields_are_unchanged(session: SessionCalls) -> None:
    """UpdateSession sets and removes only the fields in the request."""
    session.update_session(set={"a": 1, "b": 2, "c": 3})
    session.update_session(set={"b": "new"}, remove=["c", "not there"])
    assert dict(session.get_session().fields) == {"a": value(1), "b": value("new")}


def test_two_writers_never_lose_each_others_fields(session: SessionCalls) -> None:
    """Concurrent writers never lose each other's fields, and each raises the version by 1."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: session.update_session(set={f"field-{number}": number}), range(200)))
    state = session.get_session()
    assert {name: content.number_value for name, content in state.fields.items()} == {
        f"field-{number}": number for number in range(200)
    }
    assert sorted(answer.version for answer in answers) == list(range(1, 201))
    assert state.version == 200


def test_the_version_counts_update_session_alone(session: SessionCalls) -> None:
    """`version` counts only UpdateSession, from 0: runs and turns do not change it."""
    assert session.get_session().version == 0
    session.append_turns(2)
    session.begin_run("run-1")
    session.write_notes("run-1")
    session.begin_run("run-2")
    session.renew_run("run-2")
    session.fail_run("run-2")
    assert session.get_session().version == 0
    assert session.update_session(set={"a": 1}, expected_version=0).version == 1
    session.write_notes("run-3")
    session.append_turns(2)
    assert session.update_session(set={"a": 2}, expected_version=1).version == 2
    assert session.update_session(remove=["a"]).version == 3


def test_an_empty_update_raises_the_version(session: SessionCalls) -> None:
    """Each successful UpdateSession raises the version by 1, even without any field."""
    assert [session.update_session().version for _ in range(3)] == [1, 2, 3]


def test_another_version_aborts(session: SessionCalls, store: Store) -> None:
    """UpdateSession with another version than expected is ABORTED, reports the actual one and changes nothing."""
    session.update_session(set={"a": 1})
    session.update_session(set={"b": 1})
    before = store.dump(session.id)
    for expected in (0, 1, 3):
        with refused(grpc.StatusCode.ABORTED, "VERSION_MISMATCH") as error:
            session.update_session(set={"a": 2}, remove=["b"], expected_version=expected)
        assert error.metadata == {"expected": str(expected), "actual": "2"}
    assert store.dump(session.id) == before


def test_an_expected_version_of_a_new_session_aborts(session: SessionCalls, store: Store) -> None:
    """A session that UpdateSession has never changed is at version 0."""
    with refused(grpc.StatusCode.ABORTED, "VERSION_MISMATCH") as error:
        session.update_session(set={"a": 2}, expected_version=1)
    assert error.metadata == {"expected": "1", "actual": "0"}
    assert store.keys(session.id) == []


def test_one_of_many_updates_of_a_version_succeeds(session: SessionCalls) -> None:
    """Of many concurrent updates that expect the same version, one succeeds."""

    def update(number: int) -> grpc.StatusCode:
        return status_of(lambda: session.update_session(set={"winner": number}, expected_version=0))

    with ThreadPoolExecutor(16) as pool:
        ends = list(pool.map(update, range(32)))
    assert sorted(end.name for end in ends) == ["ABORTED"] * 31 + ["OK"]
    state = session.get_session()
    assert (state.version, state.fields["winner"].number_value) == (1, ends.index(grpc.StatusCode.OK))


def test_another_turn_count_aborts(session: SessionCalls, store: Store) -> None:
    """AppendTurns with another length than expected is ABORTED, reports the actual one and changes nothing."""
    with refused(grpc.StatusCode.ABORTED, "TURN_COUNT_MISMATCH") as error:
        session.append_turns(1, expected_turn_count=1)
    assert error.metadata == {"expected": "1", "actual": "0"}
    assert store.keys(session.id) == []
    assert session.append_turns(2, expected_turn_count=0) == 2
    before = store.dump(session.id)
    with refused(grpc.StatusCode.ABORTED, "TURN_COUNT_MISMATCH") as error:
        session.append_turns(2, expected_turn_count=0)
    assert error.metadata == {"expected": "0", "actual": "2"}
    assert store.dump(session.id) == before
    assert session.append_turns(1, expected_turn_count=2) == 3


def test_turns_of_one_append_stay_together(session: SessionCalls) -> None:
    """The turns of each of many concurrent appends stay together in the transcript, and none is lost."""

    def append(number: int) -> int:
        return session.append_turns(turns(5, start=number * 5))

    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(append, range(40)))
    assert sorted(counts) == list(range(5, 201, 5))
    texts = [turn.text for turn in session.get_session(include_turns=True).turns]
    groups = [texts[start : start + 5] for start in range(0, 200, 5)]
    assert sorted(groups) == sorted([turn.text for turn in turns(5, start=number * 5)] for number in range(40))


def test_a_read_sees_one_moment(session: SessionCalls) -> None:
    """GetSession is one atomic read: fields changed together are never seen apart."""
    session.update_session(set={"a": 1, "b": 1})

    def read(_: int) -> bool:
        state = session.get_session()
        return state.fields["a"].number_value == state.fields["b"].number_value == state.version

    with ThreadPoolExecutor(4) as pool:
        reads = pool.map(read, range(100))
        for number in range(2, 102):
            session.update_session(set={"a": number, "b": number})
        assert all(reads)


def test_a_client_that_disconnects_leaves_all_or_none(session: SessionCalls, store: Store) -> None:
    """After a client disconnects mid-call, the write has taken effect completely or not at all."""
    dice = random.Random(1)
    expected: list[int] = []
    for number in range(150):
        # Begin in order: a write whose client has disconnected may still be in flight when the next run writes.
        session.begin_run(f"run-{number}")
        request = WriteNotesRequest(session_id=session.id, run_id=f"run-{number}", notes=notes(f"notes {number}"))
        call = session.notes.WriteNotes.future(request)
        deadline = dice.uniform(0, 0.004)
        try:
            call.result(timeout=deadline)
        except grpc.FutureTimeoutError:
            call.cancel()
        except grpc.FutureCancelledError:
            pass
        if dice.random() < 0.5:
            # Whatever the outcome was, a retry with the same id makes it happen once.
            session.write_notes(f"run-{number}", f"notes {number}")
            expected.append(number)
            answer = session.get_notes()
            assert (answer.run.run_id, answer.notes.summary) == (f"run-{number}", f"notes {number}")
    for run in session.list_runs(include_notes=True).runs:
        if run.state == RUN_STATE_RUNNING:
            assert (run.HasField("notes"), run.HasField("end_time")) == (False, False)
        else:
            assert run.state in (RUN_STATE_WRITTEN, RUN_STATE_SUPERSEDED)
            assert run.notes.summary == f"notes {run.run_id[4:]}"
            assert run.HasField("end_time")
    answers = [session.write_notes(f"run-{number}", f"notes {number}") for number in expected]
    assert {answer.outcome for answer in answers} == {WRITE_OUTCOME_DUPLICATE}
    assert len({answer.run.number for answer in answers}) == len(expected)
    assert store.without_ttl() == []


def test_cancelled_calls_leave_counters_and_replies_consistent(session: SessionCalls) -> None:
    """Calls cancelled at random leave all counters consistent, and no response reaches another caller."""
    dice = random.Random(2)
    for number in range(150):
        update = UpdateSessionRequest(session_id=session.id, set={f"field-{number}": value(number)})
        append = AppendTurnsRequest(session_id=session.id, turns=turns(1, start=number))
        calls: list[Any] = [session.state.UpdateSession.future(update), session.state.AppendTurns.future(append)]
        # On a busy machine no cancelled call may reach the store. Some calls are not cancelled, so that counters
        # have something to count.
        if number % 10 == 0:
            assert [status_of(call.result) for call in calls] == [grpc.StatusCode.OK] * 2
        eventually(lambda calls=calls: dice.random() < 0.7 or all(call.done() for call in calls), every=0.0005)  # type: ignore[misc]
        for call in calls:
            call.cancel()
    state = session.get_session(include_turns=True)
    assert state.session_id == session.id
    assert state.version == len(state.fields) > 1
    assert state.turn_count == len(state.turns) > 1
    assert len({turn.text for turn in state.turns}) >= len(state.turns) - 1
    assert all(name == f"field-{int(content.number_value)}" for name, content in state.fields.items())
