"""The rule-based analyser: coverage, unanswered questions, follow-ups, and notes that continue earlier ones."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest
from analysers import TOPICS as PROJECT_TOPICS
from analysers import RuleBased, Topic
from session_notes import ActiveRun, BackgroundObserver, Notes, ObserverClient, PrimaryClient, Reading, Severity, Turn

from tests.examples.programs import EXAMPLES
from tests.support import Sidecar, eventually

TOPICS = [Topic("budget", ("budget", "price"), "What is the budget?"), Topic("timing", ("start",), "When?")]


def conversation(*texts: str) -> list[Turn]:
    """Return texts as turns. A leading > marks a turn of the primary."""
    return [Turn("primary", text[1:].strip()) if text.startswith(">") else Turn("user", text) for text in texts]


@pytest.mark.parametrize(
    ("case", "turns", "budget", "timing"),
    [
        ("no turns", [], 0, 0),
        ("half of the keywords", ["Our budget is small."], 0.5, 0),
        ("all of them, in two turns", ["Our BUDGET is small.", "Is the price fixed?"], 1, 0),
        ("a repeated keyword counts once", ["Budget, budget!"], 0.5, 0),
        ("a prefix of a word counts", ["We started; prices rose."], 0.5, 1),
        ("the middle of a word does not", ["A restart."], 0, 0),
        ("only the user's turns count", ["> What is your budget, and when do you start?"], 0, 0),
    ],
)
def test_coverage(case: str, turns: Sequence[str], budget: float, timing: float) -> None:
    """Coverage is the share of a topic's keywords in the user's turns."""
    notes = RuleBased(TOPICS).analyse(conversation(*turns))
    assert notes.coverage == {"budget": budget, "timing": timing}, case


@pytest.mark.parametrize(
    ("case", "turns", "issues"),
    [
        ("no answer", ["Can we start?"], [(1, "Can we start?")]),
        ("a statement repeats a word", ["Can we start?", "> You can start in May."], []),
        ("a statement on something else", ["Can we start?", "> Noted."], [(1, "Can we start?")]),
        ("a question is not an answer", ["Can we start?", "> Start what?"], [(1, "Can we start?")]),
        ("the user's own statement is not an answer", ["Can we start?", "We want to start."], [(1, "Can we start?")]),
        ("an earlier statement is not an answer", ["> We can start.", "Can we start?"], [(2, "Can we start?")]),
        (
            "two questions in one turn, in order",
            ["Which colour? Hi. Which size?"],
            [(1, "Which colour?"), (1, "Which size?")],
        ),
        ("without a longer word, any statement answers", ["Why so?", "> Because."], []),
        ("without a longer word and without a statement", ["Why so?", "> So?"], [(1, "Why so?")]),
        ("the primary's questions are ignored", ["> Can we start?"], []),
    ],
)
def test_unanswered_questions(case: str, turns: Sequence[str], issues: list[tuple[int, str]]) -> None:
    """A question of the user is an issue until the primary states something that repeats one of its longer words."""
    notes = RuleBased(TOPICS).analyse(conversation(*turns))
    assert [(issue.turn, issue.text) for issue in notes.issues] == [
        (turn, f'"{question}" has not been answered') for turn, question in issues
    ], case
    assert {issue.severity for issue in notes.issues} <= {Severity.WARNING}


@pytest.mark.parametrize(
    ("case", "turns", "suggestions"),
    [
        ("everything is open", [], ["What is the budget?", "When?"]),
        ("least covered first", ["The price?"], ["When?", "What is the budget?"]),
        ("covered topics are left out", ["We start."], ["What is the budget?"]),
        ("nothing is open", ["We start; budget and price are clear."], []),
    ],
)
def test_follow_ups(case: str, turns: Sequence[str], suggestions: list[str]) -> None:
    """The questions on topics that are not fully covered are suggested, least covered first."""
    notes = RuleBased(TOPICS).analyse(conversation(*turns))
    assert list(notes.follow_up_suggestions) == suggestions, case


def test_turn_numbers_count_from_the_start_of_the_conversation() -> None:
    """An issue has its turn's number in the conversation, even if the copy has only the last turns."""
    assert RuleBased(TOPICS).analyse(conversation("Hi", "Can we start?"), first=2001).issues[0].turn == 2002


def test_summary_names_the_rules() -> None:
    """The summary states that rules made the notes."""
    summary = RuleBased(TOPICS).analyse(conversation("Can we start?")).summary
    assert summary.startswith("By rules, not by a language model: 1 of 2 topics still open, 1 of")


def example_conversations() -> Iterator[tuple[str, list[Turn]]]:
    """Yield the names and turns of the conversations in examples/, those of talk.txt with two kinds of answers."""
    for line in (EXAMPLES / "transcripts.jsonl").read_text().splitlines():
        dialogue = json.loads(line)
        yield dialogue["dialogue_id"], [Turn(turn["speaker"], turn["text"]) for turn in dialogue["turns"]]
    lines = (EXAMPLES / "talk.txt").read_text().splitlines()
    for name, answer in (("talk", "Noted. Please go on."), ("talk, answered", "You can start in May, if all approve.")):
        yield name, conversation(*(text for line in lines for text in (line, f"> {answer}")))


RULES = RuleBased(
    [
        *PROJECT_TOPICS,
        Topic("order", ("order", "parcel", "number"), "Which order is it?"),
        Topic("visit", ("saturday", "tonight", "eight"), "When are you coming?"),
    ]
)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("name", "turns"), list(example_conversations()))
def test_new_turns_suffice(name: str, turns: list[Turn], size: int) -> None:
    """Notes continued with a few new turns at a time equal the notes on the whole conversation, however it is cut."""
    notes = None
    for start in range(0, len(turns), size):
        end = start + size
        notes = RULES.analyse(turns[start:end], start + 1, notes)
        assert notes == RULES.analyse(turns[:end]), (name, end)


@pytest.fixture
def stored_talk(sidecar: Sidecar, session_id: str) -> Iterator[PrimaryClient]:
    """A primary client, with the first turns of a conversation stored."""
    with PrimaryClient(sidecar.target) as client:
        client.append_turns(session_id, conversation("Can we start in May? Our goal is clear.", "> Noted."))
        yield client


def test_a_run_continues_the_current_notes(sidecar: Sidecar, stored_talk: PrimaryClient, session_id: str) -> None:
    """Once there are notes, a run sees only new turns, and its notes cover the whole conversation."""
    seen: list[int] = []

    def analyse(run: ActiveRun) -> Notes:
        seen.append(len(run.transcript))
        return RULES(run)

    def notes_over(turns: int) -> Notes | None:
        reading: Reading = stored_talk.get_notes(session_id)
        return reading.notes if reading.observed_turn == turns else None

    with BackgroundObserver(analyse, target=sidecar.target, transcript="new", brakes=False) as observer:
        observer.submit(session_id)
        eventually(lambda: notes_over(2), 20)
        stored_talk.append_turns(session_id, conversation("The budget is small.", "> You can start in May."))
        observer.submit(session_id)
        notes = eventually(lambda: notes_over(4), 20)

    assert seen == [2, 2]
    assert notes == RULES.analyse(stored_talk.get_session(session_id, include_turns=True).turns)
    assert (notes.coverage["goals"], notes.coverage["budget"], notes.issues) == (0.5, 0.5, ())


def test_a_run_with_the_whole_transcript_starts_over(
    sidecar: Sidecar, stored_talk: PrimaryClient, session_id: str
) -> None:
    """Notes that have expired or that a run does not need are not continued, so that nothing is counted twice."""
    whole = RULES.analyse(stored_talk.get_session(session_id, include_turns=True).turns)
    with ObserverClient(sidecar.target) as client:
        with client.run(session_id) as run:
            run.write(Notes(extra={"keywords": ["approve"]}), ttl=timedelta(seconds=30))
        with client.run(session_id, include_current_notes=True) as run:
            assert run.current is not None
            assert run.current.ready
            assert RULES(run) == whole
            run.write(RULES(run), ttl=timedelta(milliseconds=1))
        eventually(lambda: not stored_talk.get_notes(session_id).ready, 20)
        with client.run(session_id, after_current_notes=True, include_current_notes=True) as run:
            assert RULES(run) == whole
