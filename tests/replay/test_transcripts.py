"""The transcripts that a replay takes, and what it says of others."""

import json
from pathlib import Path

import pytest
from session_notes_tools.replay.plan import planned
from session_notes_tools.replay.transcripts import BadTranscripts, read_dialogues

from tests.replay.histories import DIALOGUE

GOOD = '{"dialogue_id": "1", "turns": [{"speaker": "user", "text": "Hi", "slots": {"a.b": "c"}}]}'


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "transcripts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_dialogue_a_line(tmp_path: Path) -> None:
    """Empty lines, slots left out and keys not known do not matter."""
    more = '{"dialogue_id": "2", "services": [], "turns": [{"speaker": "", "text": "", "mood": "good"}]}'
    one, two = read_dialogues(_file(tmp_path, GOOD, "", more))
    assert (one.dialogue_id, one.turns[0].speaker, one.turns[0].text) == ("1", "user", "Hi")
    assert one.turns[0].slots == {"a.b": "c"}
    assert two.turns[0].slots == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "must be an object"),
        ('{"turns": [{"speaker": "user", "text": "Hi"}]}', '"dialogue_id" must be a text'),
        ('{"dialogue_id": "1"}', '"turns" must be a list'),
        ('{"dialogue_id": "1", "turns": []}', "at least one turn"),
        ('{"dialogue_id": "1", "turns": ["Hi"]}', "turn 1 must be an object"),
        ('{"dialogue_id": "1", "turns": [{"speaker": "user", "text": 1}]}', 'turn 1: "text" must be a text'),
        ('{"dialogue_id": "1", "turns": [{"text": "Hi"}]}', 'turn 1: "speaker" must be a text'),
        (GOOD.replace('"c"', "null"), 'turn 1: "slots" must be'),
        (GOOD.replace('"c"', "NaN"), "NaN is no JSON"),
        (GOOD.replace('"a.b"', '""'), "the name of a slot"),
        (GOOD.replace("Hi", "\\ud800"), "not UTF-8"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """With its number, and without what was said in it."""
    with pytest.raises(BadTranscripts, match=rf"transcripts\.jsonl, line 3: .*{reason}") as error:
        read_dialogues(_file(tmp_path, GOOD, "", line, GOOD))
    assert "Hi" not in str(error.value)


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "transcripts.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(BadTranscripts, match="line 2: not UTF-8"):
        read_dialogues(path)


def test_a_file_that_is_empty_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTranscripts, match="no dialogue in it"):
        read_dialogues(_file(tmp_path, ""))
    with pytest.raises(BadTranscripts, match="No such file"):
        read_dialogues(tmp_path / "missing.jsonl")


def test_more_sessions_than_dialogues_play_them_again() -> None:
    """Under ids and markers of their own."""
    plans = planned([DIALOGUE], 3, "test")
    assert [plan.session_id for plan in plans] == ["replay-test-0001", "replay-test-0002", "replay-test-0003"]
    assert len({plan.marker for plan in plans}) == 3
    assert all(plan.dialogue is DIALOGUE for plan in plans)
    assert json.loads(json.dumps(plans[0].as_json()))["dialogue"]["dialogue_id"] == "trains"


def test_the_sample_is_in_order() -> None:
    """The one among the examples, which the README plays."""
    sample = Path(__file__).parents[2] / "examples" / "transcripts.jsonl"
    assert [dialogue.dialogue_id for dialogue in read_dialogues(sample)] == ["bike-shop", "refund", "table", "router"]
