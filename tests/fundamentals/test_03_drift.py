"""Rule 3: drift is a number for the caller to judge."""

from datetime import timedelta

import pytest

from tests.support import SessionCalls, eventually

HOUR = timedelta(hours=1)


def test_turns_behind_is_measured_against_the_requests_turn(session: SessionCalls) -> None:
    """`turns_behind` is the request's `current_turn` minus `observed_turn`."""
    session.write_notes("run-1", observed_turn=4)
    answer = session.get_notes(current_turn=10)
    assert (answer.observed_turn, answer.turns_behind) == (4, 6)


def test_turns_behind_is_measured_against_the_stored_transcript(session: SessionCalls) -> None:
    """Without `current_turn` in the request, the current turn is the length of the stored transcript."""
    session.write_notes("run-1", observed_turn=2)
    session.append_turns(5)
    assert session.get_notes().turns_behind == 3


def test_the_requests_turn_wins_over_the_transcript(session: SessionCalls) -> None:
    """The request's `current_turn` takes precedence over the length of the stored transcript."""
    session.write_notes("run-1", observed_turn=2)
    session.append_turns(5)
    assert session.get_notes(current_turn=3).turns_behind == 1


def test_a_requests_turn_of_zero_is_a_turn(session: SessionCalls) -> None:
    """A `current_turn` of 0 is a value, not an absent field."""
    session.write_notes("run-1", observed_turn=0)
    session.append_turns(5)
    answer = session.get_notes(current_turn=0)
    assert answer.HasField("turns_behind")
    assert answer.turns_behind == 0


def test_not_below_zero(session: SessionCalls) -> None:
    """`turns_behind` is at least 0, even if the observer saw more turns than the caller counts."""
    session.write_notes("run-1", observed_turn=9)
    assert session.get_notes(current_turn=4).turns_behind == 0
    session.append_turns(1)
    assert session.get_notes().turns_behind == 0


def test_zero_turns_behind_is_present(session: SessionCalls) -> None:
    """For notes that saw every turn, `turns_behind` is a present 0."""
    session.append_turns(3)
    session.begin_run("run-1")
    session.write_notes("run-1")
    answer = session.get_notes()
    assert answer.HasField("turns_behind")
    assert (answer.observed_turn, answer.turns_behind) == (3, 0)


def test_turns_behind_is_absent_without_a_current_turn(session: SessionCalls) -> None:
    """`turns_behind` is absent without both a `current_turn` and a transcript."""
    session.write_notes("run-1", observed_turn=4)
    answer = session.get_notes()
    assert answer.observed_turn == 4
    assert not answer.HasField("turns_behind")


def test_turns_behind_is_absent_without_an_observed_turn(session: SessionCalls) -> None:
    """`turns_behind` is absent if the run has no `observed_turn`."""
    session.begin_run("run-1")
    session.write_notes("run-1")
    answer = session.get_notes(current_turn=4)
    assert not answer.HasField("observed_turn")
    assert not answer.HasField("turns_behind")


def test_drift_is_absent_when_not_ready(session: SessionCalls) -> None:
    """`observed_turn` and `turns_behind` are absent when not ready."""
    session.append_turns(2)
    session.begin_run("run-1", observed_turn=1)
    answer = session.get_notes(current_turn=5)
    assert not answer.HasField("observed_turn")
    assert not answer.HasField("turns_behind")


@pytest.mark.parametrize(
    ("bounds", "fresh"),
    [
        pytest.param({}, True, id="without bounds, notes are fresh"),
        pytest.param({"current_turn": 10**6}, True, id="drift without a bound does not matter"),
        pytest.param({"max_age": HOUR}, True, id="within max_age"),
        pytest.param({"current_turn": 7, "max_turns_behind": 3}, True, id="the bound is inclusive"),
        pytest.param({"current_turn": 8, "max_turns_behind": 3}, False, id="one turn too many"),
        pytest.param({"current_turn": 4, "max_turns_behind": 0}, True, id="no drift, within a bound of 0"),
        pytest.param({"current_turn": 5, "max_turns_behind": 0}, False, id="a bound of 0 is a bound"),
        pytest.param({"current_turn": 1, "max_turns_behind": 0}, True, id="never negative, so within any bound"),
        pytest.param({"current_turn": 7, "max_turns_behind": 3, "max_age": HOUR}, True, id="both bounds are met"),
        pytest.param(
            {"current_turn": 8, "max_turns_behind": 3, "max_age": HOUR}, False, id="only the age bound is met"
        ),
        pytest.param({"max_turns_behind": 100}, False, id="a bound that cannot be checked is not met"),
        pytest.param({"max_turns_behind": 100, "max_age": HOUR}, False, id="even if the other bound is met"),
    ],
)
def test_bounds_only_decide_fresh(session: SessionCalls, bounds: dict[str, object], *, fresh: bool) -> None:
    """`max_age` and `max_turns_behind` only decide `fresh`; the notes are returned either way."""
    session.write_notes("run-1", "the notes", observed_turn=4)
    answer = session.get_notes(**bounds)  # type: ignore[arg-type]
    assert answer.fresh is fresh
    assert (answer.ready, answer.notes.summary) == (True, "the notes")


def test_old_notes_are_not_fresh_even_without_new_turns(session: SessionCalls) -> None:
    """One unmet bound is enough: notes that are too old are not fresh, even without new turns."""
    session.append_turns(2)
    session.begin_run("run-1")
    session.write_notes("run-1", "the notes")
    eventually(lambda: session.get_notes(max_age=timedelta(0), max_turns_behind=0).fresh is False)
    answer = session.get_notes(max_age=timedelta(0), max_turns_behind=0)
    assert (answer.turns_behind, answer.ready, answer.notes.summary) == (0, True, "the notes")


def test_an_unknown_observed_turn_cannot_be_checked(session: SessionCalls) -> None:
    """A drift bound is not met if the run has no `observed_turn`."""
    session.write_notes("run-1")
    assert session.get_notes(current_turn=1, max_turns_behind=100).fresh is False
    assert session.get_notes(current_turn=1).fresh is True


def test_a_transcript_makes_a_bound_checkable(session: SessionCalls) -> None:
    """The length of the stored transcript is enough to check a drift bound."""
    session.append_turns(2)
    session.begin_run("run-1")
    session.write_notes("run-1")
    session.append_turns(3)
    assert session.get_notes(max_turns_behind=3).fresh is True
    assert session.get_notes(max_turns_behind=2).fresh is False


def test_not_ready_is_never_fresh(session: SessionCalls) -> None:
    """Not ready is never fresh, whatever the bounds."""
    session.begin_run("run-1")
    assert session.get_notes(max_age=HOUR, current_turn=0, max_turns_behind=0).fresh is False
