"""Rule 1: readiness is data, never an error."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from session_notes.v1.notes_pb2 import RUN_STATE_ABANDONED, RUN_STATE_FAILED, RUN_STATE_RUNNING, RUN_STATE_WRITTEN
from session_notes.v1.session_notes_pb2 import (
    READINESS_EXPIRED,
    READINESS_FAILED,
    READINESS_NEVER_RUN,
    READINESS_READY,
    READINESS_RUNNING,
    WRITE_OUTCOME_SUPERSEDED,
    BatchGetNotesRequest,
    GetNotesRequest,
    GetNotesResponse,
)

from tests.stores import StoreServer, valkey_program
from tests.support import Refusal, SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, refused

SHORT = timedelta(milliseconds=30)


def test_an_unknown_session_is_ok_and_never_run(session: SessionCalls) -> None:
    """An unknown session is OK: `ready: false`, NEVER_RUN, `fresh: false`, and no other field."""
    expected = GetNotesResponse(ready=False, readiness=READINESS_NEVER_RUN, fresh=False)
    assert session.get_notes() == expected
    assert session.get_notes(observer="unknown", current_turn=3) == expected


def test_false_is_present(session: SessionCalls) -> None:
    """`ready` and `fresh` are present even when false, so that JSON shows them."""
    answer = session.get_notes()
    assert answer.HasField("ready")
    assert answer.HasField("fresh")


def test_a_session_without_runs_is_never_run(session: SessionCalls) -> None:
    """A session with fields and turns but no run is NEVER_RUN."""
    session.update_session(set={"name": "Ada"})
    session.append_turns(2)
    answer = session.get_notes()
    assert (answer.ready, answer.readiness, answer.fresh) == (False, READINESS_NEVER_RUN, False)
    assert not answer.HasField("latest_run")


def test_readiness_is_per_observer(session: SessionCalls) -> None:
    """Readiness is per observer: another observer's notes leave it NEVER_RUN."""
    session.write_notes("run-1", observer="tone")
    assert session.get_notes(observer="facts").readiness == READINESS_NEVER_RUN
    assert session.get_notes().readiness == READINESS_NEVER_RUN
    assert session.get_notes(observer="tone").readiness == READINESS_READY


def test_the_empty_observer_is_default(session: SessionCalls) -> None:
    """An empty `observer` means `default`."""
    session.write_notes("run-1", "said", observer="")
    assert session.get_notes(observer="default").notes.summary == "said"
    assert session.get_notes().run.observer == "default"


def test_running_while_the_first_run_is_in_flight(session: SessionCalls) -> None:
    """Without current notes: RUNNING if the latest run is in flight."""
    session.begin_run("run-1")
    answer = session.get_notes()
    assert (answer.ready, answer.readiness, answer.fresh) == (False, READINESS_RUNNING, False)
    assert (answer.latest_run.run_id, answer.latest_run.state) == ("run-1", RUN_STATE_RUNNING)
    assert not answer.HasField("run")


def test_failed_after_a_failed_run(session: SessionCalls) -> None:
    """Without current notes: FAILED if the latest run failed."""
    session.begin_run("run-1")
    session.fail_run("run-1", reason="model timed out")
    answer = session.get_notes()
    assert (answer.ready, answer.readiness, answer.fresh) == (False, READINESS_FAILED, False)
    assert (answer.latest_run.state, answer.latest_run.failure) == (RUN_STATE_FAILED, "model timed out")


def test_failed_after_an_abandoned_run(session: SessionCalls) -> None:
    """Without current notes: FAILED if the latest run was abandoned."""
    session.begin_run("run-1", lease=SHORT)
    eventually(lambda: session.get_notes().readiness == READINESS_FAILED)
    answer = session.get_notes()
    assert answer.ready is False
    assert answer.latest_run.state == RUN_STATE_ABANDONED


def test_running_again_after_a_failure(session: SessionCalls) -> None:
    """The latest run decides: RUNNING while a second run is in flight, even if the first one failed."""
    session.begin_run("run-1")
    session.fail_run("run-1")
    session.begin_run("run-2")
    assert session.get_notes().readiness == READINESS_RUNNING


def test_failed_even_if_an_older_run_is_in_flight(session: SessionCalls) -> None:
    """The latest run decides: FAILED, even if an older run is still in flight."""
    session.begin_run("run-1")
    session.begin_run("run-2")
    session.fail_run("run-2")
    assert session.get_notes().readiness == READINESS_FAILED


def test_ready_once_written(session: SessionCalls) -> None:
    """With current notes: READY, and `ready` is true."""
    session.begin_run("run-1")
    session.write_notes("run-1", "all is well")
    answer = session.get_notes()
    assert (answer.ready, answer.readiness, answer.fresh) == (True, READINESS_READY, True)
    assert answer.notes == notes("all is well")
    assert answer.run == answer.latest_run
    assert (answer.run.run_id, answer.run.state) == ("run-1", RUN_STATE_WRITTEN)


def test_empty_notes_are_notes(session: SessionCalls) -> None:
    """Empty notes are READY and present."""
    session.write_notes("run-1", "")
    answer = session.get_notes()
    assert answer.ready is True
    assert answer.HasField("notes")


def test_ready_while_a_newer_run_is_running(session: SessionCalls) -> None:
    """With current notes: READY, even while a newer run is in flight, which is `latest_run`."""
    session.write_notes("run-1", "old")
    session.begin_run("run-2")
    answer = session.get_notes()
    assert (answer.readiness, answer.notes.summary, answer.run.run_id) == (READINESS_READY, "old", "run-1")
    assert (answer.latest_run.run_id, answer.latest_run.state) == ("run-2", RUN_STATE_RUNNING)


def test_ready_after_a_newer_run_failed(session: SessionCalls) -> None:
    """With current notes: READY, even if a newer run has failed, which is `latest_run`."""
    session.write_notes("run-1", "old")
    session.begin_run("run-2")
    session.fail_run("run-2", reason="no model")
    answer = session.get_notes()
    assert (answer.readiness, answer.run.run_id) == (READINESS_READY, "run-1")
    assert (answer.latest_run.state, answer.latest_run.failure) == (RUN_STATE_FAILED, "no model")


def test_ready_after_a_newer_run_was_abandoned(session: SessionCalls) -> None:
    """With current notes: READY, even if a newer run was abandoned, which is `latest_run`."""
    session.write_notes("run-1", "old")
    session.begin_run("run-2", lease=SHORT)
    eventually(lambda: session.get_notes().latest_run.state == RUN_STATE_ABANDONED)
    assert session.get_notes().readiness == READINESS_READY


def test_expired_once_the_ttl_passed(session: SessionCalls) -> None:
    """EXPIRED once the `ttl` of the current notes has passed; the notes are no longer returned."""
    session.write_notes("run-1", ttl=SHORT)
    eventually(lambda: session.get_notes().readiness == READINESS_EXPIRED)
    answer = session.get_notes()
    assert (answer.ready, answer.fresh) == (False, False)
    for absent in ("notes", "age", "snapshot_age", "write_time", "observed_turn", "turns_behind", "run", "expires_in"):
        assert not answer.HasField(absent), absent
    assert (answer.latest_run.run_id, answer.latest_run.state) == ("run-1", RUN_STATE_WRITTEN)


def test_expired_notes_are_gone_from_the_history_too(session: SessionCalls) -> None:
    """ListRuns does not return notes whose `ttl` has passed either."""
    session.write_notes("run-1", "short-lived", ttl=SHORT)
    eventually(lambda: session.get_notes().readiness == READINESS_EXPIRED)
    (run,) = session.list_runs(include_notes=True).runs
    assert run.state == RUN_STATE_WRITTEN
    assert not run.HasField("notes")


def test_running_wins_over_expired(session: SessionCalls) -> None:
    """With expired notes and a newer run in flight: RUNNING."""
    session.write_notes("run-1", ttl=SHORT)
    session.begin_run("run-2")
    eventually(lambda: not session.get_notes().ready)
    assert session.get_notes().readiness == READINESS_RUNNING


def test_failed_wins_over_expired(session: SessionCalls) -> None:
    """With expired notes and a newer failed run: FAILED."""
    session.write_notes("run-1", ttl=SHORT)
    session.begin_run("run-2")
    session.fail_run("run-2")
    eventually(lambda: not session.get_notes().ready)
    assert session.get_notes().readiness == READINESS_FAILED


def test_abandoned_wins_over_expired(session: SessionCalls) -> None:
    """With expired notes and a newer abandoned run: FAILED."""
    session.write_notes("run-1", ttl=SHORT)
    session.begin_run("run-2", lease=SHORT)
    eventually(lambda: session.get_notes().readiness == READINESS_FAILED)
    assert session.get_notes().latest_run.state == RUN_STATE_ABANDONED


def test_expired_even_with_a_superseded_run(session: SessionCalls) -> None:
    """Superseded notes never become current, even after the newer notes expire: EXPIRED."""
    session.begin_run("old")
    session.write_notes("new", ttl=SHORT)
    assert session.write_notes("old").outcome == WRITE_OUTCOME_SUPERSEDED
    eventually(lambda: session.get_notes().readiness == READINESS_EXPIRED)
    assert session.get_notes().latest_run.run_id == "new"


def test_ready_again_after_expiry(session: SessionCalls) -> None:
    """A new run's notes make it READY again."""
    session.write_notes("run-1", ttl=SHORT)
    eventually(lambda: session.get_notes().readiness == READINESS_EXPIRED)
    session.write_notes("run-2", "again")
    assert session.get_notes().notes.summary == "again"


def test_a_batch_equals_single_calls(session: SessionCalls) -> None:
    """BatchGetNotes returns what GetNotes would for each entry, in the order of the requests, repeats included."""
    other, unknown = SessionCalls(session.channel, new_session_id()), new_session_id()
    session.write_notes("run-1", "one", observed_turn=1)
    other.write_notes("run-2", "two", observer="tone")
    requests = [
        GetNotesRequest(session_id=unknown),
        GetNotesRequest(session_id=other.id, observer="tone"),
        GetNotesRequest(session_id=session.id, current_turn=5, max_turns_behind=3),
        GetNotesRequest(session_id=other.id, observer="tone"),
        GetNotesRequest(session_id=other.id),
    ]
    answers = session.notes.BatchGetNotes(BatchGetNotesRequest(requests=requests), timeout=10).responses
    assert [answer.notes.summary for answer in answers] == ["", "two", "one", "two", ""]
    assert [answer.ready for answer in answers] == [False, True, True, True, False]
    assert [answer.fresh for answer in answers] == [False, True, False, True, False]
    assert answers[2].turns_behind == 4


def test_an_empty_batch_is_empty(session: SessionCalls) -> None:
    """An empty batch returns OK and an empty response."""
    assert len(session.notes.BatchGetNotes(BatchGetNotesRequest(), timeout=10).responses) == 0


def test_a_session_contains_every_observers_readiness(session: SessionCalls) -> None:
    """GetSession contains, for every observer with a run, the response of GetNotes without bounds."""
    session.append_turns(3)
    session.write_notes("run-1", "tone notes", observer="tone", observed_turn=1)
    session.begin_run("run-1", observer="facts")
    session.begin_run("run-1")
    session.fail_run("run-1")
    readings = session.get_session().notes
    assert {observer: answer.readiness for observer, answer in readings.items()} == {
        "tone": READINESS_READY,
        "facts": READINESS_RUNNING,
        "default": READINESS_FAILED,
    }
    assert readings["tone"].notes.summary == "tone notes"
    assert (readings["tone"].turns_behind, readings["tone"].fresh, readings["default"].fresh) == (2, True, False)


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_an_unreachable_store_is_unavailable(how: str, session_id: str) -> None:
    """An unreachable Redis, dead or hanging, is UNAVAILABLE with RetryInfo, never `ready: false`."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        session.write_notes("run-1")
        (store.kill if how == "killed" else store.pause)()
        calls: list[Callable[[], object]] = [session.get_notes, session.get_session, session.list_runs]
        calls += [session.begin_run, session.write_notes, session.update_session, session.append_turns, session.delete]

        def refusal(call: Callable[[], object]) -> Refusal:
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") as error:
                call()
            return error

        with ThreadPoolExecutor(len(calls)) as pool:
            for error in pool.map(refusal, calls):
                assert error.retry_delay_seconds is not None
                assert error.retry_delay_seconds > 0
                assert str(store.port) not in error.text
        store.resume()
