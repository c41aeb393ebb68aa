"""The section "Errors": a page token holds for the listing it came from, and for no other."""

import grpc
import pytest
from session_notes.v1.session_state_pb2 import ListSessionsRequest

from tests.support import SessionCalls, new_session_id, refused


@pytest.fixture
def token(session: SessionCalls) -> str:
    """A good token of the session's default observer."""
    for number in range(3):
        session.begin_run(f"run-{number}")
        session.begin_run(f"run-{number}", observer="tone")
    token = session.list_runs(page_size=1).next_page_token
    assert token
    return token


def refused_token(session: SessionCalls, token: str, observer: str = "") -> None:
    """Asserts that ListRuns does not take this token."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.list_runs(page_size=1, page_token=token, observer=observer)
    assert error.fields == ["page_token"]


def test_ones_own_token_is_taken(session: SessionCalls, token: str) -> None:
    """A token holds for its session and observer, with another page size too, and as often as one likes."""
    assert [run.run_id for run in session.list_runs(page_size=1, page_token=token).runs] == ["run-1"]
    assert [run.run_id for run in session.list_runs(page_size=5, page_token=token).runs] == ["run-1", "run-0"]
    assert [run.run_id for run in session.list_runs(page_token=token, observer="default").runs] == ["run-1", "run-0"]


def test_a_token_of_another_session(session: SessionCalls, token: str) -> None:
    """A token of another session is foreign."""
    other = SessionCalls(session.channel, new_session_id())
    other.begin_run("run-1")
    refused_token(other, token)


def test_a_token_of_another_observer(session: SessionCalls, token: str) -> None:
    """A token of another observer of the same session is foreign."""
    refused_token(session, token, observer="tone")


def test_a_token_of_another_rpc(session: SessionCalls, token: str) -> None:
    """A token of ListRuns is foreign to ListSessions, and the other way round."""
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
    """A token that somebody changed is no token."""
    refused_token(session, change(token))
