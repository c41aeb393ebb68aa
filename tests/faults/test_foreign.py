"""No client sees another session's notes, neither after abandoned calls nor after a stray reply."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import redis
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1.session_state_pb2 import ListSessionsRequest
from session_notes.v1.turn_pb2 import Turn

from tests.faults.proxy import Proxy
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused, status_of

STATUSES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNAVAILABLE,
}


class Wire:
    """A sidecar that reaches its store through a proxy."""

    def __init__(self, port: int, proxy: Proxy, sidecar: Sidecar, channel: grpc.Channel) -> None:
        self.port = port
        self.proxy, self.sidecar, self.channel = proxy, sidecar, channel

    def session(self) -> SessionCalls:
        """Return a session whose notes contain its id."""
        session = SessionCalls(self.channel, new_session_id())
        session.write_notes("run-1", f"notes of {session.id}")
        return session


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        yield Wire(server.port, proxy, sidecar, channel)


def test_abandoned_calls_leak_no_answer(wire: Wire, effort: Callable[[int, int], int]) -> None:
    """None of 5,000 calls with deadlines around the response time, some cancelled, gets another session's notes."""
    sessions = [wire.session() for _ in range(20)]
    wire.proxy.delay_seconds = 0.002
    # The longest deadline, adapted to the current response time on this machine.
    completed, abandoned, longest = 0, 0, 0.120
    try:
        for _ in range(effort(50, 1000)):
            calls, before = [], completed
            for _ in range(100):
                session = random.choice(sessions)
                request = notes_api.GetNotesRequest(session_id=session.id)
                deadline = random.uniform(0.001, longest)
                calls.append((session, session.notes.GetNotes.future(request, timeout=deadline)))
            for session, call in random.sample(calls, len(calls)):
                if random.random() < 0.25:
                    call.cancel()
                    abandoned += 1
                    continue
                status = status_of(call.result)
                assert status in STATUSES
                if status == grpc.StatusCode.OK:
                    completed += 1
                    assert call.result().notes.summary == f"notes of {session.id}"
                else:
                    abandoned += 1
            longest = min(longest * 1.5, 10.0) if completed - before < 25 else max(longest / 1.5, 0.010)
    finally:
        wire.proxy.delay_seconds = 0.0
    assert completed > 100
    assert abandoned > 100
    for session in sessions:
        assert session.get_notes().notes.summary == f"notes of {session.id}"


def test_a_stray_reply_reaches_no_caller(wire: Wire, effort: Callable[[int, int], int]) -> None:
    """With another session's reply injected before its own, a call is UNAVAILABLE and all later calls get their own."""
    for _ in range(effort(3, 200)):
        session, other = wire.session(), wire.session()
        assert other.get_notes().notes.summary == f"notes of {other.id}"
        stray = wire.proxy.replies_to(other.id.encode())[-1]
        assert f"notes of {other.id}".encode() in stray
        lost = wire.proxy.lost
        wire.proxy.inject_before_reply(session.id.encode(), stray)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.get_notes()
        assert wire.proxy.lost == lost + 1
        for each in (session, other) * 5:
            assert each.get_notes().notes.summary == f"notes of {each.id}"
    assert "a reply from Redis belongs to another call" in wire.sidecar.log


def test_a_stray_reply_among_many_callers(wire: Wire, effort: Callable[[int, int], int]) -> None:
    """With stray replies among many callers, every call is OK with its own notes or UNAVAILABLE."""
    sessions = [wire.session() for _ in range(8)]
    stray = wire.proxy.replies_to(sessions[0].id.encode())[-1]

    def call(number: int) -> grpc.StatusCode:
        session, responses = sessions[number % 8], list[notes_api.GetNotesResponse]()
        if number % 100 == 50:
            wire.proxy.inject_before_reply(session.id.encode(), stray)
        status = status_of(lambda: responses.append(session.get_notes()))
        assert {response.notes.summary for response in responses} <= {f"notes of {session.id}"}
        return status

    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(call, range(effort(800, 20_000))))
    assert statuses.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, statuses
    assert statuses[grpc.StatusCode.OK] > statuses[grpc.StatusCode.UNAVAILABLE]


def test_a_stray_reply_fails_the_whole_batch(wire: Wire) -> None:
    """A batch whose pipelined replies are shifted by a stray one is UNAVAILABLE as a whole."""
    session, other = wire.session(), wire.session()
    other.get_notes()
    stray = wire.proxy.replies_to(other.id.encode())[-1]
    requests = [notes_api.GetNotesRequest(session_id=each.id) for each in (session, other, session)]
    batch = notes_api.BatchGetNotesRequest(requests=requests)
    session.notes.BatchGetNotes(batch, timeout=10)
    wire.proxy.inject_before_reply(session.id.encode(), stray)
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        session.notes.BatchGetNotes(batch, timeout=10)
    summaries = [reading.notes.summary for reading in session.notes.BatchGetNotes(batch, timeout=10).responses]
    assert summaries == [f"notes of {each.id}" for each in (session, other, session)]


@pytest.mark.parametrize(
    "stray", [b"*2\r\n$1\r\n7\r\n:1\r\n", b"*3\r\n$1\r\n7\r\n:1\r\n:1\r\n", b":1\r\n", b"-NOSCRIPT x\r\n"]
)
def test_a_stray_reply_in_a_listing(wire: Wire, stray: bytes) -> None:
    """A stray reply in place of the untagged one to SCAN makes a listing UNAVAILABLE, and the next one is complete."""
    session = wire.session()
    wire.proxy.inject_before_reply(b"SCAN", stray)
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        session.state.ListSessions(ListSessionsRequest(), timeout=10)
    assert session.id in _listed(session)
    assert session.get_notes().notes.summary == f"notes of {session.id}"


def _listed(session: SessionCalls) -> set[str]:
    """Return the ids of all sessions, over all pages."""
    ids, token = set[str](), ""
    while True:
        page = session.state.ListSessions(ListSessionsRequest(page_size=1000, page_token=token), timeout=10)
        ids |= {summary.session_id for summary in page.sessions}
        if not (token := page.next_page_token):
            return ids


def test_a_stray_error_repeats_no_write(wire: Wire) -> None:
    """A stray NOSCRIPT before a write's own reply does not make the sidecar repeat the write."""
    session = wire.session()
    session.append_turns([Turn(text="said before")])
    wire.proxy.inject_before_reply(b"said once", b"-NOSCRIPT No matching script. Please use EVAL.\r\n")
    status_of(lambda: session.append_turns([Turn(text="said once")]))
    assert [turn.text for turn in session.get_session(include_turns=True).turns] == ["said before", "said once"]


def test_a_stray_error_while_the_sidecar_verifies_noscript(wire: Wire) -> None:
    """A stray error while the sidecar verifies a NOSCRIPT makes the call UNAVAILABLE."""
    session = wire.session()
    with redis.Redis(port=wire.port) as admin:
        admin.script_flush()
    wire.proxy.inject_before_reply(b"return {ARGV[1]}", b"-ERR of another call\r\n")
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        session.append_turns(1)
    assert session.append_turns(1) == 1


def test_a_stray_reply_on_idle_connections(wire: Wire) -> None:
    """After a stray reply on every idle connection, calls get their own notes or are UNAVAILABLE, and soon OK."""
    session, other = wire.session(), wire.session()
    other.get_notes()
    wire.proxy.inject_at_rest(wire.proxy.replies_to(other.id.encode())[-1])

    def is_ok() -> bool:
        responses = []
        status = status_of(lambda: responses.append(session.get_notes()))
        assert status in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
        assert {response.notes.summary for response in responses} <= {f"notes of {session.id}"}
        return status == grpc.StatusCode.OK

    for _ in range(10):
        eventually(is_ok)
