"""Rule 13: a lease can be renewed, and the response says whether the run is still worth its cost."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from session_notes.v1.notes_pb2 import (
    RUN_STATE_ABANDONED,
    RUN_STATE_FAILED,
    RUN_STATE_RUNNING,
    RUN_STATE_SUPERSEDED,
    RUN_STATE_WRITTEN,
)
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED, WRITE_OUTCOME_SUPERSEDED

from tests.stores import Store
from tests.support import SessionCalls, eventually, new_session_id, refused, status_of

HOUR, MOMENT = timedelta(hours=1), timedelta(milliseconds=30)
NO_TIME = timedelta(microseconds=1)
"""A lease that has expired before the next call."""

# Returns the stored end of a run's lease.
LEASE = "return string.format('%d', cmsgpack.unpack(redis.call('HGET', KEYS[1], ARGV[1])).lease)"


def lease_end(session: SessionCalls, store: Store, number: int = 1) -> int:
    """Return when the lease of a run ends, in microseconds of the store's clock."""
    return int(store.client.eval(LEASE, 1, store.key(session.id, "runs"), f"r:default {number}"))


@pytest.mark.parametrize(
    ("fields", "lease"),
    [({}, timedelta(minutes=5)), ({"lease": HOUR}, HOUR), ({"lease": timedelta(seconds=1)}, timedelta(seconds=1))],
    ids=["default", "longer", "shorter"],
)
def test_the_new_lease_counts_from_now(
    session: SessionCalls, store: Store, fields: dict[str, Any], lease: timedelta
) -> None:
    """The new lease counts from the call, is 5 minutes by default, and may be shorter than the one before."""
    session.begin_run("run-1", lease=timedelta(minutes=10))
    session.renew_run("run-1", **fields)
    renewed_us = session.get_session().update_time.ToMicroseconds()
    assert lease_end(session, store) - renewed_us == lease // timedelta(microseconds=1)


def test_a_renewed_run_is_not_abandoned(session: SessionCalls) -> None:
    """A run whose lease is renewed in time outlives its first lease."""
    session.begin_run("run-1", lease=timedelta(seconds=1))
    assert session.renew_run("run-1").run.state == RUN_STATE_RUNNING
    session.begin_run("run-2", observer="other", lease=timedelta(seconds=1))
    eventually(lambda: session.get_notes(observer="other").latest_run.state == RUN_STATE_ABANDONED)
    assert session.get_notes().latest_run.state == RUN_STATE_RUNNING


def test_a_renewed_lease_runs_out(session: SessionCalls) -> None:
    """A run is ABANDONED once its new lease has run out."""
    session.begin_run("run-1", lease=HOUR)
    session.renew_run("run-1", lease=MOMENT)
    eventually(lambda: session.get_notes().latest_run.state == RUN_STATE_ABANDONED)
    assert session.begin_run("run-2", only_if_idle=True).started is True


def test_an_abandoned_run_is_in_flight_again(session: SessionCalls) -> None:
    """An abandoned run that nothing has overtaken is in flight again, also for `only_if_idle`, and can write."""
    session.begin_run("run-1", lease=NO_TIME)
    session.begin_run("failed")
    session.fail_run("failed")
    response = session.renew_run("run-1", lease=HOUR)
    assert (response.run.state, response.HasField("obsolete"), response.obsolete) == (RUN_STATE_RUNNING, True, False)
    assert not response.run.HasField("end_time")
    other = session.begin_run("run-2", only_if_idle=True)
    assert (other.started, other.run.run_id) == (False, "run-1")
    assert session.write_notes("run-1").outcome == WRITE_OUTCOME_ACCEPTED
    assert session.begin_run("run-2", only_if_idle=True).started is True


@pytest.mark.parametrize("observed_turn", [4, None], ids=["more turns seen", "a newer run"])
def test_a_run_that_is_overtaken_is_obsolete(session: SessionCalls, observed_turn: int | None) -> None:
    """Once its write would be SUPERSEDED, a run is obsolete. It is renewed all the same, and may go on."""
    newer = [{"run_id": "run-1", "observed_turn": 3}, {"run_id": "run-2"}]
    for fields in newer if observed_turn is None else reversed(newer):
        session.begin_run(**fields, lease=timedelta(seconds=1))  # type: ignore[arg-type]
    assert session.renew_run("run-1").obsolete is False
    session.write_notes("run-2", observed_turn=observed_turn)
    response = session.renew_run("run-1", lease=HOUR)
    assert (response.obsolete, response.run.state) == (True, RUN_STATE_RUNNING)
    assert session.begin_run("run-3", only_if_idle=True).run.run_id == "run-1"
    assert session.write_notes("run-1").outcome == WRITE_OUTCOME_SUPERSEDED


def test_an_abandoned_run_that_is_overtaken_stays_abandoned(session: SessionCalls, store: Store) -> None:
    """The renewal of an abandoned run that is overtaken is OK, says that it is obsolete, and changes nothing."""
    session.begin_run("run-1", lease=NO_TIME)
    session.write_notes("run-2")
    before, expiries = store.dump(session.id), store.expiries_ms(session.id)
    response = session.renew_run("run-1")
    assert (response.obsolete, response.run.state) == (True, RUN_STATE_ABANDONED)
    assert response.run.HasField("end_time")
    assert (store.dump(session.id), store.expiries_ms(session.id)) == (before, expiries)
    assert session.begin_run("run-3", only_if_idle=True).started is True


def test_turns_behind_counts_turns_since_the_snapshot(session: SessionCalls) -> None:
    """`turns_behind` is the number of turns appended since BeginRun, whatever `observed_turn` says."""
    session.begin_run("early")
    session.append_turns(3)
    session.begin_run("run-1", observed_turn=1)
    response = session.renew_run("run-1")
    assert (response.HasField("turns_behind"), response.turns_behind) == (True, 0)
    session.append_turns(2)
    assert session.renew_run("run-1").turns_behind == 2
    assert session.renew_run("early").turns_behind == 5


def test_only_the_lease_changes(session: SessionCalls) -> None:
    """RenewRun changes the lease and the session's expiry, and nothing else. Repeating it is harmless."""
    session.append_turns(2)
    session.write_notes("noted")
    run = session.begin_run("run-1", include_transcript=True, after_turn=1).run
    before, runs = session.get_session(include_turns=True), session.list_runs(include_notes=True)
    for _ in range(3):
        assert session.renew_run("run-1").run == run
    after = session.get_session(include_turns=True)
    assert session.list_runs(include_notes=True) == runs
    again = session.begin_run("run-1", include_transcript=True)
    assert (again.run, again.first_turn, len(again.transcript)) == (run, 2, 1)
    for state in (before, after):
        state.ClearField("update_time")
        state.ClearField("expires_in")
        for clock in ("age", "expires_in"):
            state.notes["default"].ClearField(clock)
    assert after == before


def test_a_run_that_has_ended_is_not_renewed(session: SessionCalls, store: Store) -> None:
    """A run that has written or failed, or that never was, is refused like FailRun's, and nothing changes."""
    for run_id in ("written", "superseded", "failed"):
        session.begin_run(run_id)
    session.write_notes("written-without-begin")
    session.write_notes("written")
    session.fail_run("failed")
    before, expiries = store.dump(session.id), store.expiries_ms(session.id)
    for run_id in ("written", "written-without-begin"):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_WRITTEN"):
            session.renew_run(run_id)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_FAILED"):
        session.renew_run("failed")
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.renew_run("unknown")
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.renew_run("superseded", observer="other")
    assert (store.dump(session.id), store.expiries_ms(session.id)) == (before, expiries)


def test_an_unknown_session_is_not_created(session: SessionCalls, store: Store) -> None:
    """RenewRun of a run of an unknown session is NOT_FOUND, and creates nothing."""
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.renew_run("run-1")
    assert store.keys(session.id) == []


def test_a_renewed_run_counts_among_a_hundred_in_flight(session: SessionCalls) -> None:
    """A renewed run is one of the 100 in flight: if it was not, the oldest counts as abandoned in its place."""
    for number in range(1, 102):
        session.begin_run(f"run-{number}", lease=HOUR)
    session.renew_run("run-101", lease=HOUR)
    states = [session.begin_run(f"run-{number}").run.state for number in (1, 2, 3)]
    assert states == [RUN_STATE_ABANDONED, RUN_STATE_RUNNING, RUN_STATE_RUNNING]
    assert session.renew_run("run-1", lease=HOUR).run.state == RUN_STATE_RUNNING
    states = [session.begin_run(f"run-{number}").run.state for number in (1, 2, 3)]
    assert states == [RUN_STATE_RUNNING, RUN_STATE_ABANDONED, RUN_STATE_RUNNING]


def test_a_late_run_can_be_renewed(session: SessionCalls) -> None:
    """An abandoned run that a thousand runs have passed, none of which wrote, can be renewed and can write."""
    session.begin_run("slow", lease=HOUR)

    def fail(number: int) -> None:
        session.begin_run(f"run-{number}")
        session.fail_run(f"run-{number}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fail, range(1003)))
    session.renew_run("slow", lease=NO_TIME)
    fail(1004)
    assert session.renew_run("slow", lease=HOUR).run.state == RUN_STATE_RUNNING
    assert session.begin_run("next", only_if_idle=True).run.run_id == "slow"
    response = session.write_notes("slow")
    assert (response.outcome, response.run.number) == (WRITE_OUTCOME_ACCEPTED, 1)


@dataclass
class ExpectedRun:
    """A run in the model. It is in flight while it is RUNNING and its lease has not expired."""

    number: int
    observed_turn: int | None
    state: int
    leased: bool


NAMES = strategies.sampled_from("abcde")
LEASED = strategies.booleans()
OBSERVED = strategies.none() | strategies.integers(0, 3)
OPERATIONS = strategies.one_of(
    strategies.tuples(strategies.just("begin"), NAMES, LEASED, OBSERVED),
    strategies.tuples(strategies.just("begin_if_idle"), NAMES, LEASED, OBSERVED),
    strategies.tuples(strategies.just("renew"), NAMES, LEASED, OBSERVED),
    strategies.tuples(strategies.just("renew"), NAMES, LEASED, OBSERVED),
    strategies.tuples(strategies.sampled_from(["write", "fail"]), NAMES, LEASED, OBSERVED),
)


@given(operations=strategies.lists(OPERATIONS, min_size=6, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_any_sequence_of_calls_renews_what_a_model_renews(
    channel: grpc.Channel, operations: Sequence[tuple[str, str, bool, int | None]]
) -> None:
    """In any order of calls, a renewal is refused, obsolete or in flight as in a model, and predicts the write."""
    session = SessionCalls(channel, new_session_id())
    runs = dict[str, ExpectedRun]()
    current: ExpectedRun | None = None

    def overtaken(run: ExpectedRun) -> bool:
        if current is None or run.number > current.number:
            seen = (run.observed_turn, current.observed_turn if current else None)
            return seen[0] is not None and seen[1] is not None and seen[0] < seen[1]
        return True

    for operation, name, leased, observed_turn in operations:
        run, lease = runs.get(name), HOUR if leased else NO_TIME
        in_flight = {key for key, other in runs.items() if other.state == RUN_STATE_RUNNING and other.leased}
        if operation.startswith("begin"):
            idle = operation == "begin_if_idle"
            begun = session.begin_run(name, observed_turn=observed_turn, lease=lease, only_if_idle=idle)
            assert begun.started is (run is not None or not idle or not in_flight)
            if not begun.started:
                assert begun.run.run_id in in_flight
            elif run is None:
                runs[name] = ExpectedRun(len(runs) + 1, observed_turn, RUN_STATE_RUNNING, leased)
        elif operation == "renew":
            status = status_of(lambda: session.renew_run(name, lease=HOUR))  # noqa: B023
            if run is None:
                assert status == grpc.StatusCode.NOT_FOUND
            elif run.state != RUN_STATE_RUNNING:
                assert status == grpc.StatusCode.FAILED_PRECONDITION
            else:
                assert status == grpc.StatusCode.OK
                run.leased = run.leased or not overtaken(run)
                renewed = session.renew_run(name, lease=lease)
                assert renewed.obsolete is overtaken(run)
                assert renewed.run.state == (RUN_STATE_RUNNING if run.leased else RUN_STATE_ABANDONED)
                run.leased = run.leased and leased
        elif run is not None and run.state == RUN_STATE_RUNNING:
            if operation == "fail":
                session.fail_run(name)
                run.state = RUN_STATE_FAILED
            else:
                superseded = overtaken(run)
                outcome = session.write_notes(name).outcome
                assert outcome == (WRITE_OUTCOME_SUPERSEDED if superseded else WRITE_OUTCOME_ACCEPTED)
                run.state = RUN_STATE_SUPERSEDED if superseded else RUN_STATE_WRITTEN
                current = current if superseded else run
    listed = {run.run_id: run.state for run in session.list_runs().runs}
    assert listed == {
        name: run.state if run.state != RUN_STATE_RUNNING or run.leased else RUN_STATE_ABANDONED
        for name, run in runs.items()
    }
    session.delete()
