"""An honest history of one session, made by hand, for the tests to doctor.

Four turns, five runs: 1 writes, 2 is overtaken by 3, which writes twice; 4 fails, 5 goes silent.
"""

from dataclasses import replace

from session_notes_tools.replay.analysis import analyse
from session_notes_tools.replay.history import (
    Begun,
    History,
    ListedRun,
    Read,
    ReadBack,
    SessionHistory,
    Unwritten,
    Written,
    notes_json,
)
from session_notes_tools.replay.plan import PlannedSession, planned
from session_notes_tools.replay.transcripts import Dialogue, SpokenTurn

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND

DIALOGUE = Dialogue(
    "trains",
    (
        SpokenTurn("user", "A train to Oslo, please.", {"Trains.to": "Oslo"}),
        SpokenTurn("primary", "From where?", {"Trains.to": "Oslo"}),
        SpokenTurn("user", "Bergen. And is there a hotel?", {"Trains.to": "Oslo", "Trains.from": "Bergen"}),
        SpokenTurn("primary", "There is.", {"Trains.to": "Oslo", "Trains.from": "Bergen", "Hotels.city": "Oslo"}),
    ),
)


def honest() -> SessionHistory:
    """A history in which every promise was kept, and put to the test."""
    plan, _ = planned([DIALOGUE], 2, "test")
    first, overtaken, third = (_written(plan, number, second) for number, second in ((1, 2.0), (2, 5.0), (3, 4.0)))
    overtaken = replace(overtaken, outcome="superseded")
    again = replace(third, outcome="duplicate", repeated=True, sent=5.2, answered=5.3)
    reads = [
        _read(plan, 1, 1.0, None),
        _read(plan, 2, 2.5, first),
        _read(plan, 3, 3.5, first),
        _read(plan, 4, 4.5, third),
    ]
    unwritten = [Unwritten(plan.session_id, "run-4", 4, True), Unwritten(plan.session_id, "run-5", 5, False)]
    end = replace(_read(plan, 4, 9.0, third), max_turns_behind=None, turn_count=None, version=None, latest_number=5)
    return SessionHistory(
        plan=plan,
        reads=reads,
        begun=[Begun(plan.session_id, f"run-{number}", number, min(number, 4)) for number in range(1, 6)],
        written=[first, third, overtaken, again],
        unwritten=unwritten,
        read_back=ReadBack(
            fields=dict(DIALOGUE.turns[-1].slots),
            version=4,
            turn_count=4,
            turns=[[turn.speaker, turn.text, dict(turn.extra)] for turn in plan.transcript],
            current=end,
            runs=[
                ListedRun("run-5", 5, "abandoned", 4, None),
                ListedRun("run-4", 4, "failed", 4, None),
                ListedRun("run-3", 3, "written", 3, third.notes),
                ListedRun("run-2", 2, "superseded", 2, overtaken.notes),
                ListedRun("run-1", 1, "written", 1, first.notes),
            ],
        ),
        left="",
    )


def history_of(session: SessionHistory) -> History:
    """A replay of this one session."""
    history = History([session.plan])
    history.sessions[session.plan.session_id] = session
    return history


def foreign_notes(session: SessionHistory, run: int, turns: int) -> dict[str, object]:
    """What another session's observer would have written."""
    other = planned([DIALOGUE], 2, "test")[1]
    assert other.session_id != session.plan.session_id
    return notes_json(analyse(other.session_id, f"run-{run}", other.transcript[:turns]))


def _written(plan: PlannedSession, number: int, second: float) -> Written:
    run_id = f"run-{number}"
    return Written(
        session_id=plan.session_id,
        run_id=run_id,
        number=number,
        observed_turn=number,
        outcome="accepted",
        write_time_us=NOW + int(second * SECOND),
        sent=second - 0.01,
        answered=second + 0.01,
        repeated=False,
        notes=notes_json(analyse(plan.session_id, run_id, plan.transcript[:number])),
    )


def _read(plan: PlannedSession, turn: int, second: float, by: Written | None) -> Read:
    age_us = NOW + int(second * SECOND) - by.write_time_us if by else None
    behind = turn - (by.observed_turn or 0) if by else None
    return Read(
        session_id=plan.session_id,
        current_turn=turn,
        max_turns_behind=1,
        turn_count=turn,
        version=turn,
        sent=second,
        readiness="ready" if by else "never_run",
        fresh=behind is not None and behind <= 1,
        age_us=age_us,
        snapshot_age_us=None if age_us is None else age_us + SECOND,
        write_time_us=by.write_time_us if by else None,
        observed_turn=by.observed_turn if by else None,
        turns_behind=behind,
        run_id=by.run_id if by else None,
        number=by.number if by else None,
        state="written" if by else None,
        latest_number=by.number if by else None,
        notes=by.notes if by else None,
    )
