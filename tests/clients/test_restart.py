"""What is retried, and that a retry never does a thing twice."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from session_notes import (
    AsyncObserverClient,
    AsyncPrimaryClient,
    DeadlineExceeded,
    Notes,
    ObserverClient,
    Overloaded,
    PrimaryClient,
    RunState,
    SessionNotesError,
    Turn,
    Unavailable,
    WriteOutcome,
)

from tests.clients.conftest import Proxy, Refusing
from tests.support import Sidecar, eventually


@pytest.fixture
def own_sidecar() -> Iterator[Sidecar]:
    """A sidecar that this test may stop."""
    with Sidecar() as sidecar:
        yield sidecar


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads to make calls in meanwhile."""
    with ThreadPoolExecutor(16) as threads:
        yield threads


def test_an_observer_outlives_a_restart(own_sidecar: Sidecar, session_id: str, threads: ThreadPoolExecutor) -> None:
    """Every call of a run that meets a restarting sidecar is made good afterwards: one run, one write."""
    with ObserverClient(own_sidecar.target) as observer, observer.run(session_id) as run:
        own_sidecar.terminate()
        write = threads.submit(run.write, Notes(summary="x"))
        own_sidecar.start()
        assert write.result(30).outcome is WriteOutcome.ACCEPTED
        own_sidecar.terminate()
        listing = threads.submit(lambda: list(observer.list_runs(session_id)))
        own_sidecar.start()
        assert [(one.number, one.state) for one in listing.result(30)] == [(1, RunState.WRITTEN)]


def test_a_primary_is_not_kept_waiting_by_a_restart(own_sidecar: Sidecar, session_id: str) -> None:
    """While the sidecar is away a primary hears so at once; when it is back, so are its notes, within seconds."""
    with PrimaryClient(own_sidecar.target) as primary:
        primary.append_turns(session_id, [Turn("user", "x")])
        own_sidecar.terminate()
        for call in (lambda: primary.get_notes(session_id), lambda: primary.append_turns(session_id, [Turn("", "")])):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                call()
            assert time.monotonic() - started < 1
        own_sidecar.start()
        back = time.monotonic()
        eventually(lambda: primary.get_notes(session_id, unavailable_ok=True).readiness == "never_run", 5)
        assert time.monotonic() - back < 2.5
        assert primary.get_session(session_id).turn_count == 1


LOST: dict[str, Callable[[ObserverClient, str], object]] = {
    "begin": lambda observer, session_id: observer.begin_run(session_id).run.number,
    "write": lambda observer, session_id: observer.write_notes(session_id, Notes(summary="x")).outcome,
}


@pytest.mark.parametrize(("call", "answer"), [("begin", 1), ("write", WriteOutcome.DUPLICATE)])
def test_a_lost_reply_is_made_good(
    observer: ObserverClient,
    proxy: Proxy,
    session_id: str,
    threads: ThreadPoolExecutor,
    call: str,
    answer: object,
) -> None:
    """The sidecar did it and the reply got lost: the client tries again with the same run id, and there is one run."""
    with ObserverClient(proxy.target) as client:
        assert list(client.list_runs(session_id)) == []
        proxy.swallow_replies()
        outcome = threads.submit(LOST[call], client, session_id)
        (run,) = eventually(lambda: list(observer.list_runs(session_id)))
        proxy.reset()
        assert outcome.result(30) == answer
    assert [one.run_id for one in observer.list_runs(session_id)] == [run.run_id]
    assert proxy.connections == 2


UNSAFE: dict[str, Callable[[PrimaryClient, str], object]] = {
    "append": lambda primary, session_id: primary.append_turns(session_id, [Turn("user", "x")]),
    "append, counted": lambda primary, s: primary.append_turns(s, [Turn("user", "x")], expected_turn_count=0),
    "update": lambda primary, session_id: primary.update_session(session_id, {"a": 1}),
    "delete": lambda primary, session_id: primary.delete_session(session_id),
    "get_notes": lambda primary, session_id: primary.get_notes(session_id),
    "batch_get_notes": lambda primary, session_id: primary.batch_get_notes([session_id]),
}


@pytest.mark.parametrize("call", UNSAFE)
def test_what_is_not_safe_or_not_worth_it_is_tried_once(refusing: Refusing, call: str) -> None:
    """A primary's writes could be done twice, or be in conflict with themselves; its notes are wanted now or not."""
    refusing.code = grpc.StatusCode.UNAVAILABLE
    with PrimaryClient(refusing.target) as primary, pytest.raises(Unavailable):
        UNSAFE[call](primary, "s")
    assert len(refusing.requests) == 1


@pytest.mark.parametrize("code", ["INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_what_would_fail_again_is_tried_once(refusing: Refusing, code: str) -> None:
    """Only UNAVAILABLE is worth another try."""
    refusing.code = grpc.StatusCode[code]
    with ObserverClient(refusing.target) as observer, pytest.raises(SessionNotesError):
        observer.begin_run("s")
    assert len(refusing.requests) == 1


def test_retries_stay_within_the_timeout_and_slow_down(refusing: Refusing) -> None:
    """An observer tries again until its timeout, at growing distances, and then says what the last try said."""
    refusing.code, refusing.message = grpc.StatusCode.UNAVAILABLE, "the store is away"
    with ObserverClient(refusing.target, timeout=timedelta(seconds=1)) as observer:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="the store is away"):
            observer.begin_run("s")
        assert time.monotonic() - started < 1.2
    assert 3 <= len(refusing.requests) <= 8
    assert len(set(refusing.requests)) == 1, "every try is the same, run id included"
    with PrimaryClient(refusing.target, state_timeout=timedelta(milliseconds=300)) as primary:
        refusing.requests.clear()
        with pytest.raises(Unavailable):
            primary.get_session("s")
        assert len(refusing.requests) > 1, "a primary's reads of state are worth a second try"


def test_a_last_try_that_takes_too_long_hides_nothing(refusing: Refusing) -> None:
    """Time can run out in the middle of a try: the error says that, and why it was not the first."""
    refusing.code, refusing.message, refusing.answers = grpc.StatusCode.UNAVAILABLE, "the store is away", 1
    with (
        ObserverClient(refusing.target) as observer,
        pytest.raises(DeadlineExceeded, match="before that: the store is away") as ended,
    ):
        observer.begin_run("s", timeout=timedelta(seconds=0.5))
    assert isinstance(ended.value.__cause__, Unavailable)
    assert len(refusing.requests) == 2


def test_the_sidecar_says_when_to_come_back(refusing: Refusing) -> None:
    """RetryInfo is heeded; where it reaches beyond the timeout, the client does not wait for nothing."""
    status = status_pb2.Status()
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=0.4))
    status.details.add().Pack(retry)
    refusing.code, refusing.details = grpc.StatusCode.UNAVAILABLE, status.SerializeToString()
    with ObserverClient(refusing.target) as observer:
        with pytest.raises(Unavailable):
            observer.begin_run("s", timeout=timedelta(seconds=1))
        assert len(refusing.requests) == 3
        started = time.monotonic()
        with pytest.raises(Unavailable):
            observer.begin_run("s", timeout=timedelta(seconds=0.3))
        assert time.monotonic() - started < 0.25


def overloaded() -> bytes:
    """What a sidecar says that has too much to do, as details."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="session-notes"))
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=0.1))
    status.details.add().Pack(retry)
    return bytes(status.SerializeToString())


def test_overload_is_worth_another_try(refusing: Refusing) -> None:
    """RESOURCE_EXHAUSTED for OVERLOADED is tried again where UNAVAILABLE is, and nowhere else; it is an Unavailable."""
    refusing.code, refusing.details = grpc.StatusCode.RESOURCE_EXHAUSTED, overloaded()
    with ObserverClient(refusing.target) as observer, pytest.raises(Overloaded):
        observer.begin_run("s", timeout=timedelta(seconds=1))
    assert 3 <= len(refusing.requests) <= 10
    refusing.requests.clear()
    with PrimaryClient(refusing.target) as primary:
        with pytest.raises(Overloaded):
            primary.get_notes("s", timeout=timedelta(seconds=1))
        assert not primary.get_notes("s", timeout=timedelta(seconds=1), unavailable_ok=True).ready
    assert len(refusing.requests) == 2


async def test_overload_is_worth_another_try_to_asyncio_too(refusing: Refusing) -> None:
    """The same for the asyncio clients."""
    refusing.code, refusing.details = grpc.StatusCode.RESOURCE_EXHAUSTED, overloaded()
    async with AsyncObserverClient(refusing.target) as observer:
        with pytest.raises(Overloaded):
            await observer.begin_run("s", timeout=timedelta(seconds=1))
    assert 3 <= len(refusing.requests) <= 10
    refusing.requests.clear()
    async with AsyncPrimaryClient(refusing.target) as primary:
        with pytest.raises(Overloaded):
            await primary.get_notes("s", timeout=timedelta(seconds=1))
    assert len(refusing.requests) == 1


def test_many_threads_share_a_client(observer: ObserverClient, session_id: str, threads: ThreadPoolExecutor) -> None:
    """One client serves many threads: each write is a run of its own, none gets lost."""
    notes = [Notes(summary=str(number)) for number in range(16)]
    results = list(threads.map(lambda one: observer.write_notes(session_id, one), notes))
    assert sorted(result.run.number for result in results) == list(range(1, 17))
    by_id = {run.run_id: run.notes for run in observer.list_runs(session_id, include_notes=True)}
    assert [by_id[result.run.run_id] for result in results] == notes
