"""Rule 8: everything expires."""

from collections.abc import Callable
from datetime import timedelta

import grpc
import pytest
from session_notes.v1.notes_pb2 import RUN_STATE_FAILED, RUN_STATE_WRITTEN
from session_notes.v1.session_notes_pb2 import READINESS_EXPIRED, ListDueSessionsRequest
from session_notes.v1.session_state_pb2 import ListSessionsRequest

from tests.stores import Store
from tests.support import SessionCalls, Sidecar, eventually, new_channel, notes, refused, turns

DAY_MS = 24 * 60 * 60 * 1000
HOUR_MS = 60 * 60 * 1000
HOUR = timedelta(hours=1)
SHORT = timedelta(milliseconds=30)


def full(session: SessionCalls) -> None:
    """Give a session a key of every kind."""
    session.update_session(set={"a": 1})
    session.append(2, "appended")
    session.write_notes("written")
    session.begin_run("begun")


def expires_after(session: SessionCalls, store: Store, ttl_ms: int) -> None:
    """Assert that every key of the session expires `ttl_ms` after the session's last change."""
    expiries = store.expiries_ms(session.id)
    changed = session.get_session().update_time.ToMilliseconds()
    assert expiries
    for key, expiry in expiries.items():
        assert expiry - changed == pytest.approx(ttl_ms, abs=5), key


WRITES = [
    pytest.param(lambda session: session.update_session(set={"b": 1}), id="UpdateSession"),
    pytest.param(lambda session: session.append_turns(1), id="AppendTurns"),
    pytest.param(lambda session: session.append(1, "first"), id="AppendTurns, with an id"),
    pytest.param(lambda session: session.begin_run("next"), id="BeginRun"),
    pytest.param(lambda session: session.write_notes("begun"), id="WriteNotes"),
    pytest.param(lambda session: session.fail_run("begun"), id="FailRun"),
    pytest.param(lambda session: session.renew_run("begun"), id="RenewRun"),
]

NO_WRITES = [
    pytest.param(lambda session: session.get_notes(), id="GetNotes"),
    pytest.param(lambda session: session.get_session(include_turns=True), id="GetSession"),
    pytest.param(lambda session: session.list_runs(include_notes=True), id="ListRuns"),
    pytest.param(lambda session: session.state.ListSessions(ListSessionsRequest()), id="ListSessions"),
    pytest.param(lambda session: session.notes.ListDueSessions(ListDueSessionsRequest()), id="ListDueSessions"),
    pytest.param(lambda session: session.write_notes("written"), id="WriteNotes, DUPLICATE"),
    pytest.param(lambda session: session.append(2, "appended"), id="AppendTurns, duplicate"),
    pytest.param(lambda session: session.begin_run("begun"), id="BeginRun, retried"),
    pytest.param(lambda session: session.begin_run("other", only_if_idle=True), id="BeginRun, not idle"),
]


@pytest.mark.parametrize("change", WRITES)
def test_the_default_is_a_day(session: SessionCalls, store: Store, change: Callable[[SessionCalls], object]) -> None:
    """By default every key of a session expires 24 h after its last write by any RPC."""
    full(session)
    change(session)
    expires_after(session, store, DAY_MS)


@pytest.mark.parametrize("change", WRITES[:4])
def test_every_write_that_starts_a_session_sets_its_ttl(
    session: SessionCalls, store: Store, change: Callable[[SessionCalls], object]
) -> None:
    """The first write of a session sets the TTL of every key in the same step as the data."""
    change(session)
    expires_after(session, store, DAY_MS)


def test_a_first_write_notes_sets_the_ttl(session: SessionCalls, store: Store) -> None:
    """WriteNotes without BeginRun creates the session with its TTL."""
    session.write_notes("run-1")
    expires_after(session, store, DAY_MS)


@pytest.mark.parametrize("change", WRITES)
def test_every_write_extends_the_expiry(
    session: SessionCalls, store: Store, change: Callable[[SessionCalls], object]
) -> None:
    """Every RPC that changes the session extends the life of all its keys."""
    full(session)
    before = store.expiries_ms(session.id)
    now = store.time_ms()
    eventually(lambda: store.time_ms() > now + 20)
    change(session)
    after = store.expiries_ms(session.id)
    assert before.keys() <= after.keys()
    assert all(after[key] >= before[key] + 15 for key in before)


@pytest.mark.parametrize("look", NO_WRITES)
def test_reads_and_retries_do_not_extend_the_expiry(
    session: SessionCalls, store: Store, look: Callable[[SessionCalls], object]
) -> None:
    """Reads, and retries that change nothing, do not extend the session's life."""
    full(session)
    before, dump = store.expiries_ms(session.id), store.dump(session.id)
    now = store.time_ms()
    eventually(lambda: store.time_ms() > now + 20)
    look(session)
    after = store.expiries_ms(session.id)
    assert before.keys() == after.keys()
    assert all(after[key] == pytest.approx(before[key], abs=5) for key in before)
    assert store.dump(session.id) == dump


def test_a_refused_write_does_not_extend_the_expiry(session: SessionCalls, store: Store) -> None:
    """A refused write changes nothing and does not extend the session's life."""
    full(session)
    before = store.expiries_ms(session.id)
    now = store.time_ms()
    eventually(lambda: store.time_ms() > now + 20)
    with refused(grpc.StatusCode.ABORTED):
        session.update_session(set={"a": 2}, expected_version=7)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        session.write_notes("written", "other notes")
    after = store.expiries_ms(session.id)
    assert all(after[key] == pytest.approx(before[key], abs=5) for key in before)


@pytest.mark.parametrize("ttl", [HOUR, timedelta(days=365 * 99)], ids=["shorter", "longer"])
def test_a_sessions_own_ttl_stays_in_effect(session: SessionCalls, store: Store, ttl: timedelta) -> None:
    """`UpdateSession.ttl`, shorter or longer than the default, applies to all later writes of any kind."""
    full(session)
    session.update_session(ttl=ttl)
    expected = int(ttl.total_seconds() * 1000)
    expires_after(session, store, expected)
    session.append_turns(1)
    session.begin_run("next")
    session.write_notes("next")
    session.update_session(set={"b": 2})
    expires_after(session, store, expected)
    session.update_session(ttl=2 * HOUR)
    expires_after(session, store, 2 * HOUR_MS)


def test_a_session_that_expired_is_unknown(session: SessionCalls, store: Store) -> None:
    """Once a session's TTL has passed, all of it is gone, and the next write creates it again."""
    full(session)
    session.update_session(ttl=SHORT)
    eventually(lambda: not store.keys(session.id))
    state = session.get_session(include_turns=True)
    assert (state.session_id, state.version, state.turn_count, len(state.fields)) == (session.id, 0, 0, 0)
    for absent in ("create_time", "update_time", "expires_in"):
        assert not state.HasField(absent), absent
    assert list(session.list_runs().runs) == []
    assert session.begin_run("written").run.number == 1
    expires_after(session, store, DAY_MS)


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(lambda session: session.write_notes("begun"), id="WriteNotes"),
        pytest.param(lambda session: session.append_turns(1), id="AppendTurns"),
    ],
)
def test_a_late_write_keeps_a_session_no_longer_than_before(
    session: SessionCalls, store: Store, late: Callable[[SessionCalls], object]
) -> None:
    """A late write to an expired session re-creates it with its previous ttl, not with the default."""
    full(session)
    session.update_session(ttl=SHORT)
    eventually(lambda: not store.keys(session.id))
    late(session)
    assert all(left <= 30 for left in store.ttls_ms(session.id).values())
    eventually(lambda: not store.keys(session.id))
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        session.fail_run("begun")
    assert store.keys(session.id) == []


def test_a_session_with_a_default_ttl_has_it_again(session: SessionCalls, store: Store) -> None:
    """A session created again by a new run, or after its deletion, has the default ttl."""
    session.update_session(ttl=SHORT)
    eventually(lambda: not store.keys(session.id))
    session.begin_run("next")
    session.write_notes("next")
    expires_after(session, store, DAY_MS)
    session.update_session(ttl=HOUR)
    session.delete()
    store.client.delete(store.key(session.id, "deleted"))
    session.append_turns(1)
    expires_after(session, store, DAY_MS)


@pytest.mark.parametrize(
    ("flags", "env"),
    [(["--session-ttl", "90s"], {}), ([], {"SESSION_NOTES_SESSION_TTL": "90s"})],
    ids=["flag", "variable"],
)
def test_the_default_is_set_per_sidecar(session_id: str, flags: list[str], env: dict[str, str]) -> None:
    """`--session-ttl` sets the default of a sidecar; a session's own ttl takes precedence."""
    with Sidecar(flags=flags, env=env) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        full(session)
        expires_after(session, sidecar.store, 90_000)
        session.update_session(ttl=HOUR)
        expires_after(session, sidecar.store, HOUR_MS)


def test_expires_in_of_a_session_is_its_ttl(session: SessionCalls, store: Store) -> None:
    """`expires_in` of a session equals the TTL of its keys."""
    full(session)
    upper = store.ttls_ms(session.id)[store.key(session.id).encode()]
    expires_in_ms = session.get_session().expires_in.ToMilliseconds()
    lower = store.ttls_ms(session.id)[store.key(session.id).encode()]
    assert lower - 1 <= expires_in_ms <= upper + 1


def test_expires_in_of_notes_without_a_ttl_is_the_sessions(session: SessionCalls) -> None:
    """Notes without a `ttl` expire with the session, whose life later writes extend."""
    session.write_notes("run-1")
    session.update_session(ttl=HOUR)
    assert HOUR - timedelta(minutes=1) < session.get_notes().expires_in.ToTimedelta() <= HOUR
    session.update_session(ttl=2 * HOUR)
    assert HOUR < session.get_notes().expires_in.ToTimedelta() <= 2 * HOUR


def test_expires_in_of_notes_is_the_lower(session: SessionCalls) -> None:
    """`expires_in` of notes is the time until their `ttl` passes or the session expires, whichever comes first."""
    session.update_session(ttl=2 * HOUR)
    session.write_notes("run-1", ttl=HOUR)
    assert timedelta(minutes=59) < session.get_notes().expires_in.ToTimedelta() <= HOUR
    session.write_notes("run-2", ttl=3 * HOUR)
    assert timedelta(minutes=119) < session.get_notes().expires_in.ToTimedelta() <= 2 * HOUR


def test_a_sessions_write_does_not_extend_the_ttl_of_notes(session: SessionCalls, store: Store) -> None:
    """The `ttl` of notes counts from their write; later writes to the session do not extend it."""
    written = session.write_notes("run-1", ttl=HOUR).write_time.ToMilliseconds()
    eventually(lambda: store.time_ms() > written + 20)
    session.append_turns(1)
    session.update_session(set={"a": 1})
    assert session.get_notes().expires_in.ToMilliseconds() <= HOUR_MS - 20


def test_expired_notes_are_gone_once_replaced(session: SessionCalls, store: Store) -> None:
    """Expired notes are removed from the store when newer notes replace them."""
    session.write_notes("run-1", "canary-expired", ttl=SHORT)
    eventually(lambda: session.get_notes().readiness == READINESS_EXPIRED)
    session.write_notes("run-2")
    assert store.holding("canary-expired", session.id) == []


def test_the_history_keeps_20_runs(session: SessionCalls) -> None:
    """The history keeps the last 20 runs of each observer, newest first."""
    session.write_notes("other", observer="tone")
    for number in range(1, 26):
        session.write_notes(f"run-{number}", f"notes {number}")
    page = session.list_runs(include_notes=True, page_size=1000)
    assert page.next_page_token == ""
    runs = page.runs
    assert [run.number for run in runs] == list(range(25, 5, -1))
    assert [run.notes.summary for run in runs] == [f"notes {number}" for number in range(25, 5, -1)]
    assert len(session.list_runs(observer="tone").runs) == 1


def test_the_history_is_paged(session: SessionCalls) -> None:
    """ListRuns returns pages, newest first, with each run once, and marks the last page."""
    for number in range(1, 26):
        session.begin_run(f"run-{number}")
    numbers, sizes, token = [], [], ""
    while True:
        page = session.list_runs(page_size=7, page_token=token)
        numbers += [run.number for run in page.runs]
        sizes.append(len(page.runs))
        token = page.next_page_token
        if not token:
            break
    assert (sizes, numbers) == ([7, 7, 6], list(range(25, 5, -1)))
    assert session.list_runs().next_page_token == ""


def test_current_notes_outlive_the_history(session: SessionCalls) -> None:
    """Current notes stay current and complete after their run has left the history."""
    session.begin_run("run-0", observed_turn=3)
    session.write_notes("run-0", "still current")
    for number in range(1, 26):
        session.begin_run(f"run-{number}")
        session.fail_run(f"run-{number}")
    answer = session.get_notes()
    assert (answer.ready, answer.notes, answer.observed_turn) == (True, notes("still current"), 3)
    assert (answer.run.run_id, answer.run.number, answer.run.state) == ("run-0", 1, RUN_STATE_WRITTEN)
    assert answer.HasField("snapshot_age")
    assert (answer.latest_run.run_id, answer.latest_run.state) == ("run-25", RUN_STATE_FAILED)


def test_a_run_in_flight_outlives_the_history(session: SessionCalls) -> None:
    """A run that leaves the history while in flight keeps its state and snapshot, and can write."""
    session.begin_run("run-0", observed_turn=3)
    for number in range(1, 26):
        session.begin_run(f"run-{number}")
        session.fail_run(f"run-{number}")
    assert session.begin_run("next", only_if_idle=True).run.run_id == "run-0"
    assert session.write_notes("run-0", "late").run.number == 1
    answer = session.get_notes()
    assert (answer.notes.summary, answer.observed_turn) == ("late", 3)
    assert answer.HasField("snapshot_age")


def test_the_transcript_keeps_2000_turns(session: SessionCalls) -> None:
    """The transcript keeps the last 2,000 turns; the turn count includes all."""
    for start in range(1, 2001, 500):
        session.append_turns(turns(500, start=start))
    assert session.append_turns(turns(5, start=2001)) == 2005
    state = session.get_session(include_turns=True)
    assert (state.turn_count, list(state.turns)) == (2005, turns(2000, start=6))
    begun = session.begin_run("run-1", include_transcript=True)
    assert (begun.run.observed_turn, list(begun.transcript)) == (2005, turns(2000, start=6))
    assert session.append_turns(turns(1, start=2006), expected_turn_count=2005) == 2006
    # A retry gets the rest of the snapshot, and no later turn.
    assert list(session.begin_run("run-1", include_transcript=True).transcript) == turns(1999, start=7)


def test_one_append_may_be_longer_than_the_transcript(session: SessionCalls) -> None:
    """Of more than 2,000 turns in one call, the last 2,000 are kept, and all are counted."""
    assert session.append_turns(turns(2500)) == 2500
    assert list(session.get_session(include_turns=True).turns) == turns(2000, start=501)


def test_turns_are_returned_on_request(session: SessionCalls) -> None:
    """GetSession returns the transcript only on request, but always the turn count."""
    session.append_turns(3)
    state = session.get_session()
    assert (state.turn_count, list(state.turns)) == (3, [])
