"""A listing of sessions continues across a restart or failover of the store and misses no session."""

from collections.abc import Callable

import grpc
from session_notes.v1.session_state_pb2 import AppendTurnsRequest, ListSessionsRequest
from session_notes.v1.session_state_pb2_grpc import SessionStateStub
from session_notes.v1.turn_pb2 import Turn

from tests.stores import StoreServer, valkey_program
from tests.support import Sidecar, answers, eventually, new_channel, new_session_id


def create_sessions(channel: grpc.Channel, count: int) -> set[str]:
    """Create sessions, and return their ids."""
    stub, ids = SessionStateStub(channel), {new_session_id() for _ in range(count)}
    calls = [
        stub.AppendTurns.future(AppendTurnsRequest(session_id=session_id, turns=[Turn(text="a")]), timeout=30)
        for session_id in ids
    ]
    assert all(call.result().turn_count == 1 for call in calls)
    return ids


def list_sessions(channel: grpc.Channel, page_size: int, halfway: Callable[[], None]) -> list[str]:
    """Return the ids of a complete listing, and call `halfway` after the third page."""
    stub, ids, token, pages = SessionStateStub(channel), list[str](), "", 0
    while True:
        page = stub.ListSessions(ListSessionsRequest(page_size=page_size, page_token=token), timeout=10)
        ids += [summary.session_id for summary in page.sessions]
        token, pages = page.next_page_token, pages + 1
        if not token:
            return ids
        if pages == 3:
            halfway()


def test_no_session_is_missed_when_the_store_restarts() -> None:
    """A listing across a restart, with page tokens of the store's previous process, returns each of 2,000 sessions."""
    with (
        StoreServer(valkey_program(), ["--appendonly", "yes"]) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        ids = create_sessions(channel, 2000)

        def restart() -> None:
            server.kill()
            server.start()
            eventually(lambda: answers(channel), 20)

        assert set(list_sessions(channel, 200, restart)) == ids


def test_a_listing_returns_each_session_once() -> None:
    """Without a restart, a listing returns each session exactly once."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        ids = create_sessions(channel, 300)
        listed = list_sessions(channel, 20, lambda: None)
        assert (set(listed), len(listed)) == (ids, 300)
