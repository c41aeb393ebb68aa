"""The checks of the promises, each on histories that break its promise."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from session_notes_tools.replay.history import History, ReadBack, SessionHistory
from session_notes_tools.replay.promises import PROMISES
from session_notes_tools.replay.records import (
    FeedText,
    NotesRead,
    NotesWrite,
    Rejection,
    Renewal,
    Repeat,
    RunWithoutNotes,
    SessionRecord,
    Submit,
    Window,
    Write,
)
from session_notes_tools.replay.verdicts import MAX_EXAMPLES, judge

from tests.replay.histories import foreign_notes, history_of, played_session, run_begin

Tamper = Callable[[SessionHistory], object]


def _record(kind: type[SessionRecord], index: int, **changes: Any) -> Tamper:
    """Change one of the records of a type."""

    def tamper(session: SessionHistory) -> None:
        record = session.of(kind)[index]
        session.records[session.records.index(record)] = replace(record, **changes)

    return tamper


_write = partial(_record, Write)
_read = partial(_record, NotesRead)
_notes_write = partial(_record, NotesWrite)
_window = partial(_record, Window)
_renewal = partial(_record, Renewal)
_feed_text = partial(_record, FeedText)


def _run_begin(run: int, **changes: Any) -> Tamper:
    return _write(7 + run, **changes)  # The primary has eight writes before the first run.


def _back(**changes: Callable[[ReadBack], Any]) -> Tamper:
    def tamper(session: SessionHistory) -> None:
        assert session.read_back is not None
        values = {name: change(session.read_back) for name, change in changes.items()}
        session.read_back = replace(session.read_back, **values)

    return tamper


def _listed(index: int, **changes: Any) -> Tamper:
    return _back(runs=lambda back: [replace(run, **changes) if i == index else run for i, run in enumerate(back.runs)])


def _current(**changes: Any) -> Tamper:
    def change(back: ReadBack) -> NotesRead:
        assert back.current is not None
        return replace(back.current, **changes)

    return _back(current=change)


def _without(kind: type[SessionRecord], index: int) -> Tamper:
    """Remove one of the records of a type."""
    return lambda session: session.records.remove(session.of(kind)[index])


def _feed_text_again(session: SessionHistory) -> None:
    _feed_text(1, text=session.of(FeedText)[0].text)(session)


def _feed_text_of_an_older_run(session: SessionHistory) -> None:
    _feed_text(2, text=session.of(FeedText)[0].text)(session)


def _rejected(session: SessionHistory) -> None:
    session.records.append(Rejection(session.session_id, "UpdateSession", "VersionMismatch: at another version"))


def _foreign_read(session: SessionHistory) -> None:
    _read(3, notes=foreign_notes(session, 3, 3))(session)


def _torn_read(session: SessionHistory) -> None:
    # The current run's summary, with the other parts of an earlier run's notes.
    reads = session.of(NotesRead)
    earlier, later = reads[1].notes, reads[3].notes
    assert earlier is not None
    assert later is not None
    _read(3, notes={**earlier, "summary": later["summary"]})(session)


def _foreign_listed(session: SessionHistory) -> None:
    _listed(2, notes=foreign_notes(session, 3, 3))(session)


def _reads_swapped(session: SessionHistory) -> None:
    first, second = (session.records.index(session.of(NotesRead)[index]) for index in (1, 3))
    session.records[first], session.records[second] = session.records[second], session.records[first]


def _superseded_read(session: SessionHistory) -> None:
    overtaken = session.of(NotesWrite)[2]
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


TAMPERED = [
    ("no call is rejected", _rejected, "a rejected call"),
    ("nothing lost: the transcript", _back(turns=lambda back: back.turns[:-1]), "the last turn missing"),
    ("nothing lost: the transcript", _back(turns=lambda back: back.turns[::-1]), "turns in another order"),
    ("nothing lost: the transcript", _back(turn_count=lambda back: 5), "a turn too many"),
    ("nothing lost: the fields", _back(fields=lambda back: {"Trains.to": "Oslo"}), "two fields missing"),
    ("nothing lost: the fields", _back(fields=lambda back: {**back.fields, "more": 1}), "a foreign field"),
    ("nothing lost: the fields", _back(version=lambda back: 3), "an update missing"),
    ("nothing lost: the notes", _listed(4, notes=None), "a run's notes missing"),
    (
        "nothing lost: reads show acknowledged writes",
        _read(1, readiness="never_run", number=None),
        "notes not ready yet",
    ),
    ("writes are stored whole and once", _back(runs=lambda back: back.runs[1:]), "the newest run lost"),
    ("writes are stored whole and once", _back(runs=lambda back: back.runs[:-1]), "the oldest run lost"),
    ("writes are stored whole and once", _write(0, outcome="rejected"), "a rejected turn stored"),
    ("writes are stored whole and once", _back(runs=lambda back: back.runs[:1] * 2), "a run stored twice"),
    ("writes keep real-time order", _run_begin(1, number=2), "a number that differs from the response"),
    ("writes keep real-time order", _run_begin(1, sent=8.0, received=9.0), "numbered before runs that had begun"),
    ("nothing foreign, nothing torn", _foreign_read, "another session's notes read"),
    ("nothing foreign, nothing torn", _foreign_listed, "another session's notes listed"),
    ("nothing foreign, nothing torn", _torn_read, "parts of two runs' notes"),
    ("nothing foreign, nothing torn", _read(1, observed_turn=2), "notes of another snapshot"),
    ("nothing foreign, nothing torn", _read(1, run_id="run-9"), "notes of another run"),
    ("nothing foreign, nothing torn", _read(1, notes=None), "ready without notes"),
    ("nothing foreign, nothing torn", _listed(0, run_id="run-9"), "a run that no client began"),
    ("a run's outcome stands", _listed(3, state="written"), "superseded, then written"),
    ("a run's outcome stands", _listed(1, state="running"), "failed, then running"),
    ("a run's outcome stands", _listed(4, number=7), "another number"),
    ("ages never negative, never above the snapshot's", _read(1, age_us=-1), "a negative age"),
    ("ages never negative, never above the snapshot's", _read(1, snapshot_age_us=3), "older than the snapshot"),
    ("ages never negative, never above the snapshot's", _read(1, age_us=None), "no age"),
    ("run numbers never fall", _reads_swapped, "the notes of an older run"),
    ("run numbers never fall", _current(latest_number=2), "an older latest run"),
    ("write times never fall", _reads_swapped, "notes written earlier"),
    ("write times are those of the responses", _read(1, write_time_us=7), "another time"),
    ("runs are numbered 1, 2, 3, … and end once", _run_begin(5, number=4), "a number twice"),
    ("runs are numbered 1, 2, 3, … and end once", _run_begin(5, number=6), "a number left out"),
    (
        "runs are numbered 1, 2, 3, … and end once",
        _without(RunWithoutNotes, 0),
        "a run without an end",
    ),
    ("runs are numbered 1, 2, 3, … and end once", _back(runs=lambda back: back.runs[::-1]), "listed oldest first"),
    ("turn counts and versions grow by one", _write(4, number=4), "a turn counted twice"),
    ("turn counts and versions grow by one", _write(5, number=2), "an update not counted"),
    ("superseded exactly when a newer run wrote", _notes_write(2, outcome="accepted"), "a late run accepted"),
    ("superseded exactly when a newer run wrote", _notes_write(0, outcome="superseded"), "superseded by no run"),
    ("superseded notes are never current", _superseded_read, "notes of the overtaken run"),
    ("superseded notes are never current", _read(3, state="superseded"), "notes in state superseded"),
    ("the newest run that wrote is current", _current(number=1), "an older run is current"),
    ("the newest run that wrote is current", _back(current=lambda back: None), "no run is current"),
    ("duplicates change nothing", _notes_write(3, write_time_us=5), "a new write time"),
    ("duplicates change nothing", _notes_write(3, outcome="accepted"), "accepted twice"),
    ("an append is done once per id", _record(Repeat, 0, number=3), "a repeated turn counted again"),
    ("a run sees exactly the turns that are new", _window(2, names=["1", "2", "3"], first_turn=1), "a turn too many"),
    ("a run sees exactly the turns that are new", _window(2, names=["3"], first_turn=3), "a turn too few"),
    ("a run sees exactly the turns that are new", _window(2, names=["3", "2"]), "turns in another order"),
    ("a run sees exactly the turns that are new", _window(2, first_turn=1), "another first turn"),
    ("a run sees exactly the turns that are new", _window(4, current_run_id="run-2"), "after superseded notes"),
    ("a run sees exactly the turns that are new", _window(0, seen=0, current_run_id="run-1"), "after notes to come"),
    ("obsolete exactly when a newer run wrote", _renewal(0, obsolete=True), "obsolete too early"),
    ("obsolete exactly when a newer run wrote", _renewal(1, obsolete=False), "overtaken and not obsolete"),
    ("obsolete exactly when a newer run wrote", _notes_write(2, outcome="accepted"), "obsolete and accepted"),
    ("obsolete exactly when a newer run wrote", _renewal(1, turns_behind=1), "another drift"),
    ("obsolete exactly when a newer run wrote", _renewal(1, turns_behind=None), "no drift"),
    ("a submission leads to one run", _without(Window, 3), "a submission without a run"),
    ("a submission leads to one run", _without(Submit, 0), "a run without a submission"),
    ("brakes hold", _window(1, begin_time_us=0), "a run too early"),
    ("brakes hold", _window(3, names=[]), "a run without new turns"),
    ("a feed's text is new", _feed_text_again, "the same text again"),
    ("a feed's text is new", _feed_text(1, current_turn=2), "another text of the same run, as fresh"),
    ("a feed's text is new", _feed_text_of_an_older_run, "the text of an older run"),
    ("a feed's text is new", _feed_text(1, current_turn=2), "a stale text of fresh notes"),
    ("drift is right, never negative", _read(1, turns_behind=0), "too low a drift"),
    ("drift is right, never negative", _read(1, current_turn=0, turns_behind=-1), "a negative drift"),
    ("fresh follows from the bound", _read(2, fresh=True), "two turns behind with one allowed"),
    ("fresh follows from the bound", _read(1, fresh=False), "one turn behind with one allowed"),
    ("fresh follows from the bound", _read(0, fresh=True), "fresh and not ready"),
    ("no run has seen future turns", _read(1, observed_turn=3), "three turns of two"),
    ("no run has seen future turns", _run_begin(5, observed_turn=5), "five turns of four"),
    ("ready stays ready", _read(2, readiness="running"), "running after ready"),
    ("ready stays ready", _read(3, readiness="never_run"), "never run after ready"),
    ("deleted is gone", lambda session: setattr(session, "remains", "turns, notes"), "parts left behind"),
]


def _broken(session: SessionHistory) -> set[str]:
    return {verdict.promise for verdict in judge(history_of(session)) if verdict.broken}


def test_a_correct_history_tests_and_keeps_every_promise() -> None:
    """A correct history has at least one check of every promise and breaks none."""
    for verdict in judge(history_of(played_session())):
        assert verdict.broken == 0, verdict
        assert verdict.checks > 0, verdict


@pytest.mark.parametrize(
    ("promise", "tamper"), [row[:2] for row in TAMPERED], ids=[": ".join(r[::2]) for r in TAMPERED]
)
def test_a_broken_promise_is_reported(promise: str, tamper: Tamper) -> None:
    """The verdict on a promise reports each way to break it."""
    session = played_session()
    tamper(session)
    assert promise in _broken(session)


def test_every_promise_is_broken_by_a_tampered_history() -> None:
    """The table of tampered histories covers every promise."""
    assert {promise for promise, _, _ in TAMPERED} == set(PROMISES)


def test_a_verdict_gives_a_few_examples() -> None:
    """A verdict counts every problem and names the session and the problem of the first few."""
    session = played_session()
    for _ in range(MAX_EXAMPLES + 3):
        _rejected(session)
    (verdict,) = (verdict for verdict in judge(history_of(session)) if verdict.broken)
    assert verdict.broken == MAX_EXAMPLES + 3
    assert len(verdict.examples) == MAX_EXAMPLES
    session_id, problem = verdict.examples[0]
    assert session_id == session.session_id
    assert "VersionMismatch" in problem


def test_runs_beyond_the_history_may_be_missing() -> None:
    """Runs older than the newest 20, which ListRuns no longer returns, break no promise."""
    session = played_session()
    assert session.read_back is not None
    end, stored = session.of(RunWithoutNotes)[-1], session.read_back.runs[0]
    numbers = range(6, 26)
    session.records += [run_begin(session.session_id, number) for number in numbers]
    session.records += [replace(end, run_id=f"run-{number}", number=number) for number in numbers]
    listed = [replace(stored, run_id=f"run-{number}", number=number) for number in reversed(numbers)]
    _back(runs=lambda back: listed)(session)
    assert _broken(session) == set()


def test_an_unanswered_read_breaks_nothing() -> None:
    """A read without a response breaks no promise, and the reads around it must still agree."""
    session = played_session()
    absent = dict.fromkeys(
        ("age_us", "snapshot_age_us", "write_time_us", "observed_turn", "turns_behind", "run_id", "number", "state")
    )
    _read(2, readiness="unavailable", fresh=False, latest_number=None, notes=None, **absent)(session)
    assert _broken(session) == set()


@pytest.mark.parametrize("index", [0, 2])
def test_a_write_whose_first_response_was_lost_breaks_nothing(index: int) -> None:
    """The outcome of a retried write may be a duplicate, whether the run was accepted or superseded."""
    session = played_session()
    _notes_write(index, outcome="duplicate")(session)
    assert _broken(session) == set()


def test_a_session_without_records_breaks_nothing() -> None:
    """A session without records breaks no promise, and a replay without sessions checks none."""
    assert _broken(SessionHistory("session", played_session().plan)) == set()
    assert all(verdict.checks == 0 for verdict in judge(History([])))
