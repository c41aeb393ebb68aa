"""A promise that cannot be broken is not checked: each one is, by a doctored history."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from session_notes_tools.replay.history import History, Read, ReadBack, Refused, SessionHistory
from session_notes_tools.replay.promises import PROMISES
from session_notes_tools.replay.verdicts import MOST_EXAMPLES, judge

from tests.replay.histories import foreign_notes, history_of, honest

Doctor = Callable[[SessionHistory], object]


def _read(index: int, **changes: Any) -> Doctor:
    def doctor(session: SessionHistory) -> None:
        session.reads[index] = replace(session.reads[index], **changes)

    return doctor


def _written(index: int, **changes: Any) -> Doctor:
    def doctor(session: SessionHistory) -> None:
        session.written[index] = replace(session.written[index], **changes)

    return doctor


def _begun(index: int, **changes: Any) -> Doctor:
    def doctor(session: SessionHistory) -> None:
        session.begun[index] = replace(session.begun[index], **changes)

    return doctor


def _back(**changes: Callable[[ReadBack], Any]) -> Doctor:
    def doctor(session: SessionHistory) -> None:
        assert session.read_back is not None
        changed = {name: change(session.read_back) for name, change in changes.items()}
        session.read_back = replace(session.read_back, **changed)

    return doctor


def _listed(index: int, **changes: Any) -> Doctor:
    return _back(runs=lambda back: [replace(run, **changes) if i == index else run for i, run in enumerate(back.runs)])


def _current(**changes: Any) -> Doctor:
    def change(back: ReadBack) -> Read:
        assert back.current is not None
        return replace(back.current, **changes)

    return _back(current=change)


def _refused(session: SessionHistory) -> None:
    session.refused.append(Refused(session.plan.session_id, "UpdateSession", "VersionMismatch: at another version"))


def _foreign_read(session: SessionHistory) -> None:
    _read(3, notes=foreign_notes(session, 3, 3))(session)


def _torn_read(session: SessionHistory) -> None:
    # The current run's summary with the issues and the rest of an earlier one.
    earlier, later = session.reads[1].notes, session.reads[3].notes
    assert earlier is not None
    assert later is not None
    _read(3, notes={**earlier, "summary": later["summary"]})(session)


def _foreign_in_the_list(session: SessionHistory) -> None:
    _listed(2, notes=foreign_notes(session, 3, 3))(session)


def _reads_swapped(session: SessionHistory) -> None:
    session.reads[1], session.reads[3] = session.reads[3], session.reads[1]


def _superseded_read(session: SessionHistory) -> None:
    overtaken = session.written[2]
    _read(
        3,
        run_id="run-2",
        number=2,
        observed_turn=2,
        turns_behind=2,
        fresh=False,
        notes=overtaken.notes,
        write_time_us=5,
    )(session)


DOCTORED = [
    ("no call is refused", _refused, "a refused call"),
    ("nothing lost: the transcript", _back(turns=lambda back: back.turns[:-1]), "the last turn"),
    ("nothing lost: the transcript", _back(turns=lambda back: back.turns[::-1]), "the order"),
    ("nothing lost: the transcript", _back(turn_count=lambda back: 5), "a turn too many"),
    ("nothing lost: the fields", _back(fields=lambda back: {"Trains.to": "Oslo"}), "two fields"),
    ("nothing lost: the fields", _back(fields=lambda back: {**back.fields, "more": 1}), "a field of somebody else"),
    ("nothing lost: the fields", _back(version=lambda back: 3), "an update"),
    ("nothing lost: the notes", _back(runs=lambda back: back.runs[:-1]), "a run that wrote"),
    ("nothing lost: the notes", _listed(4, notes=None), "its notes"),
    ("nothing lost: the next read sees accepted notes", _read(1, readiness="never_run", number=None), "not there yet"),
    ("nothing foreign, nothing torn", _foreign_read, "another session's notes, read"),
    ("nothing foreign, nothing torn", _foreign_in_the_list, "another session's notes, listed"),
    ("nothing foreign, nothing torn", _torn_read, "half of each"),
    ("nothing foreign, nothing torn", _read(1, observed_turn=2), "another snapshot than it says"),
    ("nothing foreign, nothing torn", _read(1, run_id="run-9"), "another run than it says"),
    ("nothing foreign, nothing torn", _read(1, notes=None), "ready, without notes"),
    ("what a run was told stands", _listed(3, state="written"), "superseded, then written"),
    ("what a run was told stands", _listed(1, state="running"), "failed, then running"),
    ("what a run was told stands", _listed(4, number=7), "another number"),
    ("ages never negative, never above the snapshot's", _read(1, age_us=-1), "a negative age"),
    ("ages never negative, never above the snapshot's", _read(1, snapshot_age_us=3), "older than the snapshot"),
    ("ages never negative, never above the snapshot's", _read(1, age_us=None), "no age"),
    ("run numbers never fall", _reads_swapped, "the notes of an older run"),
    ("run numbers never fall", _current(latest_number=2), "an older latest run"),
    ("write times never fall", _reads_swapped, "notes written earlier"),
    ("write times are those the runs were told", _read(1, write_time_us=7), "another time"),
    ("runs are numbered 1, 2, 3, … and end once", _begun(4, number=4), "a number twice"),
    ("runs are numbered 1, 2, 3, … and end once", _begun(4, number=6), "a number left out"),
    ("runs are numbered 1, 2, 3, … and end once", lambda session: session.unwritten.clear(), "runs without an end"),
    ("runs are numbered 1, 2, 3, … and end once", _back(runs=lambda back: back.runs[::-1]), "listed oldest first"),
    ("turn counts and versions grow by one", _read(2, turn_count=4), "a turn counted twice"),
    ("turn counts and versions grow by one", _read(2, version=2), "an update not counted"),
    ("superseded exactly when a newer run wrote", _written(2, outcome="accepted"), "a late run accepted"),
    ("superseded exactly when a newer run wrote", _written(0, outcome="superseded"), "superseded by nobody"),
    ("superseded notes are never current", _superseded_read, "notes of the run that was overtaken"),
    ("superseded notes are never current", _read(3, state="superseded"), "the sidecar says so itself"),
    ("the newest run that wrote is current", _current(number=1), "an older one is"),
    ("the newest run that wrote is current", _back(current=lambda back: None), "none is"),
    ("duplicates change nothing", _written(3, write_time_us=5), "a new write time"),
    ("duplicates change nothing", _written(3, outcome="accepted"), "accepted twice"),
    ("drift is right, never negative", _read(1, turns_behind=0), "less than it is"),
    ("drift is right, never negative", _read(1, current_turn=0, turns_behind=-1), "a negative one"),
    ("fresh is what the bound says", _read(2, fresh=True), "two turns behind with one allowed"),
    ("fresh is what the bound says", _read(1, fresh=False), "one turn behind with one allowed"),
    ("fresh is what the bound says", _read(0, fresh=True), "fresh and not ready"),
    ("no run has seen turns to come", _read(1, observed_turn=3), "three turns of two"),
    ("no run has seen turns to come", _begun(4, observed_turn=5), "five turns of four"),
    ("ready stays ready", _read(2, readiness="running"), "running after ready"),
    ("ready stays ready", _read(3, readiness="never_run"), "never run after ready"),
    ("deleted is gone", lambda session: setattr(session, "left", "turns, notes"), "something is left"),
]


def _broken(session: SessionHistory) -> set[str]:
    return {verdict.promise for verdict in judge(history_of(session)) if verdict.broken}


def test_an_honest_history_keeps_every_promise() -> None:
    """... and puts each of them to the test."""
    for verdict in judge(history_of(honest())):
        assert verdict.broken == 0, verdict
        assert verdict.checks > 0, verdict


@pytest.mark.parametrize(
    ("promise", "doctor"), [row[:2] for row in DOCTORED], ids=[": ".join(r[::2]) for r in DOCTORED]
)
def test_a_broken_promise_is_found(promise: str, doctor: Doctor) -> None:
    session = honest()
    doctor(session)
    assert promise in _broken(session)


def test_every_promise_has_been_broken_here() -> None:
    assert {promise for promise, _, _ in DOCTORED} == set(PROMISES)


def test_what_was_broken_is_told_with_examples() -> None:
    """The session, and what; a few of them, however many there were."""
    session = honest()
    for _ in range(MOST_EXAMPLES + 3):
        _refused(session)
    (verdict,) = (one for one in judge(history_of(session)) if one.broken)
    assert verdict.broken == MOST_EXAMPLES + 3
    assert len(verdict.examples) == MOST_EXAMPLES
    session_id, what = verdict.examples[0]
    assert session_id == session.plan.session_id
    assert "VersionMismatch" in what


def test_runs_that_have_left_the_history_are_not_missed() -> None:
    """ListRuns goes back 20 runs: of earlier ones nothing is asked."""
    session = honest()
    many = [replace(session.begun[-1], run_id=f"run-{number}", number=number) for number in range(6, 26)]
    session.begun += many
    session.unwritten += [replace(session.unwritten[-1], run_id=run.run_id, number=run.number) for run in many]
    assert session.read_back is not None
    template = session.read_back.runs[0]
    listed = [replace(template, run_id=run.run_id, number=run.number) for run in reversed(many)]
    _back(runs=lambda back: listed)(session)
    assert _broken(session) == set()


def test_a_read_that_nobody_answered_breaks_nothing() -> None:
    """The primary goes on without; what it knew before and learns afterwards still has to fit together."""
    session = honest()
    nothing = dict.fromkeys(
        ("age_us", "snapshot_age_us", "write_time_us", "observed_turn", "turns_behind", "run_id", "number", "state")
    )
    _read(2, readiness="unavailable", fresh=False, latest_number=None, notes=None, **nothing)(session)
    assert _broken(session) == set()


@pytest.mark.parametrize("index", [0, 2])
def test_a_write_whose_first_answer_was_lost_breaks_nothing(index: int) -> None:
    """The client has tried again: DUPLICATE, whether it was accepted or came too late."""
    session = honest()
    _written(index, outcome="duplicate")(session)
    assert _broken(session) == set()


def test_a_session_nothing_happened_to_breaks_nothing() -> None:
    assert _broken(SessionHistory(honest().plan)) == set()
    assert all(verdict.checks == 0 for verdict in judge(History([])))
