"""A listing of sessions continues across a restart or failover of the store and misses no session."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from session_notes.v1.session_notes_pb2 import ListDueSessionsRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub
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
    """Return the ids of a complete ListSessions, and call `halfway` after the third page."""
    return listed(SessionStateStub(channel).ListSessions, ListSessionsRequest, page_size, halfway)


def list_due_sessions(channel: grpc.Channel, page_size: int, halfway: Callable[[], None]) -> list[str]:
    """Return the ids of a complete ListDueSessions, and call `halfway` after the third page."""
    return listed(SessionNotesStub(channel).ListDueSessions, ListDueSessionsRequest, page_size, halfway)


def listed(method: Any, request: Any, page_size: int, halfway: Callable[[], None]) -> list[str]:
    """Return the ids of a complete listing, and call `halfway` after the third page."""
    ids, token, pages = list[str](), "", 0
    while True:
        page = method(request(page_size=page_size, page_token=token), timeout=10)
        ids += [summary.session_id for summary in page.sessions]
        token, pages = page.next_page_token, pages + 1
        if not token:
            return ids
        if pages == 3:
            halfway()


@contextmanager
def restartable() -> Iterator[tuple[grpc.Channel, Callable[[], None]]]:
    """Run a sidecar on a store, and yield a channel and a function that restarts the store."""
    with (
        StoreServer(valkey_program(), ["--appendonly", "yes"]) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):

        def restart() -> None:
            server.kill()
            server.start()
            eventually(lambda: answers(channel), 20)

        yield channel, restart


def test_no_session_is_missed_when_the_store_restarts() -> None:
    """A listing across a restart, with page tokens of the store's previous process, returns each of 2,000 sessions."""
    with restartable() as (channel, restart):
        ids = create_sessions(channel, 2000)
        assert set(list_sessions(channel, 200, restart)) == ids


def test_due_sessions_are_listed_once_when_the_store_restarts() -> None:
    """A listing of due sessions across a restart returns each of 2,000 sessions exactly once."""
    with restartable() as (channel, restart):
        ids = create_sessions(channel, 2000)
        assert sorted(list_due_sessions(channel, 200, restart)) == sorted(ids)


def test_a_listing_returns_each_session_once() -> None:
    """Without a restart, a listing returns each session exactly once."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        ids = create_sessions(channel, 300)
        listed = list_sessions(channel, 20, lambda: None)
        assert (set(listed), len(listed)) == (ids, 300)
