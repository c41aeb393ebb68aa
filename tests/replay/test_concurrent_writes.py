"""The promises about writes, with several writers and unknown outcomes."""

from dataclasses import replace
from typing import Any

import pytest
from session_notes_tools.replay.history import ListedRun, SessionHistory
from session_notes_tools.replay.records import Outcome, SessionRecord, Sighting, Write
from session_notes_tools.replay.verdicts import broken_promises

from tests.replay.histories import concurrent_session, turn_rows


def _with_read_back(session: SessionHistory, **changes: Any) -> SessionHistory:
    assert session.read_back is not None
    return replace(session, read_back=replace(session.read_back, **changes))


def _with_write(outcome: Outcome, *names: str) -> SessionHistory:
    session = concurrent_session()
    return replace(session, records=[*session.records, Write("session", "turn", names, 9, 10, outcome)])


def test_a_correct_history_has_no_problem() -> None:
    """A write with an unknown outcome may be stored or not."""
    assert broken_promises(concurrent_session()) == []
    unknown = _with_write("unknown", "t4")
    assert broken_promises(unknown) == []
    assert broken_promises(_with_read_back(unknown, turns=turn_rows("t1", "t2", "t3", "t4"), turn_count=4)) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"turns": turn_rows("t1", "t3"), "turn_count": 2}, "lost: turn t2"),
        ({"turns": turn_rows("t1", "t2", "t3", "t3"), "turn_count": 4}, "stored 2 times: turn t3"),
        ({"turns": turn_rows("t1", "t2", "t3", "x"), "turn_count": 4}, "foreign: turn x"),
        ({"turns": turn_rows("t2", "t1", "t3")}, "out of order: turn t1"),
        ({"turn_count": 4}, "3 turns, counted as 4"),
        ({"version": 2}, "1 fields, each set once, at version 2"),
        ({"fields": {}}, "lost: field f1"),
        (
            {"runs": [ListedRun("r2", 3), ListedRun("r1", 1)]},
            "run numbers with a gap, a repeat or out of order: [3, 1] of 3",
        ),
        ({"runs": [ListedRun("r1", 2), ListedRun("r2", 1)]}, "acknowledged as 1, stored as 2: run r1"),
        ({"runs": [ListedRun("r3", 3), ListedRun("r2", 2), ListedRun("r1", 1)]}, "foreign: run r3"),
    ],
)
def test_an_impossible_end_state_is_reported(changes: dict[str, Any], problem: str) -> None:
    """Lost, repeated, reordered, miscounted and foreign writes are each reported."""
    problems = broken_promises(_with_read_back(concurrent_session(), **changes))
    assert any(reported.endswith(f": {problem}") for reported in problems), problems


def test_a_stored_rejected_write_is_reported() -> None:
    """A rejected write that is stored nevertheless is reported."""
    session = _with_read_back(_with_write("rejected", "t4"), turns=turn_rows("t1", "t2", "t3", "t4"), turn_count=4)
    assert any(problem.endswith(": rejected, yet stored: turn t4") for problem in broken_promises(session))


def test_a_torn_append_is_reported() -> None:
    """Turns of one call that are stored in part, or with other turns between them, are reported."""
    session = _with_write("unknown", "t4", "t5")
    assert broken_promises(session) == []
    complete = turn_rows("t1", "t2", "t3", "t4", "t5")
    assert broken_promises(_with_read_back(session, turns=complete, turn_count=5)) == []
    for torn in (("t1", "t2", "t3", "t4"), ("t1", "t2", "t4", "t3", "t5")):
        problems = broken_promises(_with_read_back(session, turns=turn_rows(*torn), turn_count=len(torn)))
        assert any(": torn: turns" in problem for problem in problems)


def test_a_stale_read_is_reported() -> None:
    """A read must show a write that was acknowledged before it, and need not show one that was not."""
    session = concurrent_session()
    session.records.append(Sighting("session", "turn", 7.0, 2))
    assert broken_promises(session) == []
    session.records.append(Sighting("session", "turn", 7.1, 2))
    problem = "turn 3 was acknowledged before a read showed turn 2"
    assert broken_promises(session) == [f"nothing lost: reads show acknowledged writes: {problem}"]


def test_turns_beyond_the_transcript_limit_may_be_missing() -> None:
    """Only the newest 2,000 turns are stored, and an older one is not reported as lost."""
    names = [f"t{number}" for number in range(1, 2002)]
    writes: list[SessionRecord] = [
        Write("session", "turn", [name], number, number + 0.5, "acknowledged", number)
        for number, name in enumerate(names, 1)
    ]
    session = replace(concurrent_session(), records=writes)
    stored = {"turns": turn_rows(*names[1:]), "turn_count": 2001, "fields": {}, "version": 0, "runs": []}
    assert broken_promises(_with_read_back(session, **stored)) == []
    lost = _with_read_back(session, **stored | {"turns": turn_rows(*names[2:])})
    assert any(problem.endswith("lost: turn t2") for problem in broken_promises(lost))
