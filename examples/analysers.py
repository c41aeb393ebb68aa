"""Analysers that make notes from a conversation, by rules or with a language model at an OpenAI-compatible endpoint.

An analyser is any function from a run to notes. `BackgroundObserver` does the rest. With `transcript="new"`, the
analysers of this module continue the notes so far with the new turns, so that the cost of a run does not grow with the
conversation.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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


def notes_so_far(run: ActiveRun) -> Notes | None:
    """Return the notes that the turns of a run continue. None: the run has all turns, so no earlier notes are needed.

    It has all turns if it is the first one, if the notes have expired, or without `transcript="new"`.
    """
    current = run.current
    if current is None or current.notes is None or current.observed_turn is None:
        return None
    if run.first_turn is not None and run.first_turn <= current.observed_turn:
        return None
    return current.notes


class RuleBased:
    """An analyser that looks for keywords and question marks. Its summary states that no language model was used.

    Coverage is the share of a topic's keywords in the user's turns. A user's question counts as answered when a later
    statement of the primary repeats one of the question's longer words. The notes after any number of runs over new
    turns equal those of one run over the whole transcript.
    """

    def __init__(self, topics: Sequence[Topic]) -> None:
        self._topics = topics

    def __call__(self, run: ActiveRun) -> Notes:
        """Analyse the turns of a run."""
        return self.analyse(run.transcript, run.first_turn or 1, notes_so_far(run))

    def analyse(self, turns: Sequence[Turn], first: int = 1, so_far: Notes | None = None) -> Notes:
        """Analyse turns, the first of which has the number `first`, and continue the notes on the turns before."""
        so_far = so_far or Notes()
        words = [word for turn in turns if turn.speaker == "user" for word in _words(turn.text)]
        used = [
            keyword
            for topic in self._topics
            for keyword in topic.keywords
            if keyword in so_far.extra.get("keywords", ()) or any(word.startswith(keyword) for word in words)
        ]
        coverage = {
            topic.name: sum(keyword in used for keyword in topic.keywords) / len(topic.keywords)
            for topic in self._topics
        }
        open_topics = sorted(
            (topic for topic in self._topics if coverage[topic.name] < 1), key=lambda topic: coverage[topic.name]
        )
        unanswered = _unanswered(turns, first, so_far.issues)
        return Notes(
            coverage=coverage,
            issues=unanswered,
            follow_up_suggestions=[topic.question for topic in open_topics],
            summary=f"By rules, not by a language model: {len(open_topics)} of {len(coverage)} topics "
            f"still open, {len(unanswered)} of the user's questions unanswered.",
            # For the next run: a share does not say which keywords it is made of.
            extra={"keywords": used},
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
        """Ask for notes on the turns of a run, within its time limit."""
        turns = enumerate(run.transcript, run.first_turn or 1)
        parts = [f"{number}. {turn.speaker}: {turn.text}" for number, turn in turns]
        if (so_far := notes_so_far(run)) is not None:
            parts = ["Your notes so far:", json.dumps(asdict(so_far)), "The turns since:", *parts]
        remaining = run.remaining
        answer = self._client.chat.completions.create(
            model=self._model,
            messages=[
                {"role": "system", "content": self._instructions},
                {"role": "user", "content": "\n".join(parts)},
            ],
            response_format={"type": "json_object"},
            timeout=None if remaining is None else remaining.total_seconds(),
        )
        return notes_from_answer(answer.choices[0].message.content or "")


_INSTRUCTIONS = """You observe a conversation between a user and an assistant; its turns are numbered. You never speak
to the user; your notes help the assistant. You get the whole conversation so far, or your notes so far and the turns
since. Answer with your new notes on the whole conversation, as one JSON object and nothing else:
{"coverage": {"<topic>": <share covered, 0 to 1>},
 "issues": [{"text": "<the problem>", "severity": "info" | "warning" | "critical", "turn": <turn number or null>}],
 "follow_up_suggestions": ["<a next sentence for the assistant, best first>"],
 "summary": "<where the conversation stands, at most three sentences>"}
Unanswered questions and contradictions are issues, at most ten. Of your notes so far, keep what still holds, leave out
issues that the new turns have settled, and renew all suggestions. The topics to cover:"""

MAX_ANSWER_CHARS = 8000
"""The maximum length of a model's answer: the next run sends these notes again."""


class UnusableAnswer(ValueError):
    """A model's answer that does not have the requested form. The message names the part, without user data."""


def notes_from_answer(text: str) -> Notes:
    """Return the notes in a model's answer, with every part checked.

    Raises:
        UnusableAnswer: If the answer is too long, or a part is missing or has the wrong type.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise UnusableAnswer("the answer is too long")
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


_UNANSWERED = " has not been answered"


def _unanswered(turns: Sequence[Turn], first: int, earlier: Sequence[Issue]) -> list[Issue]:
    """Return the user's unanswered questions as issues: earlier ones, and those in turns from number `first`."""
    issues = [issue for issue in earlier if issue.text.endswith(_UNANSWERED)]
    for number, turn in enumerate(turns, first):
        sentences = re.findall(r"[^.!?\s][^.!?]*[.!?]?", turn.text)
        questions = [sentence for sentence in sentences if sentence.endswith("?")]
        if turn.speaker == "user":
            issues += [Issue(f'"{question}"{_UNANSWERED}', Severity.WARNING, number) for question in questions]
        elif stated := {word for sentence in sentences if sentence not in questions for word in _words(sentence)}:
            issues = [issue for issue in issues if not _answers(stated, issue.text.removesuffix(_UNANSWERED))]
    return issues


def _answers(stated: set[str], question: str) -> bool:
    longer_words = {word for word in _words(question) if len(word) > 3}
    # "And why?" has no longer words, so any statement answers it.
    return not longer_words or not longer_words.isdisjoint(stated)
