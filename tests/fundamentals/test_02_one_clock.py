"""Rule 2: every time and every age comes from the store's clock."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.stores import Store
from tests.support import SessionCalls, eventually, turns

# Returned by a store whose clock was set back by an hour.
WRITTEN_IN_AN_HOUR = """
local run = cmsgpack.unpack(redis.call('HGET', KEYS[1], ARGV[1]))
run.began, run.ended = run.began + 3600e6, run.ended + 3600e6
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(run))
"""


def during(store: Store, call: Callable[[], Timestamp]) -> int:
    """Return the time from `call`, in milliseconds, after checking that the store's clock puts it within the call."""
    before = store.time_ms()
    moment = call().ToMilliseconds()
    assert before <= moment <= store.time_ms()
    return moment


def test_the_write_time_is_the_stores(session: SessionCalls, store: Store) -> None:
    """`write_time` is the store's TIME at the write, as are GetNotes' `write_time` and the run's `end_time`."""
    during(store, lambda: session.write_notes("run-1").write_time)
    answer = session.get_notes()
    assert answer.write_time == session.write_notes("run-1").write_time
    assert answer.run.end_time == answer.write_time


def test_the_begin_time_is_the_stores(session: SessionCalls, store: Store) -> None:
    """A run's `begin_time` is the store's TIME at BeginRun, and it has no `end_time` yet."""
    during(store, lambda: session.begin_run("run-1").run.begin_time)
    assert not session.begin_run("run-1").run.HasField("end_time")


def test_a_failures_time_is_the_stores(session: SessionCalls, store: Store) -> None:
    """A failed run's `end_time` is the store's TIME at FailRun."""
    session.begin_run("run-1")
    during(store, lambda: session.fail_run("run-1").run.end_time)


def test_an_abandoned_run_ended_with_its_lease(session: SessionCalls) -> None:
    """An abandoned run's `end_time` is when its lease ran out, however late it is read."""
    run = session.begin_run("run-1", lease=timedelta(milliseconds=30)).run
    ended = eventually(lambda: (latest := session.get_notes().latest_run).HasField("end_time") and latest).end_time  # type: ignore[union-attr]
    assert ended.ToMilliseconds() - run.begin_time.ToMilliseconds() == 30


def test_a_sessions_times_are_the_stores(session: SessionCalls, store: Store) -> None:
    """A session's `create_time` and `update_time` are the store's times of its first and last change, by any RPC."""
    created = during(store, lambda: session.update_session(set={"a": 1}).update_time)
    state = session.get_session()
    assert (state.create_time.ToMilliseconds(), state.update_time.ToMilliseconds()) == (created, created)
    for change in [
        lambda: session.append_turns(1),
        lambda: session.begin_run("run-1"),
        lambda: session.write_notes("run-1"),
        lambda: session.begin_run("run-2"),
        lambda: session.renew_run("run-2"),
        lambda: session.fail_run("run-2"),
    ]:

        def changed(change: Callable[[], object] = change) -> Timestamp:
            change()
            return session.get_session().update_time

        during(store, changed)
    assert session.get_session().create_time.ToMilliseconds() == created


def test_age_counts_from_the_write(session: SessionCalls, store: Store) -> None:
    """`age` is the store's TIME at the read minus `write_time`."""
    written = session.write_notes("run-1").write_time.ToMilliseconds()
    eventually(lambda: store.time_ms() > written + 20)
    before = store.time_ms()
    age = session.get_notes().age.ToMilliseconds()
    # Each is rounded down to a millisecond.
    assert before - written - 1 <= age <= store.time_ms() - written
    assert age >= 20


def test_snapshot_age_counts_from_begin_run(session: SessionCalls, store: Store) -> None:
    """`snapshot_age` counts from BeginRun: a slow analysis writes notes that are new, from a snapshot that is not."""
    begun = session.begin_run("run-1").run.begin_time.ToMilliseconds()
    eventually(lambda: store.time_ms() > begun + 50)
    written = session.write_notes("run-1").write_time.ToMilliseconds()
    answer = session.get_notes()
    assert answer.snapshot_age.ToMilliseconds() - answer.age.ToMilliseconds() == pytest.approx(written - begun, abs=1)
    assert answer.snapshot_age.ToTimedelta() > timedelta(milliseconds=50)


def test_a_retry_of_begin_run_keeps_the_snapshot(session: SessionCalls, store: Store) -> None:
    """A retry of BeginRun does not make the snapshot younger."""
    first = session.begin_run("run-1").run
    eventually(lambda: store.time_ms() > first.begin_time.ToMilliseconds() + 20)
    assert session.begin_run("run-1").run.begin_time == first.begin_time


def test_snapshot_age_is_absent_without_begin_run(session: SessionCalls) -> None:
    """Without BeginRun, `snapshot_age` and the run's `begin_time` are absent."""
    session.write_notes("run-1")
    answer = session.get_notes()
    assert answer.HasField("age")
    assert not answer.HasField("snapshot_age")
    assert not answer.run.HasField("begin_time")


def test_both_ages_are_absent_when_not_ready(session: SessionCalls) -> None:
    """Both ages are absent when not ready."""
    session.begin_run("run-1")
    answer = session.get_notes()
    assert not answer.HasField("age")
    assert not answer.HasField("snapshot_age")


def test_an_age_is_never_negative(session: SessionCalls) -> None:
    """An age is never negative, however soon after the write it is read."""
    for number in range(50):
        session.begin_run(f"run-{number}")
        session.write_notes(f"run-{number}")
        answer = session.get_notes()
        assert answer.age.ToNanoseconds() >= 0
        assert answer.snapshot_age.ToNanoseconds() >= answer.age.ToNanoseconds()


def test_a_clock_set_back_makes_ages_zero(session: SessionCalls, store: Store) -> None:
    """If the store's clock is set back, as by a failover to another host, ages are 0 instead of negative."""
    session.begin_run("run-1")
    session.write_notes("run-1")
    store.client.eval(WRITTEN_IN_AN_HOUR, 1, store.key(session.id, "runs"), "r:default 1")
    answer = session.get_notes(max_age=timedelta(0))
    assert answer.ready
    assert answer.age.ToNanoseconds() == 0
    assert answer.snapshot_age.ToNanoseconds() == 0
    assert answer.fresh


def test_the_callers_clock_is_not_used(session: SessionCalls, store: Store) -> None:
    """Times in turns are stored as given; no age and no session time is computed from them."""
    year_one, far_future = Timestamp(seconds=-62135596800), Timestamp(seconds=253402300799, nanos=999_999_999)
    new_turns = turns(2)
    new_turns[0].time.CopyFrom(far_future)
    new_turns[1].time.CopyFrom(year_one)
    session.begin_run("run-1")
    session.append_turns(new_turns)
    session.write_notes("run-1")
    answer, state = session.get_notes(), session.get_session(include_turns=True)
    assert list(state.turns) == new_turns
    assert timedelta() <= answer.age.ToTimedelta() < timedelta(minutes=1)
    assert abs(state.update_time.ToMilliseconds() - store.time_ms()) < 60_000


@pytest.mark.parametrize(
    ("max_age", "fresh"),
    [
        pytest.param(timedelta(hours=1), True, id="younger"),
        pytest.param(timedelta(milliseconds=10), False, id="older"),
        pytest.param(timedelta(0), False, id="no age meets a bound of 0"),
    ],
)
def test_max_age_is_measured_against_the_age(
    session: SessionCalls, store: Store, max_age: timedelta, *, fresh: bool
) -> None:
    """`max_age` bounds `age`, not `snapshot_age`."""
    written = session.write_notes("run-1").write_time.ToMilliseconds()
    eventually(lambda: store.time_ms() > written + 20)
    assert session.get_notes(max_age=max_age).fresh is fresh


def test_max_age_does_not_bound_the_snapshots_age(session: SessionCalls, store: Store) -> None:
    """New notes meet `max_age` even if their snapshot is older."""
    begun = session.begin_run("run-1").run.begin_time.ToMilliseconds()
    eventually(lambda: store.time_ms() > begun + 1500)
    session.write_notes("run-1")
    answer = session.get_notes(max_age=timedelta(milliseconds=1500))
    assert answer.snapshot_age.ToTimedelta() > timedelta(milliseconds=1500)
    assert answer.fresh is True
