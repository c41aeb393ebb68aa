"""Retries across a restart of the sidecar: which calls are retried, and that a retry never takes effect twice."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from google.protobuf.message import Message
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

from tests.peers import Proxy, RejectingServer
from tests.support import Sidecar, eventually


@pytest.fixture
def own_sidecar() -> Iterator[Sidecar]:
    """A sidecar that this test may stop."""
    with Sidecar() as sidecar:
        yield sidecar


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for concurrent calls."""
    with ThreadPoolExecutor(16) as threads:
        yield threads


def test_an_observer_survives_a_restart(own_sidecar: Sidecar, session_id: str, threads: ThreadPoolExecutor) -> None:
    """Every call of a run that meets a restarting sidecar is retried: one run, one write."""
    with ObserverClient(own_sidecar.target) as observer, observer.run(session_id) as run:
        own_sidecar.terminate()
        write = threads.submit(run.write, Notes(summary="x"))
        own_sidecar.start()
        assert write.result(30).outcome is WriteOutcome.ACCEPTED
        own_sidecar.terminate()
        listing = threads.submit(lambda: list(observer.list_runs(session_id)))
        own_sidecar.start()
        assert [(run.number, run.state) for run in listing.result(30)] == [(1, RunState.WRITTEN)]


def test_a_primary_does_not_wait_for_a_restart(own_sidecar: Sidecar, session_id: str) -> None:
    """During an outage, a primary fails immediately. When the sidecar is back, it reads notes within seconds."""
    with PrimaryClient(own_sidecar.target) as primary:
        primary.append_turns(session_id, [Turn("user", "x")])
        own_sidecar.terminate()
        for call in (lambda: primary.get_notes(session_id), lambda: primary.update_session(session_id, {"a": 1})):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                call()
            assert time.monotonic() - started < 1
        own_sidecar.start()
        back = time.monotonic()
        eventually(lambda: primary.get_notes(session_id, unavailable_ok=True).readiness == "never_run", 5)
        assert time.monotonic() - back < 2.5
        assert primary.get_session(session_id).turn_count == 1


async def test_a_connection_that_the_network_loses_is_replaced(proxy: Proxy, session_id: str) -> None:
    """If a host or a firewall forgets a connection, which closes nothing, clients notice it by their pings."""
    with PrimaryClient(proxy.target) as primary:
        async with AsyncPrimaryClient(proxy.target) as asynchronous:
            assert primary.get_notes(session_id) == await asynchronous.get_notes(session_id)
            proxy.lose_connections()

            async def answers() -> None:
                while (await asynchronous.get_notes(session_id, unavailable_ok=True)).readiness == "unavailable":
                    pass

            def is_answered() -> bool:
                return primary.get_notes(session_id, unavailable_ok=True).readiness != "unavailable"

            async with asyncio.timeout(90):
                await asyncio.gather(answers(), asyncio.to_thread(eventually, is_answered, 90))


LOST: dict[str, Callable[[ObserverClient, str], object]] = {
    "begin": lambda observer, session_id: observer.begin_run(session_id).run.number,
    "write": lambda observer, session_id: observer.write_notes(session_id, Notes(summary="x")).outcome,
}


@pytest.mark.parametrize(("call", "answer"), [("begin", 1), ("write", WriteOutcome.DUPLICATE)])
def test_a_call_with_a_lost_reply_is_retried(
    observer: ObserverClient,
    proxy: Proxy,
    session_id: str,
    threads: ThreadPoolExecutor,
    call: str,
    answer: object,
) -> None:
    """If a reply is lost, the client retries with the same run id, and there is one run."""
    with ObserverClient(proxy.target) as client:
        assert list(client.list_runs(session_id)) == []
        proxy.drop_replies()
        outcome = threads.submit(LOST[call], client, session_id)
        (run,) = eventually(lambda: list(observer.list_runs(session_id)))
        proxy.reset()
        assert outcome.result(30) == answer
    assert [listed.run_id for listed in observer.list_runs(session_id)] == [run.run_id]
    assert proxy.connections == 2


UNSAFE: dict[str, Callable[[PrimaryClient, str], object]] = {
    "append": lambda primary, session_id: primary.append_turns(session_id, [Turn("user", "x")]),
    "update": lambda primary, session_id: primary.update_session(session_id, {"a": 1}),
    "delete": lambda primary, session_id: primary.delete_session(session_id),
    "get_notes": lambda primary, session_id: primary.get_notes(session_id),
    "batch_get_notes": lambda primary, session_id: primary.batch_get_notes([session_id]),
}


@pytest.mark.parametrize("call", UNSAFE)
def test_a_primary_does_not_retry_writes_or_readings(rejecting: RejectingServer, call: str) -> None:
    """A primary's writes are not retried, because they could take effect twice, nor are its reads of notes."""
    rejecting.code = grpc.StatusCode.UNAVAILABLE
    with PrimaryClient(rejecting.target) as primary, pytest.raises(Unavailable):
        UNSAFE[call](primary, "s")
    assert len(rejecting.requests) == 1


@pytest.mark.parametrize("code", ["INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_errors_that_would_recur_are_not_retried(rejecting: RejectingServer, code: str) -> None:
    """Only UNAVAILABLE is retried."""
    rejecting.code = grpc.StatusCode[code]
    with ObserverClient(rejecting.target) as observer, pytest.raises(SessionNotesError):
        observer.begin_run("s")
    assert len(rejecting.requests) == 1


def test_retries_stay_within_the_timeout_and_slow_down(rejecting: RejectingServer) -> None:
    """An observer retries until its timeout, with growing pauses, and then raises the last error."""
    rejecting.code, rejecting.message = grpc.StatusCode.UNAVAILABLE, "the store is away"
    with ObserverClient(rejecting.target, timeout=timedelta(seconds=1)) as observer:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="the store is away"):
            observer.begin_run("s")
        assert time.monotonic() - started < 1.2
    assert 3 <= len(rejecting.requests) <= 8
    assert len(set(rejecting.requests)) == 1, "every attempt sends the same request, run id included"
    with PrimaryClient(rejecting.target, state_timeout=timedelta(milliseconds=300)) as primary:
        rejecting.requests.clear()
        with pytest.raises(Unavailable):
            primary.get_session("s")
        assert len(rejecting.requests) > 1, "a primary's reads of state are retried"


def test_a_timeout_during_an_attempt_reports_the_previous_error(rejecting: RejectingServer) -> None:
    """If the timeout ends during an attempt, the error reports that and the error of the previous attempt."""
    rejecting.code, rejecting.message, rejecting.answers = grpc.StatusCode.UNAVAILABLE, "the store is away", 1
    with (
        ObserverClient(rejecting.target) as observer,
        pytest.raises(DeadlineExceeded, match="before that: the store is away") as ended,
    ):
        observer.begin_run("s", timeout=timedelta(seconds=0.5))
    assert isinstance(ended.value.__cause__, Unavailable)
    assert len(rejecting.requests) == 2


def test_retry_info_is_respected(rejecting: RejectingServer) -> None:
    """RetryInfo is respected. If it exceeds the timeout, the client does not wait."""
    rejecting.code, rejecting.details = grpc.StatusCode.UNAVAILABLE, retry_after(0.4)
    with ObserverClient(rejecting.target) as observer:
        with pytest.raises(Unavailable):
            observer.begin_run("s", timeout=timedelta(seconds=1))
        assert 2 <= len(rejecting.requests) <= 3
        rejecting.details = retry_after(30)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            observer.begin_run("s", timeout=timedelta(seconds=20))
        assert time.monotonic() - started < 10


def retry_after(seconds: float, *details: Message) -> bytes:
    """Return error details with RetryInfo."""
    status = status_pb2.Status()
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=seconds))
    for detail in (*details, retry):
        status.details.add().Pack(detail)
    return bytes(status.SerializeToString())


def overloaded() -> bytes:
    """Return the error details of an overloaded sidecar."""
    return retry_after(0.1, error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="session-notes"))


def test_overload_is_retried(rejecting: RejectingServer) -> None:
    """RESOURCE_EXHAUSTED with OVERLOADED is retried like UNAVAILABLE, and raises a subclass of Unavailable."""
    rejecting.code, rejecting.details = grpc.StatusCode.RESOURCE_EXHAUSTED, overloaded()
    # The timeout may end during an attempt, or in the pause after one.
    with ObserverClient(rejecting.target) as observer, pytest.raises((Overloaded, DeadlineExceeded)):
        observer.begin_run("s", timeout=timedelta(seconds=1))
    assert 3 <= len(rejecting.requests) <= 10
    rejecting.requests.clear()
    with PrimaryClient(rejecting.target) as primary:
        with pytest.raises(Overloaded):
            primary.get_notes("s", timeout=timedelta(seconds=1))
        assert not primary.get_notes("s", timeout=timedelta(seconds=1), unavailable_ok=True).ready
    assert len(rejecting.requests) == 2


async def test_overload_is_retried_in_asyncio(rejecting: RejectingServer) -> None:
    """The asyncio clients retry after an overload as well."""
    rejecting.code, rejecting.details = grpc.StatusCode.RESOURCE_EXHAUSTED, overloaded()
    async with AsyncObserverClient(rejecting.target) as observer:
        with pytest.raises((Overloaded, DeadlineExceeded)):
            await observer.begin_run("s", timeout=timedelta(seconds=1))
    assert 3 <= len(rejecting.requests) <= 10
    rejecting.requests.clear()
    async with AsyncPrimaryClient(rejecting.target) as primary:
        with pytest.raises(Overloaded):
            await primary.get_notes("s", timeout=timedelta(seconds=1))
    assert len(rejecting.requests) == 1


def test_many_threads_share_a_client(observer: ObserverClient, session_id: str, threads: ThreadPoolExecutor) -> None:
    """One client serves many threads. Each write is a separate run, and none is lost."""
    notes = [Notes(summary=str(number)) for number in range(16)]
    results = list(threads.map(lambda document: observer.write_notes(session_id, document), notes))
    assert sorted(result.run.number for result in results) == list(range(1, 17))
    by_id = {run.run_id: run.notes for run in observer.list_runs(session_id, include_notes=True)}
    assert [by_id[result.run.run_id] for result in results] == notes
