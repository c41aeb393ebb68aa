"""A listing of sessions goes on over a restart or a failover of the store, and leaves none out."""

from collections.abc import Callable

import grpc
from session_notes.v1.session_state_pb2 import AppendTurnsRequest, ListSessionsRequest
from session_notes.v1.session_state_pb2_grpc import SessionStateStub
from session_notes.v1.turn_pb2 import Turn

from tests.stores import StoreServer, valkey_program
from tests.support import Sidecar, eventually, new_channel, new_session_id


def started(channel: grpc.Channel, count: int) -> set[str]:
    """Start so many sessions; their ids."""
    stub, ids = SessionStateStub(channel), {new_session_id() for _ in range(count)}
    calls = [
        stub.AppendTurns.future(AppendTurnsRequest(session_id=one, turns=[Turn(text="a")]), timeout=30) for one in ids
    ]
    assert all(call.result().turn_count == 1 for call in calls)
    return ids


def listed(channel: grpc.Channel, page_size: int, halfway: Callable[[], None]) -> list[str]:
    """All that a listing shows, page by page; after the third page, something happens to the store."""
    stub, found, token, pages = SessionStateStub(channel), list[str](), "", 0
    while True:
        page = stub.ListSessions(ListSessionsRequest(page_size=page_size, page_token=token), timeout=10)
        found += [summary.session_id for summary in page.sessions]
        token, pages = page.next_page_token, pages + 1
        if not token:
            return found
        if pages == 3:
            halfway()


def test_no_session_is_missed_when_the_store_restarts() -> None:
    """Of 2,000 sessions each is listed, though the store that a token speaks of is another process by then."""
    with (
        StoreServer(valkey_program(), ["--appendonly", "yes"]) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        ids = started(channel, 2000)

        def restart() -> None:
            server.kill()
            server.start()
            eventually(sidecar.store.answers, 20)
            sidecar.wait_until_serving()

        assert set(listed(channel, 200, restart)) == ids


def test_a_listing_of_one_store_shows_each_session_once() -> None:
    """Where nothing happens to the store, no page starts anew."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        ids = started(channel, 300)
        found = listed(channel, 20, lambda: None)
        assert (set(found), len(found)) == (ids, 300)
