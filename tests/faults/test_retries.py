"""Retries: after a write whose reply was lost, a retry returns the same response and writes nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import grpc
import pytest
from session_notes import Notes, ObserverClient, WriteOutcome
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED, WRITE_OUTCOME_DUPLICATE

from tests.faults.proxy import Proxy
from tests.stores import Store, StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id, refused

LOSSES = ("swallow", "reset")


@dataclass
class Deployment:
    """A sidecar that reaches its store through a proxy, and direct access to the store."""

    proxy: Proxy
    sidecar: Sidecar
    store: Store


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """A deployment for all tests of this module."""
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url, flags=("--store-timeout", "300ms")) as sidecar,
    ):
        store = Store(server.url, sidecar.store.prefix)
        with new_channel(sidecar.target) as channel:
            # Load all scripts, so that the lost reply is that of a write and not a NOSCRIPT.
            session = SessionCalls(channel, new_session_id())
            session.append_turns(1)
            session.begin_run("run-1")
            session.write_notes("run-1")
        yield Deployment(proxy, sidecar, store)
        assert store.without_ttl() == []
        store.close()


@pytest.mark.parametrize("how", LOSSES)
def test_a_retried_write_is_a_duplicate(deployment: Deployment, how: str) -> None:
    """A retry of a WriteNotes whose reply was lost is DUPLICATE, with the same number, time and run."""
    with new_channel(deployment.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        number = session.begin_run("run-1").run.number
        lost = deployment.proxy.lost
        deployment.proxy.lose_reply(b"said once", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.write_notes("run-1", "said once")
        assert deployment.proxy.lost == lost + 1
        written = session.get_notes()
        retried = session.write_notes("run-1", "said once")
        assert retried.outcome == WRITE_OUTCOME_DUPLICATE
        assert (retried.run.number, retried.write_time) == (number, written.write_time)
        assert session.write_notes("run-1", "said once") == retried
        assert [run.number for run in session.list_runs().runs] == [1]


@pytest.mark.parametrize("how", LOSSES)
def test_a_retried_write_without_begin_run_is_a_duplicate(deployment: Deployment, how: str) -> None:
    """A retry of a WriteNotes without BeginRun is DUPLICATE, and its number is issued once."""
    with new_channel(deployment.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        deployment.proxy.lose_reply(b"without a begin", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.write_notes("run-1", "without a begin")
        assert session.write_notes("run-1", "without a begin").outcome == WRITE_OUTCOME_DUPLICATE
        second = session.write_notes("run-2", "more")
        assert (second.outcome, second.run.number) == (WRITE_OUTCOME_ACCEPTED, 2)


@pytest.mark.parametrize("how", LOSSES)
def test_a_retried_begin_run_returns_the_same_run(deployment: Deployment, how: str) -> None:
    """A retry of a BeginRun whose reply was lost returns the same number, time and snapshot despite newer turns."""
    with new_channel(deployment.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.append_turns(2)
        deployment.proxy.lose_reply(b"run-with-a-retry", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.begin_run("run-with-a-retry", include_transcript=True)
        begun = session.list_runs().runs[0]
        session.append_turns(1, expected_turn_count=2)
        retried = session.begin_run("run-with-a-retry", include_transcript=True)
        assert (retried.started, retried.run.number, retried.run.observed_turn) == (True, 1, 2)
        assert retried.run.begin_time == begun.begin_time
        assert len(retried.transcript) == 2


@pytest.mark.parametrize("how", LOSSES)
def test_an_append_with_an_expected_count_is_done_once(deployment: Deployment, how: str) -> None:
    """A retry of an AppendTurns with the same `expected_turn_count` is ABORTED, and each turn is stored once."""
    with new_channel(deployment.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.append_turns(1)
        deployment.proxy.lose_reply(session.id.encode(), how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append_turns(2, expected_turn_count=1)
        with refused(grpc.StatusCode.ABORTED, "TURN_COUNT_MISMATCH") as refusal:
            session.append_turns(2, expected_turn_count=1)
        assert refusal.metadata["actual"] == "3"
        assert session.get_session().turn_count == 3


@pytest.mark.parametrize("how", LOSSES)
def test_an_append_with_an_id_is_done_once(deployment: Deployment, how: str) -> None:
    """A retry of an AppendTurns with an id is a duplicate with the first count, whatever came in between."""
    with new_channel(deployment.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.append_turns(1)
        lost = deployment.proxy.lost
        deployment.proxy.lose_reply(b"append-with-a-retry", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append(2, "append-with-a-retry", expected_turn_count=1)
        assert deployment.proxy.lost == lost + 1
        session.append(1, "another")
        retried = session.append(2, "append-with-a-retry", expected_turn_count=1)
        assert (retried.turn_count, retried.duplicate) == (3, True)
        assert session.get_session().turn_count == 4


@pytest.mark.parametrize("how", LOSSES)
def test_a_late_retry_does_not_undo_a_deletion(deployment: Deployment, how: str) -> None:
    """A retry of an AppendTurns that was stored before a deletion is rejected, and the session stays deleted."""
    with new_channel(deployment.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        deployment.proxy.lose_reply(b"append-before-the-end", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append(1, "append-before-the-end")
        assert session.delete().existed
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
            session.append(1, "append-before-the-end")
        assert not session.get_session().HasField("create_time")


@pytest.mark.parametrize("how", LOSSES)
def test_the_sidecar_never_repeats_a_write(deployment: Deployment, how: str) -> None:
    """The sidecar sends a write without an id once, even if its reply is lost; a retry is up to the caller."""
    with new_channel(deployment.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        deployment.proxy.lose_reply(session.id.encode(), how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append_turns(1)
        assert session.get_session().turn_count == 1


@pytest.mark.parametrize("how", LOSSES)
def test_the_client_retries_lost_replies(deployment: Deployment, how: str, effort: Callable[[int, int], int]) -> None:
    """The Python client itself retries after lost replies, and each run is stored once and in order."""
    session_id, rounds = new_session_id(), effort(2, 100)
    with ObserverClient(deployment.sidecar.target, timeout=timedelta(seconds=10)) as observer:
        for number in range(1, rounds + 1):
            lost = deployment.proxy.lost
            deployment.proxy.lose_reply(b"begins-%d." % number, how)
            begun = observer.begin_run(session_id, run_id=f"begins-{number}.")
            deployment.proxy.lose_reply(b"says %d." % number, how)
            result = observer.write_notes(session_id, Notes(summary=f"says {number}."), run_id=begun.run.run_id)
            assert deployment.proxy.lost == lost + 2
            assert (begun.run.number, result.run.number) == (number, number)
            assert result.outcome is WriteOutcome.DUPLICATE
            with new_channel(deployment.sidecar.target) as channel:
                reading = SessionCalls(channel, session_id).get_notes()
            assert (reading.run.number, reading.write_time.ToDatetime()) == (
                number,
                result.write_time.replace(tzinfo=None),
            )
