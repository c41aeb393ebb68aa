"""Transcript files: parsing, error messages, and the sessions planned from them."""

import json
from pathlib import Path

import pytest
from session_notes_tools.replay.plan import plan_sessions
from session_notes_tools.replay.transcripts import BadTranscripts, read_dialogues

from tests.replay.histories import DIALOGUE

GOOD = '{"dialogue_id": "1", "turns": [{"speaker": "user", "text": "Hi", "slots": {"a.b": "c"}}]}'


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "transcripts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_line_is_a_dialogue(tmp_path: Path) -> None:
    """Empty lines and unknown keys are ignored, and slots are optional."""
    other = '{"dialogue_id": "2", "services": [], "turns": [{"speaker": "", "text": "", "mood": "good"}]}'
    first, second = read_dialogues(_file(tmp_path, GOOD, "", other))
    assert (first.dialogue_id, first.turns[0].speaker, first.turns[0].text) == ("1", "user", "Hi")
    assert first.turns[0].slots == {"a.b": "c"}
    assert second.turns[0].slots == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"turns": [{"speaker": "user", "text": "Hi"}]}', '"dialogue_id" must be a string'),
        ('{"dialogue_id": "1"}', '"turns" must be a list'),
        ('{"dialogue_id": "1", "turns": []}', "at least one turn"),
        ('{"dialogue_id": "1", "turns": ["Hi"]}', "turn 1 must be an object"),
        ('{"dialogue_id": "1", "turns": [{"speaker": "user", "text": 1}]}', 'turn 1: "text" must be a string'),
        ('{"dialogue_id": "1", "turns": [{"text": "Hi"}]}', 'turn 1: "speaker" must be a string'),
        (GOOD.replace('"c"', "null"), 'turn 1: "slots" must be'),
        (GOOD.replace('"c"', "NaN"), "NaN is not JSON"),
        (GOOD.replace('"a.b"', '""'), "a slot name must have"),
        (GOOD.replace("Hi", "\\ud800"), "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_an_error_names_the_bad_line(tmp_path: Path, line: str, reason: str) -> None:
    """The error gives the line's number and the reason, and never quotes the transcript."""
    with pytest.raises(BadTranscripts, match=rf"transcripts\.jsonl, line 3: .*{reason}") as error:
        read_dialogues(_file(tmp_path, GOOD, "", line, GOOD))
    assert "Hi" not in str(error.value)


def test_an_error_names_a_line_that_is_not_utf_8(tmp_path: Path) -> None:
    """A line in another encoding is rejected with its number."""
    path = tmp_path / "transcripts.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(BadTranscripts, match="line 2: not UTF-8"):
        read_dialogues(path)


def test_an_empty_or_missing_file_is_rejected(tmp_path: Path) -> None:
    """A file without a dialogue and a missing file are rejected with the reason."""
    with pytest.raises(BadTranscripts, match="has no dialogue"):
        read_dialogues(_file(tmp_path, ""))
    with pytest.raises(BadTranscripts, match="No such file"):
        read_dialogues(tmp_path / "missing.jsonl")


def test_dialogues_repeat_for_more_sessions() -> None:
    """More sessions than dialogues repeat the dialogues under unique ids and markers."""
    plans = plan_sessions([DIALOGUE], 3, "test")
    assert [plan.session_id for plan in plans] == ["replay-test-0001", "replay-test-0002", "replay-test-0003"]
    assert len({plan.marker for plan in plans}) == 3
    assert all(plan.dialogue is DIALOGUE for plan in plans)
    assert json.loads(json.dumps(plans[0].as_json()))["dialogue"]["dialogue_id"] == "trains"


def test_the_example_file_is_valid() -> None:
    """The transcripts in examples/, which the documentation plays, can be read."""
    sample = Path(__file__).parents[2] / "examples" / "transcripts.jsonl"
    assert [dialogue.dialogue_id for dialogue in read_dialogues(sample)] == ["bike-shop", "refund", "table", "router"]
