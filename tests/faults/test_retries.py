"""A retry is safe: the write is done, its reply is lost, and asking again gives the same answer, not a second write."""

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
class Setup:
    """A sidecar that reaches its store through a proxy, and a look past both."""

    proxy: Proxy
    sidecar: Sidecar
    store: Store


@pytest.fixture(scope="module")
def behind() -> Iterator[Setup]:
    """One for all tests here."""
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url, flags=("--store-timeout", "300ms")) as sidecar,
    ):
        store = Store(server.url, sidecar.store.prefix)
        with new_channel(sidecar.target) as channel:
            # The store knows all scripts from here on: the reply that is lost is to be that of a write, not NOSCRIPT.
            session = SessionCalls(channel, new_session_id())
            session.append_turns(1)
            session.begin_run("run-1")
            session.write_notes("run-1")
        yield Setup(proxy, sidecar, store)
        assert store.without_ttl() == []
        store.close()


@pytest.mark.parametrize("how", LOSSES)
def test_a_retry_of_a_lost_write_is_the_same_write(behind: Setup, how: str) -> None:
    """WriteNotes done, reply lost: UNAVAILABLE; the same call again: DUPLICATE, same number, same time, one run."""
    with new_channel(behind.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        number = session.begin_run("run-1").run.number
        lost = behind.proxy.lost
        behind.proxy.lose_reply(b"said once", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.write_notes("run-1", "said once")
        assert behind.proxy.lost == lost + 1
        written = session.get_notes()
        again = session.write_notes("run-1", "said once")
        assert again.outcome == WRITE_OUTCOME_DUPLICATE
        assert (again.run.number, again.write_time) == (number, written.write_time)
        assert session.write_notes("run-1", "said once") == again
        assert [run.number for run in session.list_runs().runs] == [1]


@pytest.mark.parametrize("how", LOSSES)
def test_a_retry_of_a_write_nobody_began(behind: Setup, how: str) -> None:
    """As above, without BeginRun: the number is issued once."""
    with new_channel(behind.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        behind.proxy.lose_reply(b"out of the blue", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.write_notes("run-1", "out of the blue")
        assert session.write_notes("run-1", "out of the blue").outcome == WRITE_OUTCOME_DUPLICATE
        second = session.write_notes("run-2", "more")
        assert (second.outcome, second.run.number) == (WRITE_OUTCOME_ACCEPTED, 2)


@pytest.mark.parametrize("how", LOSSES)
def test_a_retry_of_a_lost_beginning_is_the_same_run(behind: Setup, how: str) -> None:
    """BeginRun done, reply lost, asked again: the same number, time and snapshot, though turns came meanwhile."""
    with new_channel(behind.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.append_turns(2)
        behind.proxy.lose_reply(b"run-of-its-own", how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.begin_run("run-of-its-own", include_transcript=True)
        begun = session.list_runs().runs[0]
        session.append_turns(1, expected_turn_count=2)
        again = session.begin_run("run-of-its-own", include_transcript=True)
        assert (again.started, again.run.number, again.run.observed_turn) == (True, 1, 2)
        assert again.run.begin_time == begun.begin_time
        assert len(again.transcript) == 2


@pytest.mark.parametrize("how", LOSSES)
def test_an_append_that_says_what_it_expects_is_done_once(behind: Setup, how: str) -> None:
    """AppendTurns done, reply lost, asked again with the same `expected_turn_count`: ABORTED, each turn there once."""
    with new_channel(behind.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.append_turns(1)
        behind.proxy.lose_reply(session.id.encode(), how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append_turns(2, expected_turn_count=1)
        with refused(grpc.StatusCode.ABORTED, "TURN_COUNT_MISMATCH") as refusal:
            session.append_turns(2, expected_turn_count=1)
        assert refusal.metadata["actual"] == "3"
        assert session.get_session().turn_count == 3


@pytest.mark.parametrize("how", LOSSES)
def test_the_sidecar_itself_never_repeats_a_write(behind: Setup, how: str) -> None:
    """A write without any mark of its own, reply lost: the sidecar sends it once; who asks again is the caller."""
    with new_channel(behind.sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        behind.proxy.lose_reply(session.id.encode(), how)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append_turns(1)
        assert session.get_session().turn_count == 1


@pytest.mark.parametrize("how", LOSSES)
def test_the_client_tries_again_and_nobody_notices(behind: Setup, how: str, effort: Callable[[int, int], int]) -> None:
    """The Python client over lost replies, round after round: it tries again by itself; each run once, in order."""
    session_id, rounds = new_session_id(), effort(2, 100)
    with ObserverClient(behind.sidecar.target, timeout=timedelta(seconds=10)) as observer:
        for number in range(1, rounds + 1):
            lost = behind.proxy.lost
            behind.proxy.lose_reply(b"begins-%d." % number, how)
            begun = observer.begin_run(session_id, run_id=f"begins-{number}.")
            behind.proxy.lose_reply(b"says %d." % number, how)
            result = observer.write_notes(session_id, Notes(summary=f"says {number}."), run_id=begun.run.run_id)
            assert behind.proxy.lost == lost + 2
            assert (begun.run.number, result.run.number) == (number, number)
            assert result.outcome is WriteOutcome.DUPLICATE
            with new_channel(behind.sidecar.target) as channel:
                now = SessionCalls(channel, session_id).get_notes()
            assert (now.run.number, now.write_time.ToDatetime()) == (number, result.write_time.replace(tzinfo=None))
