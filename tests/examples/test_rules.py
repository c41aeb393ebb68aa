"""What the rule-based analyser sees, and what it does not."""

from collections.abc import Sequence

import pytest
from analysers import RuleBased, Topic
from session_notes import Severity, Turn

TOPICS = [Topic("budget", ("budget", "price"), "What is the budget?"), Topic("timing", ("start",), "When?")]


def conversation(*texts: str) -> list[Turn]:
    """Turns of the user and, after a >, of the primary."""
    return [Turn("primary", text[1:].strip()) if text.startswith(">") else Turn("user", text) for text in texts]


@pytest.mark.parametrize(
    ("reason", "turns", "budget", "timing"),
    [
        ("nothing was said", [], 0, 0),
        ("half of the keywords", ["Our budget is small."], 0.5, 0),
        ("all of them, over two turns", ["Our BUDGET is small.", "Is the price fixed?"], 1, 0),
        ("a keyword twice counts once", ["Budget, budget!"], 0.5, 0),
        ("the beginning of a word is enough", ["We started; prices rose."], 0.5, 1),
        ("the middle of a word is not", ["A restart."], 0, 0),
        ("only what the user said counts", ["> What is your budget, and when do you start?"], 0, 0),
    ],
)
def test_coverage(reason: str, turns: Sequence[str], budget: float, timing: float) -> None:
    notes = RuleBased(TOPICS).analyse(conversation(*turns))
    assert notes.coverage == {"budget": budget, "timing": timing}, reason


@pytest.mark.parametrize(
    ("reason", "turns", "issues"),
    [
        ("nobody answered", ["Can we start?"], [(1, "Can we start?")]),
        ("a statement takes it up", ["Can we start?", "> You can start in May."], []),
        ("a statement on something else", ["Can we start?", "> Noted."], [(1, "Can we start?")]),
        ("a question back is no answer", ["Can we start?", "> Start what?"], [(1, "Can we start?")]),
        ("the user's own words are no answer", ["Can we start?", "We want to start."], [(1, "Can we start?")]),
        ("what came before is no answer", ["> We can start.", "Can we start?"], [(2, "Can we start?")]),
        ("two in one turn, in order", ["Which colour? Hi. Which size?"], [(1, "Which colour?"), (1, "Which size?")]),
        ("no longer word in it: any statement", ["Why so?", "> Because."], []),
        ("no longer word in it, and no statement", ["Why so?", "> So?"], [(1, "Why so?")]),
        ("the primary's questions are not the user's", ["> Can we start?"], []),
    ],
)
def test_unanswered_questions(reason: str, turns: Sequence[str], issues: list[tuple[int, str]]) -> None:
    notes = RuleBased(TOPICS).analyse(conversation(*turns))
    assert [(issue.turn, issue.text) for issue in notes.issues] == [
        (turn, f'"{question}" has not been answered') for turn, question in issues
    ], reason
    assert {issue.severity for issue in notes.issues} <= {Severity.WARNING}


@pytest.mark.parametrize(
    ("reason", "turns", "suggestions"),
    [
        ("all is open", [], ["What is the budget?", "When?"]),
        ("least covered first", ["The price?"], ["When?", "What is the budget?"]),
        ("what is covered is left out", ["We start."], ["What is the budget?"]),
        ("nothing is open", ["We start; budget and price are clear."], []),
    ],
)
def test_follow_ups(reason: str, turns: Sequence[str], suggestions: list[str]) -> None:
    notes = RuleBased(TOPICS).analyse(conversation(*turns))
    assert list(notes.follow_up_suggestions) == suggestions, reason


def test_turns_are_counted_from_the_start_of_the_conversation_not_of_the_copy() -> None:
    assert RuleBased(TOPICS).analyse(conversation("Hi", "Can we start?"), first=2001).issues[0].turn == 2002


def test_the_summary_says_what_it_is() -> None:
    summary = RuleBased(TOPICS).analyse(conversation("Can we start?")).summary
    assert summary.startswith("By rules, not by a language model: 1 of 2 topics still open, 1 of")
