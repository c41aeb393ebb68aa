"""Rule 5: a slow old run never overwrites a newer one."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

import grpc
import pytest
from session_notes.v1.notes_pb2 import RUN_STATE_SUPERSEDED, RUN_STATE_WRITTEN
from session_notes.v1.session_notes_pb2 import (
    READINESS_EXPIRED,
    WRITE_OUTCOME_ACCEPTED,
    WRITE_OUTCOME_DUPLICATE,
    WRITE_OUTCOME_SUPERSEDED,
)

from tests.support import SessionCalls, eventually, refused


def test_an_older_number_is_superseded(session: SessionCalls) -> None:
    """A write is OK and SUPERSEDED if a run with a higher number has already written."""
    session.begin_run("old")
    session.begin_run("new")
    session.write_notes("new", "new notes")
    answer = session.write_notes("old", "old notes")
    assert (answer.outcome, answer.run.state) == (WRITE_OUTCOME_SUPERSEDED, RUN_STATE_SUPERSEDED)
    current = session.get_notes()
    assert (current.notes.summary, current.run.run_id, current.latest_run.run_id) == ("new notes", "new", "new")


def test_a_superseded_run_begun_again_is_that_run(session: SessionCalls) -> None:
    """BeginRun with the id of a superseded run returns that run and begins no other."""
    session.begin_run("old")
    session.begin_run("new")
    session.write_notes("new")
    superseded = session.write_notes("old").run
    again = session.begin_run("old")
    assert (again.started, again.run) == (True, superseded)
    assert [run.run_id for run in session.list_runs().runs] == ["new", "old"]
    assert session.begin_run("next", only_if_idle=True).run.number == 3


def test_an_older_number_is_superseded_despite_more_observed_turns(session: SessionCalls) -> None:
    """A lower number is SUPERSEDED even if it saw more turns."""
    session.begin_run("old", observed_turn=9)
    session.begin_run("new", observed_turn=2)
    session.write_notes("new", "new notes")
    assert session.write_notes("old").outcome == WRITE_OUTCOME_SUPERSEDED
    assert session.get_notes().notes.summary == "new notes"


def test_a_higher_number_that_only_began_supersedes_nothing(session: SessionCalls) -> None:
    """Only a write supersedes: a newer run that has begun or failed does not."""
    session.begin_run("old")
    session.begin_run("newer")
    session.begin_run("failed")
    session.fail_run("failed")
    assert session.write_notes("old", "old notes").outcome == WRITE_OUTCOME_ACCEPTED
    assert session.get_notes().notes.summary == "old notes"
    assert session.write_notes("newer", "newer notes").outcome == WRITE_OUTCOME_ACCEPTED


def test_fewer_observed_turns_are_superseded(session: SessionCalls) -> None:
    """A write is SUPERSEDED if both runs have `observed_turn` and it saw fewer turns, even with a higher number."""
    session.write_notes("first", "saw much", observed_turn=7)
    answer = session.write_notes("second", "saw little", observed_turn=6)
    assert (answer.outcome, answer.run.number) == (WRITE_OUTCOME_SUPERSEDED, 2)
    current = session.get_notes()
    assert (current.notes.summary, current.run.number, current.latest_run.number) == ("saw much", 1, 2)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        pytest.param(7, 7, "an equal number is not fewer", id="equal"),
        pytest.param(7, 8, "it saw more", id="more"),
        pytest.param(7, None, "the second has no observed_turn", id="second absent"),
        pytest.param(None, 3, "the first has no observed_turn", id="first absent"),
        pytest.param(0, 0, "neither saw a turn", id="zero"),
    ],
)
def test_a_newer_run_that_saw_as_many_turns_is_accepted(
    session: SessionCalls, first: int | None, second: int | None, reason: str
) -> None:
    """A newer run is ACCEPTED unless both runs have `observed_turn` and it saw fewer turns."""
    session.write_notes("first", observed_turn=first)
    answer = session.write_notes("second", "newer", observed_turn=second)
    assert answer.outcome == WRITE_OUTCOME_ACCEPTED, reason
    assert session.get_notes().notes.summary == "newer"


def test_zero_turns_are_fewer_than_one(session: SessionCalls) -> None:
    """An `observed_turn` of 0 is a value, not an absent field, and is fewer than 1."""
    session.write_notes("first", observed_turn=1)
    assert session.write_notes("second", observed_turn=0).outcome == WRITE_OUTCOME_SUPERSEDED


def test_superseded_notes_are_kept_in_the_history(session: SessionCalls) -> None:
    """A superseded write stays in the history, and ListRuns returns its notes on request."""
    session.begin_run("old")
    session.write_notes("new", "new notes")
    session.write_notes("old", "old notes")
    runs = session.list_runs(include_notes=True).runs
    assert [(run.run_id, run.state, run.notes.summary) for run in runs] == [
        ("new", RUN_STATE_WRITTEN, "new notes"),
        ("old", RUN_STATE_SUPERSEDED, "old notes"),
    ]
    assert not any(run.HasField("notes") for run in session.list_runs().runs)


@pytest.mark.parametrize("by", ["number", "observed turns"])
def test_expired_notes_still_supersede(session: SessionCalls, by: str) -> None:
    """Notes still supersede older runs after their `ttl` has passed."""
    session.begin_run("old", observed_turn=5)
    session.write_notes("new", observed_turn=5, ttl=timedelta(milliseconds=30))
    eventually(lambda: session.get_notes().readiness == READINESS_EXPIRED)
    late = session.write_notes("old") if by == "number" else session.write_notes("newest", observed_turn=4)
    assert late.outcome == WRITE_OUTCOME_SUPERSEDED
    assert session.get_notes().readiness == READINESS_EXPIRED


def test_a_superseded_run_supersedes_nothing(session: SessionCalls) -> None:
    """Only current notes supersede: a newer run that was superseded itself does not."""
    session.write_notes("first", "first notes", observed_turn=5)
    session.begin_run("older", observed_turn=6)
    assert session.write_notes("newer", observed_turn=4).outcome == WRITE_OUTCOME_SUPERSEDED
    assert session.write_notes("older", "better notes").outcome == WRITE_OUTCOME_ACCEPTED
    assert session.get_notes().notes.summary == "better notes"


def test_a_write_without_begin_gets_the_next_number(session: SessionCalls) -> None:
    """A write without BeginRun gets the next number when it is written."""
    assert session.begin_run("begun").run.number == 1
    written = session.write_notes("unannounced", "newer")
    assert (written.run.number, written.outcome) == (2, WRITE_OUTCOME_ACCEPTED)
    assert session.begin_run("next").run.number == 3
    assert session.write_notes("begun").outcome == WRITE_OUTCOME_SUPERSEDED


def test_numbers_have_no_gap_and_no_repeat(session: SessionCalls) -> None:
    """BeginRun and WriteNotes issue the numbers 1, 2, 3, … whatever runs concurrently."""

    def run(number: int) -> int:
        begun = session.begin_run(f"begun-{number}").run.number if number % 2 else 0
        return begun or session.write_notes(f"written-{number}").run.number

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(run, range(100))) == list(range(1, 101))


def test_observed_turn_of_write_notes_wins(session: SessionCalls) -> None:
    """WriteNotes' `observed_turn` takes precedence over BeginRun's, for reads and for superseding."""
    session.begin_run("first", observed_turn=3)
    assert session.write_notes("first", observed_turn=8).run.observed_turn == 8
    assert session.get_notes().observed_turn == 8
    assert session.get_notes(current_turn=9).turns_behind == 1
    assert session.write_notes("second", observed_turn=7).outcome == WRITE_OUTCOME_SUPERSEDED


def test_observed_turn_zero_of_write_notes_wins(session: SessionCalls) -> None:
    """An `observed_turn` of 0 in WriteNotes is a value, not an absent field."""
    session.begin_run("first", observed_turn=3)
    session.write_notes("first", observed_turn=0)
    assert session.get_notes().HasField("observed_turn")
    assert session.get_notes().observed_turn == 0


def test_observed_turn_of_begin_run_is_kept(session: SessionCalls) -> None:
    """Without `observed_turn` in WriteNotes, BeginRun's applies."""
    session.begin_run("first", observed_turn=3)
    session.write_notes("first")
    assert session.get_notes().observed_turn == 3


def test_a_write_without_begin_has_no_observed_turn(session: SessionCalls) -> None:
    """A run without BeginRun has no snapshot: its `observed_turn` is absent unless given."""
    session.append_turns(5)
    assert not session.write_notes("run-1").run.HasField("observed_turn")


def overtake(session: SessionCalls, times: int) -> None:
    """Write the notes of `times` newer runs."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: session.write_notes(), range(times)))


def test_a_run_in_flight_is_remembered_however_many_overtake_it(session: SessionCalls) -> None:
    """A run overtaken by more than a thousand others is SUPERSEDED when it writes, and its retry is a DUPLICATE."""
    for run_id in ("slow", "given-up", "unending"):
        session.begin_run(run_id, lease=timedelta(hours=1), observed_turn=3)
    overtake(session, 1003)
    in_flight = session.begin_run("another", only_if_idle=True)
    assert (in_flight.started, in_flight.run.run_id) == (False, "unending")
    answer = session.write_notes("slow", "old notes")
    assert (answer.outcome, answer.run.number) == (WRITE_OUTCOME_SUPERSEDED, 1)
    assert session.fail_run("given-up").run.number == 2
    overtake(session, 3)
    assert session.write_notes("slow", "old notes").outcome == WRITE_OUTCOME_DUPLICATE
    assert session.get_notes().run.number == 3 + 1003 + 3
    session.delete()
    for run_id in ("slow", "given-up", "unending"):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
            session.write_notes(run_id)


def test_a_slow_old_run_never_wins(session: SessionCalls) -> None:
    """In 200 rounds of a slow old run against a fast new one, the old notes are never current."""
    with ThreadPoolExecutor(2) as pool:
        for number in range(200):
            old, new, go = f"old-{number}", f"new-{number}", Event()
            session.begin_run(old)
            session.begin_run(new)

            def write(run_id: str, go: Event = go) -> int:
                go.wait()
                return session.write_notes(run_id, run_id).outcome

            slow, fast = pool.submit(write, old), pool.submit(write, new)
            go.set()
            assert fast.result() == WRITE_OUTCOME_ACCEPTED
            assert session.get_notes().notes.summary == new
            assert slow.result() in (WRITE_OUTCOME_ACCEPTED, WRITE_OUTCOME_SUPERSEDED)
            assert session.get_notes().notes.summary == new
            assert session.write_notes(old, old).outcome == WRITE_OUTCOME_DUPLICATE
            assert session.get_notes().notes.summary == new
