"""The check itself: a model that cannot say no proves nothing."""

from dataclasses import replace

import pytest

from tests.faults.history import Final, History, Operation

_TURNS = [Operation("turn", f"t{place}", 2.0 * place, 2.0 * place + 1, "ok", place) for place in (1, 2, 3)]
_RUNS = [Operation("run", f"r{number}", 2.0 * number, 2.0 * number + 1, "ok", number) for number in (1, 2)]
_FIELD = Operation("field", "f1", 1, 2, "ok", 1)
_OPERATIONS = [*_TURNS, *_RUNS, _FIELD]
_FINAL = Final(["t1", "t2", "t3"], 3, ["f1"], 1, {"r1": 1, "r2": 2})


def test_what_came_of_the_operations_is_right() -> None:
    """Nothing is found where nothing is wrong; an unknown write may be there or not."""
    assert History(_OPERATIONS).faults(_FINAL) == []
    unknown = Operation("turn", "t4", 9, 10, "unknown")
    assert History([*_OPERATIONS, unknown]).faults(_FINAL) == []
    assert History([*_OPERATIONS, unknown]).faults(replace(_FINAL, turns=["t1", "t2", "t3", "t4"], turn_count=4)) == []


@pytest.mark.parametrize(
    ("final", "fault"),
    [
        (replace(_FINAL, turns=["t1", "t3"], turn_count=2), "lost: turn t2"),
        (replace(_FINAL, turns=["t1", "t2", "t3", "t3"], turn_count=4), "2 times: turn t3"),
        (replace(_FINAL, turns=["t1", "t2", "t3", "x"], turn_count=4), "foreign: turn x"),
        (replace(_FINAL, turns=["t2", "t1", "t3"]), "out of order: turn t1"),
        (replace(_FINAL, turn_count=4), "3 turns, counted as 4"),
        (replace(_FINAL, version=2), "1 fields, each set once, at version 2"),
        (replace(_FINAL, fields=[]), "lost: field f1"),
        (replace(_FINAL, runs={"r1": 1, "r2": 3}), "run numbers with a gap or a repeat: [1, 3]"),
        (replace(_FINAL, runs={"r1": 2, "r2": 1}), "answered 1, is 2: run r1"),
        (replace(_FINAL, runs={"r1": 1, "r2": 2, "r3": 3}), "foreign: run r3"),
    ],
)
def test_what_cannot_be_is_found(final: Final, fault: str) -> None:
    """Loss, repeats, disorder, miscounts and foreign data are each found."""
    assert fault in History(_OPERATIONS).faults(final)


def test_what_was_refused_must_not_be_there() -> None:
    """A write that was surely refused, and is there all the same, is found."""
    refused = Operation("turn", "t4", 9, 10, "failed")
    final = replace(_FINAL, turns=["t1", "t2", "t3", "t4"], turn_count=4)
    assert "refused, yet there: turn t4" in History([*_OPERATIONS, refused]).faults(final)


def test_what_was_written_together_is_not_torn() -> None:
    """Turns of one call of which some are there and some are not, or with others in between, are found."""
    together = [Operation("turn", name, 9, 10, "unknown") for name in ("t4", "t5")]
    history = History([*_OPERATIONS, *together], together=[("t4", "t5")])
    assert history.faults(_FINAL) == []
    whole = ["t1", "t2", "t3", "t4", "t5"]
    assert history.faults(replace(_FINAL, turns=whole, turn_count=5)) == []
    for torn in (["t1", "t2", "t3", "t4"], ["t1", "t2", "t4", "t3", "t5"]):
        found = history.faults(replace(_FINAL, turns=torn, turn_count=len(torn)))
        assert any(fault.startswith("torn: turns") for fault in found)
