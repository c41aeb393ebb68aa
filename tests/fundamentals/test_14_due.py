"""Rule 14: an observer can look for the sessions on which it has work to do."""

import base64
import json
import struct
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from session_notes.v1.notes_pb2 import RUN_STATE_ABANDONED, RUN_STATE_FAILED, RUN_STATE_WRITTEN
from session_notes.v1.session_notes_pb2 import DueSession, ListDueSessionsRequest
from session_notes.v1.session_state_pb2 import AppendTurnsRequest, DeleteSessionRequest, ListSessionsRequest

from tests.fundamentals.inputs import forged
from tests.stores import Store
from tests.support import SessionCalls, eventually, new_session_id, refused, turns

SCOPE = ("ListDueSessions", "default", "1", "0:00:00", "0:00:00")
"""The scope of page tokens for the default observer without bounds."""

HOUR = timedelta(hours=1)
MOMENT = timedelta(milliseconds=50)


def pages(session: SessionCalls, **fields: Any) -> Iterator[list[DueSession]]:
    """Return the pages of a complete listing."""
    token = ""
    while True:
        page = session.notes.ListDueSessions(ListDueSessionsRequest(page_token=token, **fields), timeout=20)
        assert len(page.sessions) <= (fields.get("page_size") or 100)
        yield list(page.sessions)
        token = page.next_page_token
        if not token:
            return


def due(session: SessionCalls, **fields: Any) -> DueSession | None:
    """Return the session's entry in a complete listing, if it is due."""
    listing = pages(session, page_size=1000, **fields)
    entries = [entry for page in listing for entry in page if entry.session_id == session.id]
    assert len(entries) <= 1
    return entries[0] if entries else None


def becomes_due(session: SessionCalls, **fields: Any) -> DueSession:
    """Wait until the session is due, and return its entry."""
    entry = eventually(lambda: due(session, **fields))
    assert entry is not None
    return entry


def is_due(session: SessionCalls, **fields: Any) -> DueSession:
    """Return the session's entry, which must be due now."""
    entry = due(session, **fields)
    assert entry is not None
    return entry


def test_a_session_without_a_run_is_due(session: SessionCalls) -> None:
    """A session with turns that no run has seen is due, with all of its turns."""
    session.append_turns(3)
    entry = is_due(session)
    assert (entry.turn_count, entry.turns_behind) == (3, 3)
    assert timedelta(0) <= entry.quiet.ToTimedelta() < timedelta(minutes=1)
    assert not entry.HasField("latest_run")


def test_a_session_without_turns_is_never_due(session: SessionCalls) -> None:
    """A session without turns is not due, whatever else it has, even if no turn needs to be new."""
    session.update_session(set={"a": 1})
    session.write_notes("run-1")
    assert due(session, min_turns_behind=0) is None


def test_turns_behind_are_those_the_notes_have_not_seen(session: SessionCalls) -> None:
    """Turns are counted from what the run of the current notes saw, and the bound is inclusive."""
    session.append_turns(3)
    session.begin_run("run-1")
    session.append_turns(2)
    session.write_notes("run-1")
    for bound in (0, 1, 2):
        entry = is_due(session, min_turns_behind=bound)
        assert (entry.turn_count, entry.turns_behind) == (5, 2)
    assert due(session, min_turns_behind=3) is None


def test_one_new_turn_is_enough(session: SessionCalls) -> None:
    """Without a bound, a session is due with one new turn and not with none. A bound of 0 lists it all the same."""
    session.append_turns(2)
    session.begin_run("run-1")
    session.write_notes("run-1")
    assert due(session) is None
    entry = is_due(session, min_turns_behind=0)
    assert (entry.HasField("turns_behind"), entry.turns_behind) == (True, 0)
    session.append_turns(1)
    entry = is_due(session)
    assert entry.turns_behind == 1
    assert entry.latest_run == session.get_notes().latest_run


def test_all_turns_are_new_to_notes_that_saw_none(session: SessionCalls) -> None:
    """All turns count if the current notes do not tell what they have seen, or claim more than there is."""
    session.append_turns(2)
    session.write_notes("run-1")
    entry = is_due(session, min_turns_behind=2)
    assert (entry.turns_behind, entry.latest_run.state) == (2, RUN_STATE_WRITTEN)
    session.write_notes("run-2", observed_turn=7)
    assert due(session) is None
    assert is_due(session, min_turns_behind=0).turns_behind == 0


def test_all_turns_are_new_once_the_notes_expired(session: SessionCalls) -> None:
    """Expired notes count as none, and then all turns are new."""
    session.append_turns(2)
    session.write_notes("run-1", observed_turn=2, ttl=MOMENT)
    entry = becomes_due(session)
    assert entry.turns_behind == 2


def test_a_run_in_flight_is_waited_for(session: SessionCalls) -> None:
    """A session is not due while a run of this observer is in flight, but is once the run ends or its lease does."""
    session.append_turns(1)
    session.begin_run("run-1", lease=HOUR)
    assert due(session) is None
    assert due(session, observer="tone") is not None
    session.begin_run("run-2", lease=HOUR)
    session.fail_run("run-2", reason="the model did not answer")
    assert due(session) is None
    session.fail_run("run-1")
    entry = is_due(session)
    assert (entry.latest_run.run_id, entry.latest_run.state) == ("run-2", RUN_STATE_FAILED)
    assert entry.latest_run.failure == "the model did not answer"


def test_a_lease_that_expires_makes_a_session_due(session: SessionCalls) -> None:
    """Leases are read by the store's clock: once one has expired, its run is no longer in flight."""
    session.append_turns(1)
    session.begin_run("run-1", lease=MOMENT)
    entry = becomes_due(session)
    assert entry.latest_run.state == RUN_STATE_ABANDONED


def test_the_latest_run_began_long_enough_ago(session: SessionCalls) -> None:
    """`min_interval` counts from the begin of the latest run of any outcome, and sessions without a run meet it."""
    session.append_turns(1)
    assert due(session, min_interval=HOUR) is not None
    session.begin_run("run-1")
    session.fail_run("run-1")
    assert due(session, min_interval=HOUR) is None
    assert due(session, min_interval=HOUR, observer="tone") is not None
    entry = becomes_due(session, min_interval=MOMENT)
    assert entry.latest_run.run_id == "run-1"
    assert entry.quiet.ToTimedelta() >= MOMENT


def test_a_run_without_a_begin_counts_from_its_write(session: SessionCalls) -> None:
    """`min_interval` counts from the write of notes whose run had no BeginRun."""
    session.append_turns(1)
    session.write_notes("run-1", observed_turn=0)
    assert due(session, min_interval=HOUR) is None
    assert becomes_due(session, min_interval=MOMENT).turns_behind == 1


def test_the_last_turn_came_long_enough_ago(session: SessionCalls, store: Store) -> None:
    """`min_quiet` counts from the last turn that was appended, and nothing else disturbs the quiet."""
    session.append_turns(1)
    assert due(session, min_quiet=HOUR) is None
    entry = becomes_due(session, min_quiet=MOMENT)
    assert entry.quiet.ToTimedelta() >= MOMENT
    session.update_session(set={"a": 1})
    session.write_notes("run-1", observed_turn=0)
    later = is_due(session, min_quiet=MOMENT)
    assert later.quiet.ToTimedelta() > entry.quiet.ToTimedelta()
    store.client.hset(store.key(session.id), "turned", store.time_ms() * 1000 - 3600 * 10**6)
    assert is_due(session, min_quiet=HOUR).quiet.ToTimedelta() >= HOUR
    session.append_turns(1)
    assert due(session, min_quiet=HOUR) is None


def test_turns_of_an_earlier_version_count_from_the_last_change(session: SessionCalls, store: Store) -> None:
    """A session stored without the time of its last turn has been quiet since its last change of any kind."""
    session.append_turns(1)
    store.client.hdel(store.key(session.id), "turned")
    assert due(session, min_quiet=HOUR) is None
    entry = becomes_due(session, min_quiet=MOMENT)
    assert entry.quiet.ToTimedelta() >= MOMENT


def test_lost_runs_leave_all_turns_to_see(session: SessionCalls, store: Store) -> None:
    """If the store has lost the runs, a session is due with all of its turns, although one seemed to be in flight."""
    session.append_turns(2)
    session.write_notes("run-1", observed_turn=2)
    session.begin_run("run-2", lease=HOUR)
    store.client.delete(store.key(session.id, "runs"))
    entry = is_due(session, min_interval=HOUR)
    assert (entry.turns_behind, entry.HasField("latest_run")) == (2, False)


def test_a_lost_run_that_begins_again_has_seen_nothing(session: SessionCalls, store: Store) -> None:
    """If the run of the current notes is lost, begins again and fails, all turns are new."""
    session.append_turns(2)
    session.begin_run("run-1")
    session.write_notes("run-1")
    assert due(session) is None
    store.client.delete(store.key(session.id, "runs"))
    session.begin_run("run-1")
    session.fail_run("run-1")
    assert is_due(session).turns_behind == 2


def test_a_session_that_is_gone_is_not_due(session: SessionCalls, store: Store) -> None:
    """Neither a deleted nor an expired session is due."""
    session.append_turns(1)
    session.begin_run("run-1")
    session.delete()
    assert due(session) is None
    gone = SessionCalls(session.channel, new_session_id())
    gone.append_turns(1)
    gone.update_session(ttl=MOMENT)
    eventually(lambda: not store.keys(gone.id))
    assert due(gone) is None


def test_looking_for_work_changes_nothing(session: SessionCalls, store: Store) -> None:
    """ListDueSessions changes neither data nor expiry."""
    session.append_turns(1)
    session.begin_run("run-1", lease=MOMENT)
    before, expiries = store.dump(session.id), store.expiries_ms(session.id)
    becomes_due(session)
    assert store.dump(session.id) == before
    assert store.expiries_ms(session.id) == pytest.approx(expiries, abs=5)


@pytest.fixture
def many(session: SessionCalls) -> Iterator[set[str]]:
    """2,000 sessions with a turn each. They are deleted after the test."""
    ids = {new_session_id() for _ in range(2000)}
    added = turns(1)
    call_all(session.state.AppendTurns, [AppendTurnsRequest(session_id=session_id, turns=added) for session_id in ids])
    yield ids
    call_all(session.state.DeleteSession, [DeleteSessionRequest(session_id=session_id) for session_id in ids])


def call_all(method: Any, requests: list[Any]) -> None:
    """Make many calls, a hundred at a time."""
    for start in range(0, len(requests), 100):
        for call in [method.future(request, timeout=30) for request in requests[start : start + 100]]:
            call.result()


@pytest.mark.parametrize("page_size", [0, 7, 1000])
def test_every_due_session_is_listed_once(session: SessionCalls, many: set[str], page_size: int) -> None:
    """A listing contains every due session exactly once and no other, whatever the page size."""
    idle = sorted(many)[::2] if page_size != 7 else sorted(many)[50:]
    for session_id in idle[:50]:
        SessionCalls(session.channel, session_id).write_notes("run-1", observed_turn=1)
    listed = [entry.session_id for page in pages(session, page_size=page_size) for entry in page]
    assert sorted(each for each in listed if each in many) == sorted(many - set(idle[:50]))


_ADD = "for i = 1, ARGV[1] do redis.call('SET', KEYS[1] .. i, '', 'EX', 600) end"
_REMOVE = "for i = 1, ARGV[1] do redis.call('DEL', KEYS[1] .. i) end"


def test_each_is_listed_once_while_keys_come_and_go(session: SessionCalls, store: Store, many: set[str]) -> None:
    """Sessions due throughout a listing are in it once, although the store resizes its table in between."""

    def add() -> None:
        store.client.eval(_ADD, 1, f"other:{{{session.id}}}", 30_000)

    def remove() -> None:
        store.client.eval(_REMOVE, 1, f"other:{{{session.id}}}", 30_000)

    listed, changes = list[str](), {2: remove, 4: add, 6: remove, 8: add}
    try:
        add()
        for number, page in enumerate(pages(session, page_size=1000), 1):
            listed += [entry.session_id for entry in page]
            if number in changes:
                changes[number]()
    finally:
        remove()
    assert sorted(each for each in listed if each in many) == sorted(many)


def test_a_scan_that_returns_sessions_again(session: SessionCalls, many: set[str]) -> None:
    """Sessions that a scan returns a second time are not listed a second time."""
    first = session.notes.ListDueSessions(ListDueSessionsRequest(), timeout=10)
    _, (pending, (nodes, *_), digests) = json.loads(base64.urlsafe_b64decode(first.next_page_token + "==="))
    token = forged(SCOPE, json.dumps([pending * 2, [nodes, 0, 0], digests]))
    listed = [entry.session_id for entry in first.sessions]
    while token:
        page = session.notes.ListDueSessions(ListDueSessionsRequest(page_token=token), timeout=10)
        listed += [entry.session_id for entry in page.sessions]
        token = page.next_page_token
    assert sorted(each for each in listed if each in many) == sorted(many)


def next_token(session: SessionCalls, **fields: Any) -> str:
    """Return the token of the second page of a listing with a page size of 1."""
    for _ in range(3):
        SessionCalls(session.channel, new_session_id()).append_turns(1)
    token = session.notes.ListDueSessions(ListDueSessionsRequest(page_size=1, **fields), timeout=10).next_page_token
    assert token
    return token


def refused_token(session: SessionCalls, token: str, **fields: Any) -> None:
    """Assert that ListDueSessions rejects this token."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.notes.ListDueSessions(ListDueSessionsRequest(page_token=token, **fields), timeout=10)
    assert error.fields == ["page_token"]


def test_a_token_belongs_to_an_observer_and_its_bounds(session: SessionCalls) -> None:
    """A token is valid with any page size, and only with the observer and the bounds of its listing."""
    token = next_token(session, observer="tone", min_quiet=Duration())
    for page_size in (1, 5):
        request = ListDueSessionsRequest(observer="tone", page_token=token, page_size=page_size, min_turns_behind=1)
        session.notes.ListDueSessions(request, timeout=10)
    for other in (
        {},
        {"observer": "tone", "min_turns_behind": 2},
        {"observer": "tone", "min_interval": MOMENT},
        {"observer": "tone", "min_quiet": MOMENT},
    ):
        refused_token(session, token, **other)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        session.state.ListSessions(ListSessionsRequest(page_token=token), timeout=10)


def packed(*digests: int) -> str:
    """Return digests as in a token."""
    return base64.b64encode(struct.pack(f"<{len(digests)}Q", *digests)).decode()


POSITIONS = (
    *('["a"],["n",0,0]', '["a"],["n",0,0],null', '["a"],["n",0,0],[1]', '["a"],["n",0,0],1', '["a"],["n",0,0],"",""'),
    *('["a"],["n",0,0],"AAAA"', '["a"],["n",0,0],"*"', '["a"],["n",0,0],"\\ud800"', '["a"],["n",0,0],"AAAAAAAAAA="'),
    *('["a b"],["n",0,0],""', '["a"],["n",-1,0],""', '["a"],["n",0,1.5],""', '[],null,""', 'null,null,""'),
    f'["a"],["n",0,0],"{packed(*range(100_001))}"',
)


@pytest.mark.parametrize("position", POSITIONS, ids=lambda position: position[:40])
def test_a_forged_token_is_rejected(session: SessionCalls, position: str) -> None:
    """A forged token with a valid checksum and an invalid position is rejected."""
    genuine = forged(SCOPE, f'[["a"],["n",0,0],"{packed(1)}"]')
    session.notes.ListDueSessions(ListDueSessionsRequest(page_token=genuine), timeout=10)
    refused_token(session, forged(SCOPE, f"[{position}]"))


def test_a_page_examines_a_bounded_number_of_sessions(session: SessionCalls) -> None:
    """A page examines at most 1,000 sessions, even if a forged token has more, and then has a next page."""
    ids = ",".join(f'"{index}"' for index in range(1500))
    token = forged(SCOPE, f'[[{ids}],null,""]')
    page = session.notes.ListDueSessions(ListDueSessionsRequest(page_token=token), timeout=10)
    assert [*page.sessions, page.next_page_token != ""] == [True]
    page = session.notes.ListDueSessions(ListDueSessionsRequest(page_token=page.next_page_token), timeout=10)
    assert [*page.sessions, page.next_page_token] == [""]
