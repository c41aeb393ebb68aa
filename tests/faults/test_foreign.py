"""Nobody sees another's notes: not after calls that were given up at any moment, nor after a stray reply."""

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

ENDS = {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


class Wire:
    """A sidecar that reaches its store through a proxy."""

    def __init__(self, port: int, proxy: Proxy, sidecar: Sidecar, channel: grpc.Channel) -> None:
        self.port = port
        self.proxy, self.sidecar, self.channel = proxy, sidecar, channel

    def session(self) -> SessionCalls:
        """A session whose notes say whose they are."""
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


def test_calls_given_up_at_random_moments(wire: Wire, effort: Callable[[int, int], int]) -> None:
    """5,000 calls with deadlines around the time an answer takes, half of them cancelled by hand: 0 foreign answers."""
    sessions = [wire.session() for _ in range(20)]
    wire.proxy.delay_seconds = 0.002
    # As long as most answers take on this machine now, whatever else it has to do.
    answered, given_up, longest = 0, 0, 0.120
    try:
        for _ in range(effort(50, 1000)):
            calls, before = [], answered
            for _ in range(100):
                session = random.choice(sessions)
                request = notes_api.GetNotesRequest(session_id=session.id)
                deadline = random.uniform(0.001, longest)
                calls.append((session, session.notes.GetNotes.future(request, timeout=deadline)))
            for session, call in random.sample(calls, len(calls)):
                if random.random() < 0.25:
                    call.cancel()
                    given_up += 1
                    continue
                end = status_of(call.result)
                assert end in ENDS
                if end == grpc.StatusCode.OK:
                    answered += 1
                    assert call.result().notes.summary == f"notes of {session.id}"
                else:
                    given_up += 1
            longest = min(longest * 1.5, 10.0) if answered - before < 25 else max(longest / 1.5, 0.010)
    finally:
        wire.proxy.delay_seconds = 0.0
    assert answered > 100
    assert given_up > 100
    for session in sessions:
        assert session.get_notes().notes.summary == f"notes of {session.id}"


def test_a_stray_reply_is_never_taken_for_ones_own(wire: Wire, effort: Callable[[int, int], int]) -> None:
    """Another session's reply comes over the wire just before one's own: 0 foreign, here and on all later calls."""
    for _ in range(effort(3, 200)):
        mine, theirs = wire.session(), wire.session()
        assert theirs.get_notes().notes.summary == f"notes of {theirs.id}"
        stray = wire.proxy.replies_to(theirs.id.encode())[-1]
        assert f"notes of {theirs.id}".encode() in stray
        lost = wire.proxy.lost
        wire.proxy.inject_before_reply(mine.id.encode(), stray)
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            mine.get_notes()
        assert wire.proxy.lost == lost + 1
        for session in (mine, theirs) * 5:
            assert session.get_notes().notes.summary == f"notes of {session.id}"
    assert "a reply from Redis belongs to another call" in wire.sidecar.log


def test_a_stray_reply_among_many_callers(wire: Wire, effort: Callable[[int, int], int]) -> None:
    """A stray reply while many call: all connections are dropped; each call ends OK or UNAVAILABLE, 0 foreign."""
    sessions = [wire.session() for _ in range(8)]
    stray = wire.proxy.replies_to(sessions[0].id.encode())[-1]

    def ask(number: int) -> grpc.StatusCode:
        session, answers = sessions[number % 8], list[notes_api.GetNotesResponse]()
        if number % 100 == 50:
            wire.proxy.inject_before_reply(session.id.encode(), stray)
        end = status_of(lambda: answers.append(session.get_notes()))
        assert {answer.notes.summary for answer in answers} <= {f"notes of {session.id}"}
        return end

    with ThreadPoolExecutor(16) as pool:
        ends = Counter(pool.map(ask, range(effort(800, 20_000))))
    assert ends.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, ends
    assert ends[grpc.StatusCode.OK] > ends[grpc.StatusCode.UNAVAILABLE]


def test_a_stray_reply_in_a_batch_is_never_taken_for_ones_own(wire: Wire) -> None:
    """As above, in a pipeline: a batch whose replies are shifted by one is refused as a whole."""
    mine, theirs = wire.session(), wire.session()
    theirs.get_notes()
    stray = wire.proxy.replies_to(theirs.id.encode())[-1]
    requests = [notes_api.GetNotesRequest(session_id=one.id) for one in (mine, theirs, mine)]
    batch = notes_api.BatchGetNotesRequest(requests=requests)
    mine.notes.BatchGetNotes(batch, timeout=10)
    wire.proxy.inject_before_reply(mine.id.encode(), stray)
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        mine.notes.BatchGetNotes(batch, timeout=10)
    answer = mine.notes.BatchGetNotes(batch, timeout=10)
    assert [one.notes.summary for one in answer.responses] == [f"notes of {one.id}" for one in (mine, theirs, mine)]


@pytest.mark.parametrize(
    "stray", [b"*2\r\n$1\r\n7\r\n:1\r\n", b"*3\r\n$1\r\n7\r\n:1\r\n:1\r\n", b":1\r\n", b"-NOSCRIPT x\r\n"]
)
def test_a_stray_reply_in_a_listing(wire: Wire, stray: bytes) -> None:
    """Another call's reply comes where that to SCAN is awaited, which has no tag: UNAVAILABLE, and then all is well."""
    mine = wire.session()
    wire.proxy.inject_before_reply(b"SCAN", stray)
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        mine.state.ListSessions(ListSessionsRequest(), timeout=10)
    assert mine.id in _listed(mine)
    assert mine.get_notes().notes.summary == f"notes of {mine.id}"


def _listed(session: SessionCalls) -> set[str]:
    """The ids of all sessions there are, on however many pages."""
    found, token = set[str](), ""
    while True:
        page = session.state.ListSessions(ListSessionsRequest(page_size=1000, page_token=token), timeout=10)
        found |= {one.session_id for one in page.sessions}
        if not (token := page.next_page_token):
            return found


def test_a_stray_error_is_not_taken_for_ones_own(wire: Wire) -> None:
    """Another call's NOSCRIPT comes just before one's own reply: what it asked for is done once, not twice."""
    mine = wire.session()
    mine.append_turns([Turn(text="said before")])
    wire.proxy.inject_before_reply(b"said once", b"-NOSCRIPT No matching script. Please use EVAL.\r\n")
    status_of(lambda: mine.append_turns([Turn(text="said once")]))
    assert [turn.text for turn in mine.get_session(include_turns=True).turns] == ["said before", "said once"]


def test_a_stray_error_where_a_link_is_looked_after(wire: Wire) -> None:
    """The store has forgotten its scripts, and another call's error comes while we make sure of it: UNAVAILABLE."""
    mine = wire.session()
    with redis.Redis(port=wire.port) as admin:
        admin.script_flush()
    wire.proxy.inject_before_reply(b"return {ARGV[1]}", b"-ERR what another call asked for\r\n")
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        mine.append_turns(1)
    assert mine.append_turns(1) == 1


def test_a_stray_reply_on_connections_at_rest(wire: Wire) -> None:
    """Another session's reply comes over every connection that lies in the pool: 0 foreign, and all are answered."""
    mine, theirs = wire.session(), wire.session()
    theirs.get_notes()
    wire.proxy.inject_at_rest(wire.proxy.replies_to(theirs.id.encode())[-1])

    def answered() -> bool:
        answers = []
        end = status_of(lambda: answers.append(mine.get_notes()))
        assert end in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
        assert {answer.notes.summary for answer in answers} <= {f"notes of {mine.id}"}
        return end == grpc.StatusCode.OK

    for _ in range(10):
        eventually(answered)
