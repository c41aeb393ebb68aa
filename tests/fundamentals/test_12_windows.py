"""Rule 12: a run sees the part of the transcript that it asks for, of one snapshot."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from session_notes.v1.session_notes_pb2 import (
    READINESS_EXPIRED,
    READINESS_READY,
    READINESS_RUNNING,
    WRITE_OUTCOME_ACCEPTED,
    WRITE_OUTCOME_SUPERSEDED,
    BeginRunResponse,
)
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import SessionCalls, eventually, new_session_id, turns

KEPT = 2000
MOMENT = timedelta(milliseconds=30)


def window(response: BeginRunResponse) -> list[int]:
    """Return the numbers of the returned turns, after checking them against `first_turn`."""
    numbers = [int(turn.text.removeprefix("turn ")) for turn in response.transcript]
    assert response.HasField("first_turn") is bool(numbers)
    if numbers:
        assert numbers == list(range(response.first_turn, response.first_turn + len(numbers)))
    return numbers


def begin(session: SessionCalls, run_id: str, **fields: Any) -> list[int]:
    """Begin a run, and return the numbers of the turns that it gets."""
    return window(session.begin_run(run_id, include_transcript=True, **fields))


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        pytest.param({}, [1, 2, 3, 4, 5], id="everything"),
        pytest.param({"after_turn": 0}, [1, 2, 3, 4, 5], id="after no turn"),
        pytest.param({"after_turn": 3}, [4, 5], id="after a turn"),
        pytest.param({"after_turn": 5}, [], id="after the last turn"),
        pytest.param({"after_turn": 2**53 - 1}, [], id="after turns to come"),
        pytest.param({"max_turns": 2}, [4, 5], id="the newest two"),
        pytest.param({"max_turns": 5}, [1, 2, 3, 4, 5], id="as many as there are"),
        pytest.param({"max_turns": 2**31 - 1}, [1, 2, 3, 4, 5], id="more than there are"),
        pytest.param({"after_turn": 1, "max_turns": 2}, [4, 5], id="the newest two after a turn"),
        pytest.param({"after_turn": 4, "max_turns": 2}, [5], id="fewer than the maximum"),
        pytest.param({"after_turn": 3, "observed_turn": 40}, [4, 5], id="turns are numbered as they are stored"),
    ],
)
def test_a_run_gets_the_turns_it_asks_for(session: SessionCalls, fields: dict[str, Any], numbers: list[int]) -> None:
    """`after_turn` and `max_turns` select turns by number, and `first_turn` is the number of the first one."""
    session.append_turns(turns(5))
    assert begin(session, "run-1", **fields) == numbers


def test_a_run_gets_the_turns_that_the_notes_have_not_seen(session: SessionCalls) -> None:
    """`after_current_notes` selects all turns before the first notes, and later only those that are new."""
    session.append_turns(turns(3))
    assert begin(session, "run-1", after_current_notes=True) == [1, 2, 3]
    session.append_turns(turns(2, start=4))
    session.write_notes("run-1")
    assert begin(session, "run-2", after_current_notes=True) == [4, 5]
    assert begin(session, "run-3", after_current_notes=True, max_turns=1) == [5]
    assert begin(session, "run-1", observer="other", after_current_notes=True) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("observed_turn", "numbers"),
    [
        pytest.param(2, [3], id="some"),
        pytest.param(0, [1, 2, 3], id="none"),
        pytest.param(None, [1, 2, 3], id="unknown"),
        pytest.param(3, [], id="all"),
        pytest.param(40, [], id="more than are stored"),
    ],
)
def test_what_notes_have_seen_is_their_observed_turn(
    session: SessionCalls, observed_turn: int | None, numbers: list[int]
) -> None:
    """The turns that the notes have seen are those up to their `observed_turn`, if it is known."""
    session.append_turns(turns(3))
    session.write_notes("run-1", observed_turn=observed_turn)
    assert begin(session, "run-2", after_current_notes=True) == numbers


def test_only_current_notes_have_seen_turns(session: SessionCalls) -> None:
    """Superseded notes do not count, nor do notes whose ttl has passed: GetNotes does not return them either."""
    session.append_turns(turns(4))
    session.begin_run("slow", observed_turn=3)
    session.write_notes("run-2", observed_turn=1, ttl=timedelta(minutes=1))
    assert session.write_notes("slow").outcome == WRITE_OUTCOME_SUPERSEDED
    assert begin(session, "run-3", after_current_notes=True) == [2, 3, 4]
    session.write_notes("run-3", ttl=MOMENT)
    eventually(lambda: session.get_notes().readiness == READINESS_EXPIRED)
    assert begin(session, "run-4", after_current_notes=True) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "first",
    [{"after_turn": 1}, {"after_current_notes": True}, {"max_turns": 2}, {"after_turn": 3}],
    ids=["after_turn", "after_current_notes", "max_turns", "nothing selected"],
)
@pytest.mark.parametrize(
    "repeated",
    [{}, {"after_turn": 0}, {"after_turn": 4}, {"after_current_notes": True}, {"max_turns": 1}],
    ids=["no bounds", "all", "new turns", "new notes", "newest"],
)
def test_a_repeated_call_gets_the_first_window(
    session: SessionCalls, store: Store, first: dict[str, Any], repeated: dict[str, Any]
) -> None:
    """A retry gets the window of the first call, whatever it asks for, despite newer turns and notes."""
    session.append_turns(turns(3))
    session.write_notes("noted", observed_turn=1)
    numbers = begin(session, "run-1", **first)
    assert numbers == ([] if first == {"after_turn": 3} else [2, 3])
    session.append_turns(turns(2, start=4))
    session.begin_run("run-2")
    session.write_notes("run-2")
    before = store.dump(session.id)
    assert begin(session, "run-1", **repeated) == numbers
    assert store.dump(session.id) == before


def test_a_repeated_call_may_ask_for_the_transcript_later(session: SessionCalls) -> None:
    """A call without `include_transcript` selects no turns, so a later call gets the snapshot's whole transcript."""
    session.append_turns(turns(3))
    response = session.begin_run("run-1", after_turn=2, max_turns=1)
    assert (window(response), response.run.observed_turn) == ([], 3)
    session.append_turns(turns(1, start=4))
    assert begin(session, "run-1", after_turn=2) == [1, 2, 3]


def test_turns_keep_their_numbers_when_old_ones_are_dropped(session: SessionCalls) -> None:
    """Only the newest 2,000 turns stay, with their numbers. A retry gets those of its window that are left."""
    session.append_turns(turns(1500))
    assert begin(session, "early", after_turn=900) == list(range(901, 1501))
    session.append_turns(turns(1500, start=1501))
    assert begin(session, "early") == list(range(1001, 1501))
    assert begin(session, "all") == list(range(1001, 3001))
    assert begin(session, "late", after_turn=2997) == [2998, 2999, 3000]
    assert begin(session, "dropped", after_turn=10, max_turns=1999) == list(range(1002, 3001))
    session.append_turns(turns(1500, start=3001))
    assert begin(session, "early") == []


def test_turns_keep_their_numbers_when_the_transcript_takes_8_mib(session: SessionCalls) -> None:
    """Turns dropped for their size do not change the numbers of the others."""
    for _ in range(3):
        session.append_turns([Turn(text="x" * 60_000)] * 50)
    session.append_turns(turns(2, start=151))
    assert begin(session, "run-1", after_turn=150) == [151, 152]
    response = session.begin_run("run-2", include_transcript=True)
    assert response.first_turn + len(response.transcript) == 153
    assert len(response.transcript) < 152


def test_a_lost_transcript_makes_no_number_wrong(session: SessionCalls, store: Store) -> None:
    """Once the store has lost the transcript, old turns are not returned, and new ones have the right numbers."""
    session.append_turns(turns(5))
    assert begin(session, "run-1", after_turn=2) == [3, 4, 5]
    store.client.delete(store.key(session.id, "turns"))
    assert begin(session, "run-1") == []
    assert begin(session, "run-2") == []
    session.append_turns(turns(2, start=6))
    assert begin(session, "run-1") == []
    assert begin(session, "run-3") == [6, 7]
    assert begin(session, "run-4", after_turn=6) == [7]


def test_the_current_notes_are_those_of_get_notes(session: SessionCalls) -> None:
    """With `include_current_notes`, `current` is the response of GetNotes without bounds, except for the ages."""
    session.append_turns(turns(3))
    session.begin_run("run-1")
    session.write_notes("run-1", "the notes", ttl=timedelta(minutes=1))
    session.append_turns(turns(2, start=4))
    current = session.begin_run("run-2", include_current_notes=True).current
    reading = session.get_notes()
    assert (current.notes.summary, current.turns_behind, current.fresh) == ("the notes", 2, True)
    assert (current.latest_run.run_id, current.latest_run.number) == ("run-2", 2)
    for part in (current, reading):
        assert timedelta() <= part.age.ToTimedelta() <= part.snapshot_age.ToTimedelta()
        for clock in ("age", "snapshot_age", "expires_in"):
            part.ClearField(clock)
    assert current == reading


def test_without_notes_current_has_a_readiness(session: SessionCalls) -> None:
    """Before the first notes, `current` says so: the new run is RUNNING, and no turn is known."""
    current = session.begin_run("run-1", include_current_notes=True).current
    assert (current.ready, current.readiness, current.latest_run.run_id) == (False, READINESS_RUNNING, "run-1")
    assert not session.begin_run("run-2").HasField("current")
    session.write_notes("run-2", observed_turn=1)
    current = session.begin_run("run-3", include_current_notes=True).current
    assert (current.ready, current.HasField("turns_behind")) == (True, False)


def test_a_repeated_call_gets_the_notes_of_now(session: SessionCalls, store: Store) -> None:
    """`current` of a retry has the notes that are current now, also those of the run itself."""
    assert session.begin_run("run-1", include_current_notes=True).current.ready is False
    session.write_notes("run-2", "newer")
    session.write_notes("run-1", "own")
    before = store.dump(session.id)
    current = session.begin_run("run-1", include_current_notes=True).current
    assert (current.readiness, current.notes.summary) == (READINESS_READY, "newer")
    assert store.dump(session.id) == before


def test_a_run_that_is_not_started_gets_the_notes_and_no_turns(session: SessionCalls) -> None:
    """With another run in flight, a call with `only_if_idle` gets `current` if it asked, and no turn."""
    session.append_turns(turns(3))
    session.write_notes("run-1", "the notes")
    session.begin_run("run-2")
    asked = {"only_if_idle": True, "include_transcript": True, "after_turn": 1, "include_current_notes": True}
    response = session.begin_run("run-3", **asked)
    assert (response.started, response.run.run_id, window(response)) == (False, "run-2", [])
    assert response.current.notes.summary == "the notes"


ADD = strategies.tuples(strategies.just("add"), strategies.sampled_from([1, 2, 3, 700, 1999, 2001]))
BEGIN = strategies.tuples(
    strategies.just("begin"),
    strategies.integers(0, 5),
    strategies.booleans(),
    strategies.none() | strategies.just("notes") | strategies.integers(0, 12) | strategies.integers(0, 5000),
    strategies.sampled_from([0, 0, 1, 2, 3, 1000, 2**31 - 1]),
)
WRITE = strategies.tuples(
    strategies.just("write"), strategies.integers(0, 5), strategies.none() | strategies.integers(0, 5000)
)
LOSE = strategies.tuples(strategies.just("lose"))


@given(operations=strategies.lists(ADD | BEGIN | BEGIN | WRITE | LOSE, min_size=4, max_size=25))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_any_sequence_of_calls_returns_the_right_turns(
    channel: grpc.Channel, store: Store, operations: Sequence[tuple[Any, ...]]
) -> None:
    """In any order of appends, runs, retries, writes and losses, each run gets the turns that a plain list has."""
    session = SessionCalls(channel, new_session_id())
    stored, count, seen = list[int](), 0, 0
    windows, written = dict[int, tuple[int, int | None]](), set[int]()
    for kind, *arguments in operations:
        if kind == "add":
            assert session.append_turns(turns(arguments[0], start=count + 1)) == count + arguments[0]
            stored += range(count + 1, count + 1 + arguments[0])
            stored, count = stored[-KEPT:], count + arguments[0]
        elif kind == "lose":
            store.client.delete(store.key(session.id, "turns"))
            stored = []
        elif kind == "write":
            run, observed_turn = arguments
            if run not in written:
                response = session.write_notes(str(run), observed_turn=observed_turn)
                seen = response.run.observed_turn if response.outcome == WRITE_OUTCOME_ACCEPTED else seen
                written.add(run)
                windows.setdefault(run, (0, None))
        else:
            run, asks, lower, max_turns = arguments
            if run not in windows:
                after = 0 if lower is None or not asks else seen if lower == "notes" else lower
                windows[run] = (max(after, count - max_turns) if asks and max_turns else after), count
            bounds = (
                {} if lower is None else {"after_current_notes": True} if lower == "notes" else {"after_turn": lower}
            )
            got = window(session.begin_run(str(run), include_transcript=asks, max_turns=max_turns, **bounds))
            after, last = windows[run]
            assert got == ([n for n in stored if after < n <= (count if last is None else last)] if asks else [])
    session.delete()
