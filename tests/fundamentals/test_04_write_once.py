"""Rule 4: a run writes once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from session_notes.v1.notes_pb2 import RUN_STATE_FAILED, RUN_STATE_WRITTEN, SEVERITY_WARNING, Issue, Notes
from session_notes.v1.session_notes_pb2 import (
    WRITE_OUTCOME_ACCEPTED,
    WRITE_OUTCOME_DUPLICATE,
    WRITE_OUTCOME_SUPERSEDED,
    WriteNotesResponse,
)

from tests.stores import Store
from tests.support import SessionCalls, eventually, notes, refused, struct

FULL = Notes(
    coverage={"goals": 0.0, "budget": 0.25, "dates": 1.0},
    issues=[Issue(text="no budget yet", severity=SEVERITY_WARNING, turn=0), Issue(text="vague")],
    follow_up_suggestions=["ask for a date", "ask for a budget"],
    summary="Halfway: größer, 日本語, \0 and 🙂",
    extra=struct({"model": "m", "nested": {"list": [1, "two", None, True, {"three": 3.5}]}, "empty": {}}),
)


@pytest.fixture(params=["after BeginRun", "without BeginRun"])
def run_id(request: pytest.FixtureRequest, session: SessionCalls) -> str:
    """The id of a run that is about to write, with and without BeginRun."""
    if request.param == "after BeginRun":
        session.begin_run("run-1")
    return "run-1"


def test_notes_come_back_as_they_were_written(session: SessionCalls, run_id: str) -> None:
    """Every RPC that returns notes returns every field as it was written."""
    assert session.write_notes(run_id, FULL).outcome == WRITE_OUTCOME_ACCEPTED
    assert session.get_notes().notes == FULL
    assert session.get_session().notes["default"].notes == FULL
    assert session.list_runs(include_notes=True).runs[0].notes == FULL


def test_the_response_contains_the_run(session: SessionCalls, run_id: str) -> None:
    """WriteNotes returns the run as written; reads return its notes next to the run, never inside it."""
    answer = session.write_notes(run_id)
    assert (answer.run.run_id, answer.run.number, answer.run.state) == (run_id, 1, RUN_STATE_WRITTEN)
    assert answer.run.end_time == answer.write_time
    assert not answer.run.HasField("notes")
    assert not session.get_notes().run.HasField("notes")
    assert not session.get_notes().latest_run.HasField("notes")


def test_the_same_notes_again_are_a_duplicate(session: SessionCalls, store: Store, run_id: str) -> None:
    """Repeating the same `run_id` with the same notes is a DUPLICATE and changes nothing: same run, same time."""
    first = session.write_notes(run_id, FULL)
    before = store.dump(session.id)
    second = session.write_notes(run_id, FULL)
    assert (second.outcome, second.run, second.write_time) == (WRITE_OUTCOME_DUPLICATE, first.run, first.write_time)
    assert store.dump(session.id) == before


def test_a_duplicate_does_not_refresh_the_age(session: SessionCalls, store: Store, run_id: str) -> None:
    """After a DUPLICATE, the age still counts from the first write."""
    first = session.write_notes(run_id).write_time
    eventually(lambda: store.time_ms() > first.ToMilliseconds() + 20)
    assert session.write_notes(run_id).outcome == WRITE_OUTCOME_DUPLICATE
    answer = session.get_notes()
    assert answer.write_time == first
    assert answer.age.ToMilliseconds() >= 20


def test_other_fields_of_a_duplicate_change_nothing(session: SessionCalls, store: Store, run_id: str) -> None:
    """Only the notes make a duplicate: another `observed_turn` or `ttl` in the retry changes nothing."""
    session.write_notes(run_id, observed_turn=3)
    before = store.dump(session.id)
    again = session.write_notes(run_id, observed_turn=5, ttl=timedelta(seconds=1))
    assert again.outcome == WRITE_OUTCOME_DUPLICATE
    assert session.get_notes().observed_turn == 3
    assert store.dump(session.id) == before


def entry(name: str, share: float) -> bytes:
    """Return one coverage entry of Notes as it is on the wire."""
    return Notes(coverage={name: share}).SerializeToString()


def test_the_order_of_a_map_does_not_count(session: SessionCalls, run_id: str) -> None:
    """Notes are compared as messages: the same coverage in another order on the wire is a DUPLICATE."""
    topics = [(f"topic-{number}", number / 20) for number in range(20)]
    forward, backward = (b"".join(entry(*topic) for topic in order) for order in (topics, topics[::-1]))
    assert forward != backward
    session_field = b"\x0a" + bytes([len(session.id)]) + session.id.encode()
    run_field = b"\x1a" + bytes([len(run_id)]) + run_id.encode()
    outcomes = []
    for wire in (forward, backward):
        assert 128 <= len(wire) < 2**14
        notes_field = b"\x22" + bytes([len(wire) & 0x7F | 0x80, len(wire) >> 7]) + wire
        answer = session.call("SessionNotes/WriteNotes", session_field + run_field + notes_field)
        outcomes.append(WriteNotesResponse.FromString(answer).outcome)
    assert outcomes == [WRITE_OUTCOME_ACCEPTED, WRITE_OUTCOME_DUPLICATE]


def test_the_order_of_a_struct_does_not_count(session: SessionCalls, run_id: str) -> None:
    """Notes are compared as messages, inside `extra` too."""
    session.write_notes(run_id, notes(extra=struct({"a": 1, "b": {"c": 2, "d": 3}, "e": 4})))
    again = session.write_notes(run_id, notes(extra=struct({"e": 4, "b": {"d": 3, "c": 2}, "a": 1})))
    assert again.outcome == WRITE_OUTCOME_DUPLICATE


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(notes("one"), notes("two"), id="another text"),
        pytest.param(notes("one"), Notes(), id="empty ones"),
        pytest.param(Notes(), notes("one"), id="after empty ones"),
        pytest.param(notes(coverage={"a": 0.5}), notes(coverage={"a": 0.25}), id="another share"),
        pytest.param(notes(coverage={"a": 0.0}), notes(), id="a share of 0 is not an absent one"),
        pytest.param(
            Notes(follow_up_suggestions=["a", "b"]), Notes(follow_up_suggestions=["b", "a"]), id="a list's order counts"
        ),
        pytest.param(notes(issues=[Issue(turn=0)]), notes(issues=[Issue()]), id="turn 0 is not an absent turn"),
        pytest.param(notes(extra=struct({})), notes(extra=struct({"a": None})), id="null is not absent"),
    ],
)
def test_other_notes_already_exist(
    session: SessionCalls, store: Store, run_id: str, first: Notes, second: Notes
) -> None:
    """The same `run_id` with other notes is ALREADY_EXISTS, and the first notes stay."""
    session.write_notes(run_id, first)
    before = store.dump(session.id)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "RUN_ALREADY_WRITTEN"):
        session.write_notes(run_id, second)
    assert session.get_notes().notes == first
    assert store.dump(session.id) == before


def test_no_write_after_a_failure(session: SessionCalls, store: Store) -> None:
    """WriteNotes after FailRun: FAILED_PRECONDITION."""
    session.begin_run("run-1")
    session.fail_run("run-1")
    before = store.dump(session.id)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_FAILED"):
        session.write_notes("run-1")
    assert store.dump(session.id) == before


def test_no_failure_after_a_write(session: SessionCalls, store: Store, run_id: str) -> None:
    """FailRun after WriteNotes: FAILED_PRECONDITION."""
    session.write_notes(run_id)
    before = store.dump(session.id)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_WRITTEN"):
        session.fail_run(run_id)
    assert store.dump(session.id) == before


def test_no_failure_after_a_superseded_write(session: SessionCalls) -> None:
    """A superseded run has written, so FailRun is FAILED_PRECONDITION."""
    session.begin_run("old")
    session.write_notes("new")
    session.write_notes("old")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_WRITTEN"):
        session.fail_run("old")


def test_failing_twice_is_idempotent(session: SessionCalls, store: Store) -> None:
    """FailRun is idempotent: the first reason and time stay."""
    session.begin_run("run-1")
    first = session.fail_run("run-1", reason="the first reason")
    before = store.dump(session.id)
    second = session.fail_run("run-1", reason="another")
    assert second == first
    assert (second.run.state, second.run.failure) == (RUN_STATE_FAILED, "the first reason")
    assert store.dump(session.id) == before


def test_failing_an_unknown_run_is_not_found(session: SessionCalls, store: Store) -> None:
    """FailRun of an unknown run is NOT_FOUND, whether the session exists or not, and creates nothing."""
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("unknown")
    assert store.keys(session.id) == []
    session.begin_run("run-1")
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("unknown")
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("run-1", observer="another")


def test_a_run_id_is_unique_within_session_and_observer(session: SessionCalls) -> None:
    """Two observers may use the same `run_id`; each has its own run numbers."""
    session.write_notes("run-0", observer="facts")
    assert session.write_notes("run-1", "of facts", observer="facts").run.number == 2
    assert session.write_notes("run-1", "of tone", observer="tone").run.number == 1
    assert session.get_notes(observer="facts").notes.summary == "of facts"
    assert session.get_notes(observer="tone").notes.summary == "of tone"


def test_a_write_without_run_id_gets_a_generated_id(session: SessionCalls) -> None:
    """Without a `run_id`, WriteNotes generates one and returns it, and it works like any other."""
    first = session.write_notes("")
    assert first.outcome == WRITE_OUTCOME_ACCEPTED
    assert 1 <= len(first.run.run_id) <= 256
    assert session.get_notes().run.run_id == first.run.run_id
    assert session.write_notes(first.run.run_id).outcome == WRITE_OUTCOME_DUPLICATE


def test_a_begin_without_run_id_gets_a_generated_id(session: SessionCalls) -> None:
    """Without a `run_id`, BeginRun generates one and returns it; a retry begins another run."""
    first, second = session.begin_run(), session.begin_run()
    assert first.run.run_id != second.run.run_id
    assert (first.run.number, second.run.number) == (1, 2)
    assert session.write_notes(second.run.run_id).run.number == 2


def test_a_late_retry_is_recognized_beyond_the_history(session: SessionCalls) -> None:
    """After 25 newer runs, a retry is still a DUPLICATE, other notes are ALREADY_EXISTS, a failed run has failed."""
    first = session.write_notes("run-0", "the notes")
    session.begin_run("failed")
    session.fail_run("failed", reason="why")
    for number in range(1, 26):
        session.write_notes(f"run-{number}")
    assert "run-0" not in {run.run_id for run in session.list_runs().runs}
    again = session.write_notes("run-0", "the notes")
    assert (again.outcome, again.write_time) == (WRITE_OUTCOME_DUPLICATE, first.write_time)
    assert (again.run.number, again.run.state) == (1, RUN_STATE_WRITTEN)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "RUN_ALREADY_WRITTEN"):
        session.write_notes("run-0", "other notes")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_FAILED"):
        session.write_notes("failed")
    assert session.fail_run("failed").run.state == RUN_STATE_FAILED
    assert session.begin_run("run-0").run.number == 1
    assert session.get_notes().run.run_id == "run-25"


def test_a_thousand_runs_are_remembered(session: SessionCalls) -> None:
    """Run ids and digests of notes are remembered for the last 1,000 runs."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: session.write_notes(f"run-{number}", f"notes {number}"), range(1000)))

        def retry(number: int) -> int:
            return session.write_notes(f"run-{number}", f"notes {number}").outcome

        assert set(pool.map(retry, range(1000))) == {WRITE_OUTCOME_DUPLICATE}
    assert session.get_notes().run.number == 1000


def test_a_superseded_write_is_a_duplicate_too(session: SessionCalls) -> None:
    """A retry of a SUPERSEDED write is a DUPLICATE; with other notes it is ALREADY_EXISTS."""
    session.begin_run("old")
    session.write_notes("new")
    first = session.write_notes("old", "late")
    assert first.outcome == WRITE_OUTCOME_SUPERSEDED
    again = session.write_notes("old", "late")
    assert (again.outcome, again.run, again.write_time) == (WRITE_OUTCOME_DUPLICATE, first.run, first.write_time)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "RUN_ALREADY_WRITTEN"):
        session.write_notes("old", "other")


def test_concurrent_retries_write_once(session: SessionCalls) -> None:
    """Of many equal concurrent writes, one is ACCEPTED and all others are its DUPLICATEs."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: session.write_notes("run-1", FULL), range(64)))
    assert sorted(answer.outcome for answer in answers) == [WRITE_OUTCOME_ACCEPTED] + [WRITE_OUTCOME_DUPLICATE] * 63
    assert {answer.run.number for answer in answers} == {1}
    assert len({answer.write_time.ToNanoseconds() for answer in answers}) == 1
    assert len(session.list_runs().runs) == 1
