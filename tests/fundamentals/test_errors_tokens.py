"""Errors: a page token is valid only for the listing that it came from."""

import grpc
import pytest
from session_notes.v1.session_state_pb2 import ListSessionsRequest

from tests.fundamentals.inputs import forged
from tests.stores import Store
from tests.support import SessionCalls, new_session_id, refused


@pytest.fixture
def token(session: SessionCalls) -> str:
    """A valid token for the session's default observer."""
    for number in range(3):
        session.begin_run(f"run-{number}")
        session.begin_run(f"run-{number}", observer="tone")
    token = session.list_runs(page_size=1).next_page_token
    assert token
    return token


def refused_token(session: SessionCalls, token: str, observer: str = "") -> None:
    """Assert that ListRuns rejects this token."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.list_runs(page_size=1, page_token=token, observer=observer)
    assert error.fields == ["page_token"]


def test_a_token_is_reusable(session: SessionCalls, token: str) -> None:
    """A token is valid for its session and observer, with any page size and any number of times."""
    assert [run.run_id for run in session.list_runs(page_size=1, page_token=token).runs] == ["run-1"]
    assert [run.run_id for run in session.list_runs(page_size=5, page_token=token).runs] == ["run-1", "run-0"]
    assert [run.run_id for run in session.list_runs(page_token=token, observer="default").runs] == ["run-1", "run-0"]


def test_a_token_of_another_session(session: SessionCalls, token: str) -> None:
    """A token of another session is rejected."""
    other = SessionCalls(session.channel, new_session_id())
    other.begin_run("run-1")
    refused_token(other, token)


def test_a_token_of_another_observer(session: SessionCalls, token: str) -> None:
    """A token of another observer of the same session is rejected."""
    refused_token(session, token, observer="tone")


def test_a_token_of_another_rpc(session: SessionCalls, token: str) -> None:
    """ListSessions rejects a token of ListRuns, and vice versa."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.state.ListSessions(ListSessionsRequest(page_token=token), timeout=10)
    assert error.fields == ["page_token"]
    for _ in range(5):
        SessionCalls(session.channel, new_session_id()).append_turns(1)
    page = session.state.ListSessions(ListSessionsRequest(page_size=1), timeout=10)
    assert page.next_page_token
    refused_token(session, page.next_page_token)


@pytest.mark.parametrize("change", [lambda token: token + "A", lambda token: token[:-2], lambda token: token[::-1]])
def test_a_token_that_was_changed(session: SessionCalls, token: str, change) -> None:  # type: ignore[no-untyped-def]
    """A modified token is rejected."""
    refused_token(session, change(token))


NO_NUMBERS = ("null", "[1]", "{}", '"1"', "true", "1.5", "-1", "1e400", "Infinity", "NaN", str(2**53), "1" * 5000)


@pytest.mark.parametrize("position", NO_NUMBERS, ids=lambda position: position[:10])
def test_a_forged_token_of_runs(session: SessionCalls, position: str) -> None:
    """A forged token with a valid checksum and an invalid position in a list of runs is rejected."""
    refused_token(session, forged(("ListRuns", session.id, "default"), position))


ODD_PLACES = (
    *(
        "null",
        "1",
        "{}",
        "[]",
        "[[]]",
        "[[],null]",
        '[[],["n",0,0],1]',
        '["a",null]',
        '{"a":1,"b":2}',
        '[null,["n",0,0]]',
    ),
    *('[[],["n","a","b"]]', "[[],[0]]", '[[],["n",0,-1]]', '[[],["n",-1,0]]', '[[],["n",0,true]]', '[[],["n",0,1.5]]'),
    *(f'[[],["n",0,{2**64}]]', f'[[],["n",0,{2**70}]]', f'[[],["n",{2**70},0]]', '[[],["n",0,NaN]]', "[[],0]"),
    *('[[],["n",0,Infinity]]', "[[],[0,0]]", "[[],[1,0,0]]", "[[],[null,0,0]]", '[[null],["n",0,0]]'),
    *('[["a{b"],null]', '[["a b"],null]', '[[""],null]', "[[1],null]", '[["a b"],["n",0,0]]', '[["\\ud800"],null]'),
)


@pytest.mark.parametrize("position", ODD_PLACES)
def test_a_forged_token_of_sessions(session: SessionCalls, position: str) -> None:
    """A forged token with a valid checksum and an invalid position in a list of sessions is rejected."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.state.ListSessions(ListSessionsRequest(page_token=forged(("ListSessions",), position)), timeout=10)
    assert error.fields == ["page_token"]


def test_foreign_keys_are_not_listed(session: SessionCalls, store: Store) -> None:
    """Foreign hashes with names like a session's appear in no page and no token, and do not break a listing."""
    others = [f"{store.prefix}:{{{number} of another program}}".encode() for number in range(100)]
    others.append(f"{store.prefix}:{{".encode() + b"\xff\xfe}")
    for other in others:
        store.client.hset(other, "a", "b")
        store.client.expire(other, 60)
    session.append_turns(1)
    listed, page_token = set[str](), ""
    while True:
        request = ListSessionsRequest(page_size=1, page_token=page_token)
        page = session.state.ListSessions(request, timeout=10)
        listed |= {summary.session_id for summary in page.sessions}
        if not (page_token := page.next_page_token):
            break
    for other in others:
        store.client.delete(other)
    assert session.id in listed
    assert not any("another program" in entry for entry in listed)
