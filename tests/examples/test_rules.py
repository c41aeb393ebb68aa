"""The rule-based analyser: coverage, unanswered questions and follow-ups."""

from collections.abc import Sequence

import pytest
from analysers import RuleBased, Topic
from session_notes import Severity, Turn

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
