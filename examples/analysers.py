"""Analysers that make notes from a transcript, by rules or with a language model at an OpenAI-compatible endpoint.

An analyser is any function from a run to notes. `BackgroundObserver` does the rest.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from language_model import connect
from session_notes import ActiveRun, Issue, Notes, Severity, Turn

Analyser = Callable[[ActiveRun], Notes]


@dataclass(frozen=True)
class Topic:
    """A topic that the conversation should cover.

    Attributes:
        name: Its name in the notes' coverage.
        keywords: Prefixes of the words that cover it, each with the same weight.
        question: A question that the primary can ask about it.
    """

    name: str
    keywords: Sequence[str]
    question: str


TOPICS = (
    Topic("goals", ("goal", "success"), "What is the goal, and what would be a success?"),
    Topic("budget", ("budget", "price"), "What is the budget, and is a fixed price needed?"),
    Topic("timing", ("start", "deadline"), "When should it start, and is there a deadline?"),
    Topic("decision", ("decide", "approve"), "Who decides, and who has to approve?"),
)
"""The topics of the examples: a first conversation with a user who is planning a project."""


def analyser_from_environment() -> Analyser:
    """Return an analyser with the language model named in `SESSION_NOTES_MODEL`, or with rules if it is not set.

    `OPENAI_API_KEY` alone does not select a model: it is set in many shells, and sending users' words to a provider
    must be a deliberate choice.
    """
    model = os.environ.get("SESSION_NOTES_MODEL")
    return OpenAICompatible(TOPICS, model) if model else RuleBased(TOPICS)


class RuleBased:
    """An analyser that looks for keywords and question marks. Its summary states that no language model was used.

    Coverage is the share of a topic's keywords in the user's turns. A user's question counts as answered when a later
    statement of the primary repeats one of the question's longer words.
    """

    def __init__(self, topics: Sequence[Topic]) -> None:
        self._topics = topics

    def __call__(self, run: ActiveRun) -> Notes:
        """Analyse the run's copy of the transcript."""
        # The copy of a long conversation has only the last turns, but issues number turns from the start.
        first = (run.observed_turn or 0) - len(run.transcript) + 1
        return self.analyse(run.transcript, first)

    def analyse(self, turns: Sequence[Turn], first: int = 1) -> Notes:
        """Analyse turns, the first of which has the number `first`."""
        words = [word for turn in turns if turn.speaker == "user" for word in _words(turn.text)]
        coverage = {topic.name: _share_used(topic.keywords, words) for topic in self._topics}
        unanswered = _unanswered(turns, first)
        open_topics = sorted(
            (topic for topic in self._topics if coverage[topic.name] < 1), key=lambda topic: coverage[topic.name]
        )
        return Notes(
            coverage=coverage,
            issues=[
                Issue(f'"{question}" has not been answered', Severity.WARNING, turn) for turn, question in unanswered
            ],
            follow_up_suggestions=[topic.question for topic in open_topics],
            summary=f"By rules, not by a language model: {len(open_topics)} of {len(coverage)} topics "
            f"still open, {len(unanswered)} of the user's questions unanswered.",
        )


class OpenAICompatible:
    """An analyser that asks a language model. Needs the extra `openai`: `pip install '.[openai]'` in a checkout.

    `OPENAI_API_KEY` and `OPENAI_BASE_URL` select the endpoint, as in any program with the `openai` package. Errors
    propagate, so that the run is recorded as failed and the primary keeps the last good notes, with their age.
    """

    def __init__(self, topics: Sequence[Topic], model: str) -> None:
        # No retries: they could exceed the run's time limit, and another run follows soon.
        self._client = connect(max_retries=0)
        self._model = model
        self._instructions = _INSTRUCTIONS + "".join(f"\n- {topic.name}: {topic.question}" for topic in topics)

    def __call__(self, run: ActiveRun) -> Notes:
        """Ask for notes on the run's copy of the transcript, within the run's time limit."""
        first = (run.observed_turn or 0) - len(run.transcript) + 1
        transcript = [f"{number}. {turn.speaker}: {turn.text}" for number, turn in enumerate(run.transcript, first)]
        remaining = run.remaining
        answer = self._client.chat.completions.create(
            model=self._model,
            messages=[
                {"role": "system", "content": self._instructions},
                {"role": "user", "content": "\n".join(transcript)},
            ],
            response_format={"type": "json_object"},
            timeout=None if remaining is None else remaining.total_seconds(),
        )
        return notes_from_answer(answer.choices[0].message.content or "")


_INSTRUCTIONS = """You observe a conversation between a user and an assistant; its turns are numbered. You never speak
to the user; your notes help the assistant. Answer with one JSON object and nothing else:
{"coverage": {"<topic>": <share covered, 0 to 1>},
 "issues": [{"text": "<the problem>", "severity": "info" | "warning" | "critical", "turn": <turn number or null>}],
 "follow_up_suggestions": ["<a next sentence for the assistant, best first>"],
 "summary": "<where the conversation stands, at most three sentences>"}
Unanswered questions and contradictions are issues. The topics to cover:"""


class UnusableAnswer(ValueError):
    """A model's answer that does not have the requested form. The message names the part, without user data."""


def notes_from_answer(text: str) -> Notes:
    """Return the notes in a model's answer, with every part checked.

    Raises:
        UnusableAnswer: If a part is missing or has the wrong type.
    """
    # Some models wrap their JSON in a code block or a sentence despite the instructions.
    try:
        answer = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except ValueError:
        raise UnusableAnswer("the answer is not JSON") from None
    coverage = _part(answer, "coverage", dict)
    if not all(type(share) in (int, float) and 0 <= share <= 1 for share in coverage.values()):
        raise UnusableAnswer("coverage must be numbers from 0 to 1")
    suggestions = _part(answer, "follow_up_suggestions", list)
    if not all(isinstance(suggestion, str) for suggestion in suggestions):
        raise UnusableAnswer("follow_up_suggestions must be strings")
    return Notes(
        coverage=coverage,
        issues=[_issue(issue) for issue in _part(answer, "issues", list)],
        follow_up_suggestions=suggestions,
        summary=_part(answer, "summary", str),
    )


def _issue(answer: Any) -> Issue:
    severity, turn = _part(answer, "severity", str), answer.get("turn")
    if severity not in list(Severity):
        raise UnusableAnswer("severity must be info, warning or critical")
    if turn is not None and (type(turn) is not int or turn < 0):
        raise UnusableAnswer("turn must be a turn number or null")
    return Issue(_part(answer, "text", str), Severity(severity), turn)


def _part(answer: Any, name: str, kind: type) -> Any:
    if not isinstance(answer, dict) or not isinstance(answer.get(name), kind):
        raise UnusableAnswer(f"{name} is missing or not of type {kind.__name__}")
    return answer[name]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _share_used(keywords: Sequence[str], words: Sequence[str]) -> float:
    return sum(any(word.startswith(keyword) for word in words) for keyword in keywords) / len(keywords)


def _unanswered(turns: Sequence[Turn], first: int) -> list[tuple[int, str]]:
    """Return the user's unanswered questions, each with the number of its turn."""
    questions = []
    answer_words: set[str] = set()  # From the primary's later statements, since turns are visited in reverse.
    for number, turn in reversed(list(enumerate(turns, first))):
        sentences = re.findall(r"[^.!?\s][^.!?]*[.!?]?", turn.text)
        if turn.speaker != "user":
            answer_words.update(
                word for sentence in sentences if not sentence.endswith("?") for word in _words(sentence)
            )
            continue
        for sentence in reversed(sentences):
            longer_words = {word for word in _words(sentence) if len(word) > 3}
            # "And why?" has no longer words, so any statement answers it.
            if sentence.endswith("?") and not (longer_words & answer_words if longer_words else answer_words):
                questions.append((number, sentence))
    return questions[::-1]
