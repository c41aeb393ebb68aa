"""ListSessions: paged summaries of all sessions."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from session_notes.v1.session_state_pb2 import ListSessionsRequest, SessionSummary

from tests.stores import Store
from tests.support import SessionCalls, new_session_id


def listed(session: SessionCalls, page_size: int = 0) -> Iterator[SessionSummary]:
    """Return all sessions, page by page."""
    token = ""
    while True:
        page = session.state.ListSessions(ListSessionsRequest(page_size=page_size, page_token=token), timeout=10)
        assert len(page.sessions) <= (page_size or 100)
        yield from page.sessions
        token = page.next_page_token
        if not token:
            return


def test_a_summary_matches_the_session(session: SessionCalls) -> None:
    """A summary has the session's version, turn count, last change, expiry and sorted observers."""
    session.update_session(set={"a": 1}, ttl=timedelta(hours=1))
    session.append_turns(3)
    session.write_notes("run-1", observer="tone")
    session.begin_run("run-1", observer="facts")
    session.begin_run("run-1")
    state = session.get_session()
    (summary,) = {entry.session_id: entry for entry in listed(session, 1000) if entry.session_id == session.id}.values()
    assert (summary.version, summary.turn_count, summary.update_time) == (1, 3, state.update_time)
    assert list(summary.observers) == ["default", "facts", "tone"]
    assert timedelta(minutes=59) < summary.expires_in.ToTimedelta() <= timedelta(hours=1)


@pytest.mark.parametrize("page_size", [0, 7, 1000])
def test_every_session_is_listed(session: SessionCalls, page_size: int) -> None:
    """A session that exists from the first page to the last is listed, whatever the page size."""
    ids = {new_session_id() for _ in range(40)}
    for session_id in ids:
        SessionCalls(session.channel, session_id).append_turns(1)
    assert ids <= {summary.session_id for summary in listed(session, page_size)}


def test_listing_changes_nothing(session: SessionCalls, store: Store) -> None:
    """ListSessions changes nothing."""
    session.append_turns(1)
    before = store.dump(session.id)
    list(listed(session))
    assert store.dump(session.id) == before


def test_deleted_sessions_are_not_listed(session: SessionCalls) -> None:
    """A deleted session is not listed, even while its run ids are kept."""
    session.write_notes("run-1")
    session.delete()
    assert session.id not in {summary.session_id for summary in listed(session)}


def test_ids_that_look_like_keys_are_listed_unchanged(session: SessionCalls) -> None:
    """An id that looks like a key name is listed unchanged."""
    odd = SessionCalls(session.channel, f"{session.id}:turns")
    odd.append_turns(1)
    odd.begin_run("run-1")
    ids = [summary.session_id for summary in listed(session)]
    assert f"{session.id}:turns" in ids
    assert session.id not in ids
