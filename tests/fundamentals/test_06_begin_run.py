"""Rule 6: BeginRun issues a number and takes the snapshot."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from session_notes.v1.notes_pb2 import RUN_STATE_ABANDONED, RUN_STATE_FAILED, RUN_STATE_RUNNING, RUN_STATE_WRITTEN
from session_notes.v1.session_notes_pb2 import READINESS_FAILED, WRITE_OUTCOME_ACCEPTED, WRITE_OUTCOME_SUPERSEDED

from tests.stores import Store
from tests.support import SessionCalls, eventually, turns

SHORT = timedelta(milliseconds=30)

# Returns the stored end of a run's lease.
LEASE = "return string.format('%d', cmsgpack.unpack(redis.call('HGET', KEYS[1], ARGV[1])).lease)"


def abandoned(session: SessionCalls, run_id: str) -> None:
    """Begin a run and let its lease run out."""
    session.begin_run(run_id, lease=SHORT)
    eventually(lambda: session.get_notes().latest_run.state == RUN_STATE_ABANDONED)


def test_a_run_begins(session: SessionCalls) -> None:
    """BeginRun issues the numbers 1, 2, … and returns the run, RUNNING and started."""
    for number in (1, 2, 3):
        answer = session.begin_run(f"run-{number}", observer="tone")
        assert answer.started is True
        run = answer.run
        assert (run.run_id, run.number, run.observer, run.state) == (f"run-{number}", number, "tone", RUN_STATE_RUNNING)
        assert (run.failure, run.HasField("notes")) == ("", False)


def test_a_repeated_begin_run_returns_the_same_run(session: SessionCalls, store: Store) -> None:
    """A repeated BeginRun returns the same run and changes nothing, so a retry is safe."""
    first = session.begin_run("run-1", observed_turn=4)
    before = store.dump(session.id)
    again = session.begin_run("run-1", observed_turn=9, lease=timedelta(hours=1))
    assert (again.started, again.run) == (True, first.run)
    assert store.dump(session.id) == before


def test_a_repeated_begin_run_returns_the_current_state(session: SessionCalls) -> None:
    """BeginRun of a run that has ended returns it, written or failed."""
    session.begin_run("run-1")
    session.write_notes("run-1")
    session.begin_run("run-2")
    session.fail_run("run-2", reason="why")
    session.write_notes("run-3")
    assert session.begin_run("run-1").run.state == RUN_STATE_WRITTEN
    failed = session.begin_run("run-2").run
    assert (failed.state, failed.failure) == (RUN_STATE_FAILED, "why")
    assert session.begin_run("run-3").run.number == 3
    assert session.get_notes().latest_run.number == 3


def test_concurrent_begin_runs_begin_one_run(session: SessionCalls) -> None:
    """Concurrent BeginRuns with one `run_id` begin one run."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: session.begin_run("run-1"), range(64)))
    assert {(answer.started, answer.run.number) for answer in answers} == {(True, 1)}
    assert len(session.list_runs().runs) == 1


def test_the_transcript_is_returned_on_request(session: SessionCalls) -> None:
    """BeginRun returns the transcript, oldest turn first, only on request."""
    session.append_turns(turns(3))
    assert list(session.begin_run("run-1", include_transcript=True).transcript) == turns(3)
    assert list(session.begin_run("run-2").transcript) == []


def test_a_retry_gets_the_same_transcript(session: SessionCalls) -> None:
    """A retry of BeginRun returns the transcript of the first call's snapshot, without later turns."""
    session.append_turns(turns(3))
    first = session.begin_run("run-1", include_transcript=True)
    session.append_turns(turns(2, start=4))
    again = session.begin_run("run-1", include_transcript=True)
    assert (list(again.transcript), again.run) == (turns(3), first.run)
    assert session.get_session().turn_count == 5


def test_a_retry_of_an_empty_snapshot_returns_no_turns(session: SessionCalls) -> None:
    """A retry returns the first snapshot even if it was taken before the first turn."""
    session.begin_run("run-1", include_transcript=True)
    session.append_turns(2)
    assert list(session.begin_run("run-1", include_transcript=True).transcript) == []


def test_the_transcript_ignores_the_callers_count(session: SessionCalls) -> None:
    """The transcript is the stored one, whatever `observed_turn` the request has."""
    session.append_turns(turns(3))
    answer = session.begin_run("run-1", observed_turn=1, include_transcript=True)
    assert (list(answer.transcript), answer.run.observed_turn) == (turns(3), 1)
    session.append_turns(1)
    assert list(session.begin_run("run-1", include_transcript=True).transcript) == turns(3)


def test_observed_turn_defaults_to_the_transcript(session: SessionCalls) -> None:
    """An absent `observed_turn` defaults to the length of the stored transcript."""
    session.append_turns(4)
    assert session.begin_run("run-1").run.observed_turn == 4
    session.append_turns(1)
    session.write_notes("run-1")
    answer = session.get_notes()
    assert (answer.observed_turn, answer.turns_behind) == (4, 1)


def test_observed_turn_is_absent_without_a_transcript(session: SessionCalls) -> None:
    """Without a transcript, an absent `observed_turn` stays absent instead of 0."""
    session.update_session(set={"a": 1})
    assert not session.begin_run("run-1").run.HasField("observed_turn")


def test_observed_turn_as_given(session: SessionCalls) -> None:
    """The request's `observed_turn`, 0 included, takes precedence over the transcript's length."""
    session.append_turns(4)
    assert session.begin_run("run-1", observed_turn=9).run.observed_turn == 9
    run = session.begin_run("run-2", observed_turn=0).run
    assert (run.HasField("observed_turn"), run.observed_turn) == (True, 0)
    assert session.begin_run("run-3", observed_turn=2**53 - 1).run.observed_turn == 2**53 - 1


def test_only_if_idle_with_another_run_in_flight(session: SessionCalls, store: Store) -> None:
    """`only_if_idle` with another run in flight returns `started: false` and that run, and changes nothing."""
    session.append_turns(2)
    running = session.begin_run("run-1").run
    before = store.dump(session.id)
    answer = session.begin_run("run-2", only_if_idle=True, include_transcript=True)
    assert answer.HasField("started")
    assert (answer.started, answer.run, list(answer.transcript)) == (False, running, [])
    assert store.dump(session.id) == before
    assert session.begin_run("run-3").run.number == 2


def test_only_if_idle_finds_an_older_run_in_flight(session: SessionCalls) -> None:
    """`only_if_idle` considers every run in flight, not just the latest."""
    session.begin_run("run-1")
    session.write_notes("run-2")
    answer = session.begin_run("run-3", only_if_idle=True)
    assert (answer.started, answer.run.run_id) == (False, "run-1")


def test_only_if_idle_when_idle(session: SessionCalls) -> None:
    """`only_if_idle` begins the run if every earlier run has ended: written, failed or superseded."""
    assert session.begin_run("run-1", only_if_idle=True).started is True
    session.write_notes("run-1")
    assert session.begin_run("run-2", only_if_idle=True).started is True
    session.fail_run("run-2")
    assert session.begin_run("run-3", only_if_idle=True).started is True
    session.write_notes("run-4")
    session.write_notes("run-3")
    assert session.begin_run("run-5", only_if_idle=True).run.number == 5


def test_only_if_idle_ignores_an_abandoned_run(session: SessionCalls) -> None:
    """A run whose lease ran out is not in flight."""
    abandoned(session, "run-1")
    assert session.begin_run("run-2", only_if_idle=True).started is True


def test_only_if_idle_finds_its_own_run(session: SessionCalls) -> None:
    """A retry with `only_if_idle` returns the run of the first attempt, with `started: true`."""
    session.begin_run("run-1", only_if_idle=True)
    answer = session.begin_run("run-1", only_if_idle=True)
    assert (answer.started, answer.run.number) == (True, 1)


def test_only_if_idle_is_per_observer(session: SessionCalls) -> None:
    """`only_if_idle` ignores runs of other observers."""
    session.begin_run("run-1", observer="tone")
    assert session.begin_run("run-1", observer="facts", only_if_idle=True).started is True


def test_only_if_idle_begins_one_of_many_runs(session: SessionCalls) -> None:
    """Of many concurrent calls with `only_if_idle`, exactly one begins, and the others get its run."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: session.begin_run(f"run-{n}", only_if_idle=True), range(32)))
    assert [answer.started for answer in answers].count(True) == 1
    assert len({answer.run.run_id for answer in answers}) == 1


def test_a_lease_that_runs_out_abandons_the_run(session: SessionCalls) -> None:
    """Once its lease has run out, a run is ABANDONED in every read."""
    abandoned(session, "run-1")
    assert session.list_runs().runs[0].state == RUN_STATE_ABANDONED
    assert session.get_session().notes["default"].latest_run.state == RUN_STATE_ABANDONED
    assert session.begin_run("run-1").run.state == RUN_STATE_ABANDONED


def test_the_default_lease_is_five_minutes(session: SessionCalls, store: Store) -> None:
    """A run begun without a lease is ABANDONED exactly 5 minutes later."""
    began = session.begin_run("run-1").run.begin_time
    lease_us = store.client.eval(LEASE, 1, store.key(session.id, "runs"), "r:default 1")
    assert int(lease_us) - began.ToMicroseconds() == 300_000_000


def test_the_default_lease_does_not_run_out_at_once(session: SessionCalls) -> None:
    """With the default lease, a run is still RUNNING after a moment."""
    session.begin_run("run-1")
    abandoned(session, "run-2")
    assert {run.run_id: run.state for run in session.list_runs().runs}["run-1"] == RUN_STATE_RUNNING


def test_an_abandoned_runs_late_write_counts(session: SessionCalls) -> None:
    """A write of an abandoned run is ACCEPTED if no newer run has written."""
    abandoned(session, "run-1")
    answer = session.write_notes("run-1", "late")
    assert (answer.outcome, answer.run.state, answer.run.number) == (WRITE_OUTCOME_ACCEPTED, RUN_STATE_WRITTEN, 1)
    assert session.get_notes().notes.summary == "late"


def test_an_abandoned_runs_late_write_can_be_superseded(session: SessionCalls) -> None:
    """A write of an abandoned run is SUPERSEDED if a newer run has written."""
    abandoned(session, "run-1")
    session.write_notes("run-2", "newer")
    assert session.write_notes("run-1", "late").outcome == WRITE_OUTCOME_SUPERSEDED
    assert session.get_notes().notes.summary == "newer"


def test_an_abandoned_run_may_still_fail(session: SessionCalls) -> None:
    """FailRun of an abandoned run records the reason."""
    abandoned(session, "run-1")
    assert session.fail_run("run-1", reason="late").run.state == RUN_STATE_FAILED
    answer = session.get_notes()
    assert (answer.readiness, answer.latest_run.failure) == (READINESS_FAILED, "late")


@pytest.mark.parametrize("lease", [timedelta(microseconds=1), timedelta(days=365 * 99)])
def test_any_lease_above_zero(session: SessionCalls, lease: timedelta) -> None:
    """Any lease above 0 and up to 100 years is valid."""
    assert session.begin_run("run-1", lease=lease).started is True


def test_a_hundred_runs_can_be_in_flight_at_most(session: SessionCalls) -> None:
    """Beyond 100 runs in flight the oldest count as abandoned, so that runs that never end do not slow reads."""
    for number in range(1, 103):
        session.begin_run(f"run-{number}", lease=timedelta(hours=1))
    second, third = (session.begin_run(f"run-{number}").run for number in (2, 3))
    assert (second.state, third.state) == (RUN_STATE_ABANDONED, RUN_STATE_RUNNING)
    assert session.write_notes("run-2").outcome == WRITE_OUTCOME_ACCEPTED


def test_begin_run_creates_the_session(session: SessionCalls) -> None:
    """BeginRun creates the session, at version 0."""
    session.begin_run("run-1")
    state = session.get_session()
    assert state.HasField("create_time")
    assert state.version == 0
