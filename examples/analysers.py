"""What an observer makes of a conversation: by plain rules, or with a language model at an OpenAI-compatible endpoint.

An analyser is anything that takes a run and returns notes; `BackgroundObserver` does the rest.
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
    """Something the conversation should cover.

    Attributes:
        name: What coverage calls it.
        keywords: Beginnings of the words that show that the user has spoken of it; each counts the same.
        question: How the primary could bring it up.
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
"""The topics of the examples: a first talk with somebody who has a project in mind."""


def analyser_from_environment() -> Analyser:
    """A language model where `SESSION_NOTES_MODEL` names one, else rules.

    Not already where there is an `OPENAI_API_KEY`: many shells have one, and what users say should leave the machine
    only when somebody decided so.
    """
    model = os.environ.get("SESSION_NOTES_MODEL")
    return OpenAICompatible(TOPICS, model) if model else RuleBased(TOPICS)


class RuleBased:
    """Looks for keywords and question marks. It understands nothing, and its summary says so.

    Coverage is the share of a topic's keywords that the user has said. A question of the user counts as answered once
    the other side has stated something that takes up one of the question's longer words.
    """

    def __init__(self, topics: Sequence[Topic]) -> None:
        self._topics = topics

    def __call__(self, run: ActiveRun) -> Notes:
        """Analyses the run's copy of the transcript."""
        # Of a long conversation the copy has the last turns only; issues name turns as counted from its start.
        first = (run.observed_turn or 0) - len(run.transcript) + 1
        return self.analyse(run.transcript, first)

    def analyse(self, turns: Sequence[Turn], first: int = 1) -> Notes:
        """Analyses turns of which the first is turn number `first` of the conversation."""
        said = [word for turn in turns if turn.speaker == "user" for word in _words(turn.text)]
        coverage = {topic.name: _share_said(topic.keywords, said) for topic in self._topics}
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
    """Asks a language model. Needs the extra: `pip install '.[openai]' in its checkout`.

    `OPENAI_API_KEY` and `OPENAI_BASE_URL` say where, as for any program that uses the `openai` package. Whatever goes
    wrong is raised, so that the run is recorded as failed: the primary sees the last good notes grow old, not a guess.
    """

    def __init__(self, topics: Sequence[Topic], model: str) -> None:
        # No retries: they would outlast the run's time, and the next run is never far.
        self._client = connect(max_retries=0)
        self._model = model
        self._instructions = _INSTRUCTIONS + "".join(f"\n- {topic.name}: {topic.question}" for topic in topics)

    def __call__(self, run: ActiveRun) -> Notes:
        """Asks for notes on the run's copy of the transcript, for no longer than the run may take."""
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
 "issues": [{"text": "<what is the matter>", "severity": "info" | "warning" | "critical", "turn": <its turn or null>}],
 "follow_up_suggestions": ["<what the assistant could say next, best first>"],
 "summary": "<where the conversation stands, at most three sentences>"}
Unanswered questions and contradictions are issues. The topics to cover:"""


class UnusableAnswer(ValueError):
    """The model's answer is not what it was asked for. Says where, without a word of what the user said."""


def notes_from_answer(text: str) -> Notes:
    """The notes in a model's answer, every part of it checked.

    Raises:
        UnusableAnswer: A part is missing or of the wrong kind.
    """
    # Some models wrap their JSON in a code block or a sentence, whatever they are asked.
    try:
        answer = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except ValueError:
        raise UnusableAnswer("the answer is not JSON") from None
    coverage = _part(answer, "coverage", dict)
    if not all(type(share) in (int, float) and 0 <= share <= 1 for share in coverage.values()):
        raise UnusableAnswer("coverage must be numbers from 0 to 1")
    suggestions = _part(answer, "follow_up_suggestions", list)
    if not all(isinstance(suggestion, str) for suggestion in suggestions):
        raise UnusableAnswer("follow_up_suggestions must be texts")
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
        raise UnusableAnswer("turn must be a turn's number or null")
    return Issue(_part(answer, "text", str), Severity(severity), turn)


def _part(answer: Any, name: str, kind: type) -> Any:
    if not isinstance(answer, dict) or not isinstance(answer.get(name), kind):
        raise UnusableAnswer(f"{name} is missing or not of type {kind.__name__}")
    return answer[name]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _share_said(keywords: Sequence[str], said: Sequence[str]) -> float:
    return sum(any(word.startswith(keyword) for word in said) for keyword in keywords) / len(keywords)


def _unanswered(turns: Sequence[Turn], first: int) -> list[tuple[int, str]]:
    """The user's questions that nobody has taken up, with the number of their turn."""
    found = []
    stated: set[str] = set()  # From the end, so that it always holds what was stated after the turn looked at.
    for number, turn in reversed(list(enumerate(turns, first))):
        sentences = re.findall(r"[^.!?\s][^.!?]*[.!?]?", turn.text)
        if turn.speaker != "user":
            stated.update(word for sentence in sentences if not sentence.endswith("?") for word in _words(sentence))
            continue
        for sentence in reversed(sentences):
            longer_words = {word for word in _words(sentence) if len(word) > 3}
            # "And why?" has none: any statement will do.
            if sentence.endswith("?") and not (longer_words & stated if longer_words else stated):
                found.append((number, sentence))
    return found[::-1]
