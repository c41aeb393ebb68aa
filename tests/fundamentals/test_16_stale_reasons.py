"""Rule 16: `max_snapshot_age` bounds what the notes have seen, and `stale_because` names every unmet bound."""

from datetime import timedelta
from typing import Any

import pytest
from session_notes.v1.session_notes_pb2 import (
    READINESS_NEVER_RUN,
    READINESS_RUNNING,
    STALE_REASON_AGE,
    STALE_REASON_SNAPSHOT_AGE,
    STALE_REASON_SNAPSHOT_UNKNOWN,
    STALE_REASON_TURNS_BEHIND,
    STALE_REASON_TURNS_UNKNOWN,
    BatchGetNotesRequest,
    GetNotesRequest,
)

from tests.stores import Store
from tests.support import SessionCalls, eventually

ZERO, HOUR = timedelta(), timedelta(hours=1)
EVERY_BOUND: dict[str, Any] = {"max_age": ZERO, "max_snapshot_age": ZERO, "current_turn": 9, "max_turns_behind": 1}


def let_age(session: SessionCalls, store: Store) -> None:
    """Wait until notes and snapshot are older than a bound of 0."""
    written_ms = session.get_notes().write_time.ToMilliseconds()
    eventually(lambda: store.time_ms() > written_ms + 2)


@pytest.fixture
def noted(session: SessionCalls, store: Store) -> SessionCalls:
    """A session with notes that saw 4 turns, some milliseconds ago."""
    session.begin_run("run-1", observed_turn=4)
    session.write_notes("run-1", "the notes")
    let_age(session, store)
    return session


def test_new_notes_of_an_old_snapshot(session: SessionCalls, store: Store) -> None:
    """A slow analysis writes new notes on what it saw before: they meet `max_age`, but not `max_snapshot_age`."""
    began_ms = session.begin_run("run-1").run.begin_time.ToMilliseconds()
    eventually(lambda: store.time_ms() > began_ms + 1500)
    session.write_notes("run-1")
    bound = timedelta(milliseconds=1500)
    assert session.get_notes(max_age=bound).fresh is True
    stale = session.get_notes(max_age=bound, max_snapshot_age=bound)
    assert (stale.fresh, list(stale.stale_because)) == (False, [STALE_REASON_SNAPSHOT_AGE])


@pytest.mark.parametrize(
    ("bounds", "reasons"),
    [
        pytest.param({}, [], id="no bounds"),
        pytest.param({"current_turn": 9}, [], id="drift without a bound"),
        pytest.param({"max_age": HOUR, "max_snapshot_age": HOUR}, [], id="bounds that are met"),
        pytest.param({"max_age": ZERO}, [STALE_REASON_AGE], id="age"),
        pytest.param({"max_snapshot_age": ZERO}, [STALE_REASON_SNAPSHOT_AGE], id="snapshot"),
        pytest.param({"current_turn": 9, "max_turns_behind": 5}, [], id="as many turns as permitted"),
        pytest.param({"current_turn": 9, "max_turns_behind": 4}, [STALE_REASON_TURNS_BEHIND], id="turns"),
        pytest.param({"max_turns_behind": 4}, [STALE_REASON_TURNS_UNKNOWN], id="no turn is known"),
        pytest.param(
            EVERY_BOUND, [STALE_REASON_AGE, STALE_REASON_SNAPSHOT_AGE, STALE_REASON_TURNS_BEHIND], id="every bound"
        ),
    ],
)
def test_every_unmet_bound_is_a_reason(noted: SessionCalls, bounds: dict[str, Any], reasons: list[int]) -> None:
    """`stale_because` has a reason for each unmet bound; `fresh` means that there is none. The notes come anyway."""
    answer = noted.get_notes(**bounds)
    assert (list(answer.stale_because), answer.fresh) == (reasons, not reasons)
    assert answer.notes.summary == "the notes"


def test_notes_without_a_snapshot(session: SessionCalls, store: Store) -> None:
    """Notes written without BeginRun have no snapshot, so they meet no bound on its age, however large."""
    session.write_notes("run-1")
    let_age(session, store)
    assert session.get_notes().fresh is True
    assert list(session.get_notes(max_snapshot_age=HOUR).stale_because) == [STALE_REASON_SNAPSHOT_UNKNOWN]
    all_bounds = session.get_notes(**EVERY_BOUND)
    assert (list(all_bounds.stale_because), all_bounds.fresh) == (
        [STALE_REASON_AGE, STALE_REASON_TURNS_UNKNOWN, STALE_REASON_SNAPSHOT_UNKNOWN],
        False,
    )


def test_notes_that_are_not_ready_have_no_reasons(session: SessionCalls) -> None:
    """Without notes, `readiness` has the reason, and `stale_because` is empty."""
    for readiness in (READINESS_NEVER_RUN, READINESS_RUNNING):
        answer = session.get_notes(**EVERY_BOUND)
        assert (answer.readiness, answer.fresh, list(answer.stale_because)) == (readiness, False, [])
        session.begin_run("run-1")


def test_each_entry_of_a_batch_has_its_own_reasons(noted: SessionCalls) -> None:
    """In a batch, each entry has the reasons for its own bounds."""
    bounds: list[dict[str, Any]] = [{}, {"max_snapshot_age": ZERO}, {"max_age": ZERO}, {"max_snapshot_age": HOUR}]
    requests = [GetNotesRequest(session_id=noted.id, **entry) for entry in bounds]
    responses = noted.notes.BatchGetNotes(BatchGetNotesRequest(requests=requests), timeout=10).responses
    reasons = [list(response.stale_because) for response in responses]
    assert reasons == [[], [STALE_REASON_SNAPSHOT_AGE], [STALE_REASON_AGE], []]
    assert [response.fresh for response in responses] == [True, False, False, True]


def test_a_session_has_no_bounds(noted: SessionCalls) -> None:
    """Readings of GetSession have no bounds, so all ready notes are fresh."""
    reading = noted.get_session().notes["default"]
    assert (reading.fresh, list(reading.stale_because)) == (True, [])
