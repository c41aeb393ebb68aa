"""The examples with a language model, served by a chat completions endpoint on loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from analysers import Analyser, UnusableAnswer, analyser_from_environment, notes_from_answer
from session_notes import BackgroundObserver, Issue, Notes, ObserverClient, PrimaryClient, RunState, Severity, Turn

from tests.integrations.model_provider import Provider, running
from tests.support import Sidecar

pytest.importorskip("openai", reason="the extra `openai` is not installed", exc_type=ImportError)

GOOD = {
    "coverage": {"goals": 1, "budget": 0.25},
    "issues": [{"text": "Scope and deadline contradict", "severity": "critical", "turn": 2}],
    "follow_up_suggestions": ["Which of them can move?"],
    "summary": "Goals are clear.",
}
NOTES = Notes(
    coverage={"goals": 1, "budget": 0.25},
    issues=[Issue("Scope and deadline contradict", Severity.CRITICAL, 2)],
    follow_up_suggestions=["Which of them can move?"],
    summary="Goals are clear.",
)


class Endpoint(Provider):
    """An endpoint that answers every chat completion with `answer`, once `open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = json.dumps(GOOD)
        self.open = threading.Event()
        self.open.set()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make the examples use this endpoint."""
        return {
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "SESSION_NOTES_MODEL": "some-model",
            "NO_PROXY": "127.0.0.1",
        }

    def next_answer(self) -> dict[str, Any]:
        self.open.wait(30)
        message = {"role": "assistant", "content": self.answer}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "some-model", "choices": [choice]}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running(Endpoint()) as endpoint:
        yield endpoint
        endpoint.open.set()


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    """A sidecar of its own for each test, because the observer analyses all sessions."""
    with Sidecar() as sidecar:
        yield sidecar


@pytest.fixture
def primary(sidecar: Sidecar, session_id: str) -> Iterator[PrimaryClient]:
    """A primary client, with two turns in the session."""
    with PrimaryClient(sidecar.target) as client:
        client.append_turns(session_id, [Turn("user", "All of it, by May."), Turn("primary", "Noted.")])
        yield client


def test_observer_writes_the_models_notes(
    run: Callable[..., str], endpoint: Endpoint, primary: PrimaryClient, session_id: str
) -> None:
    """The model gets the numbered transcript, and its answer becomes the notes."""
    run("observer.py", "--once", **endpoint.environment)

    reading = primary.get_notes(session_id)
    assert reading.as_tool_result()["notes"] == GOOD
    (request,) = endpoint.requests
    assert (request["path"], request["model"]) == ("/v1/chat/completions", "some-model")
    assert request["response_format"] == {"type": "json_object"}
    assert request["messages"][1]["content"] == "1. user: All of it, by May.\n2. primary: Noted."


def test_model_gets_the_notes_so_far_and_new_turns(
    run: Callable[..., str], endpoint: Endpoint, primary: PrimaryClient, session_id: str
) -> None:
    """After the first run, the model gets its notes and the turns since, so requests do not grow with the talk."""
    for text in ["The goal comes first.", "The scope comes last.", "Nothing else can move"]:
        run("observer.py", "--once", **endpoint.environment)
        primary.append_turns(session_id, [Turn("user", text)])
    run("observer.py", "--once", **endpoint.environment)

    contents = [request["messages"][1]["content"] for request in endpoint.requests]
    assert len(contents) == 4
    so_far, notes, since, *turns = contents[-1].splitlines()
    assert (so_far, since, turns) == ("Your notes so far:", "The turns since:", ["5. user: Nothing else can move"])
    assert json.loads(notes) == GOOD | {"extra": {}}
    assert len({len(content) for content in contents[1:]}) == 1, "requests of equal length for turns of equal length"


@pytest.fixture
def analyser(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Analyser:
    """The analyser that the environment selects if it names a model."""
    for name, text in endpoint.environment.items():
        monkeypatch.setenv(name, text)
    return analyser_from_environment()


def test_non_json_answer_fails_the_run(
    sidecar: Sidecar,
    endpoint: Endpoint,
    analyser: Analyser,
    primary: PrimaryClient,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run is recorded as failed, and the log has the class of the error without the answer."""
    endpoint.answer = "The user wants all of it by May."

    with BackgroundObserver(analyser, target=sidecar.target) as observer:
        observer.submit(session_id)

    reading = primary.get_notes(session_id)
    assert reading.as_tool_result() == {"ready": False, "reason": "failed"}
    assert reading.latest_run is not None
    assert (reading.latest_run.state, reading.latest_run.failure) == (RunState.FAILED, "UnusableAnswer")
    assert "UnusableAnswer" in caplog.text
    assert "by May" not in caplog.text


def test_slow_model_is_cancelled_at_the_time_limit(
    sidecar: Sidecar, endpoint: Endpoint, analyser: Analyser, primary: PrimaryClient, session_id: str
) -> None:
    """The model call ends with the run, so that no thread is left waiting."""
    endpoint.open.clear()
    limit = timedelta(seconds=0.5)

    with BackgroundObserver(analyser, target=sidecar.target, time_limit=limit) as observer:
        observer.submit(session_id)
        assert observer.close(timedelta(seconds=5))

    with ObserverClient(sidecar.target) as client:
        assert [run.state for run in client.list_runs(session_id)] == [RunState.FAILED]
    assert len(endpoint.requests) == 1


def test_primary_answers_with_the_model(
    run: Callable[..., str], sidecar: Sidecar, endpoint: Endpoint, primary: PrimaryClient, session_id: str
) -> None:
    """The primary prints the model's answer, and the model gets the conversation, with the notes at its end."""
    endpoint.answer = "Which of them can move?"

    output = run("primary.py", "--session", session_id, stdin="Hello\n", **endpoint.environment)
    with ObserverClient(sidecar.target) as client, client.run(session_id) as active:
        active.write(NOTES)
    run("primary.py", "--session", session_id, stdin="Hello\n", **endpoint.environment)

    assert "primary > Which of them can move?" in output
    without_notes, with_notes = (request["messages"] for request in endpoint.requests)
    assert [message["role"] for message in without_notes] == ["system", "user", "assistant", "user"]
    assert with_notes[:4] == without_notes
    assert with_notes[-1]["content"] == primary.get_notes(session_id).as_prompt() != ""


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("plain", json.dumps(GOOD)),
        ("in a code block", f"```json\n{json.dumps(GOOD)}\n```"),
        ("after a sentence", f"Here you are: {json.dumps(GOOD)}"),
        ("with an unknown key", json.dumps(GOOD | {"confidence": 1})),
    ],
)
def test_usable_answers(case: str, text: str) -> None:
    """Notes are found in answers that wrap or extend the requested JSON."""
    assert notes_from_answer(text) == NOTES, case


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("too long", "SECRET" * 2000),
        ("not JSON", "{"),
        ("not JSON", "[1, 2]"),
        ("not JSON", ""),
        ("coverage is missing", {"coverage": None}),
        ("coverage must be", {"coverage": {"SECRET": 1.5}}),
        ("coverage must be", {"coverage": {"SECRET": True}}),
        ("coverage must be", {"coverage": {"SECRET": float("nan")}}),
        ("coverage must be", {"coverage": {"SECRET": "SECRET"}}),
        ("issues is missing", {"issues": "SECRET"}),
        ("severity is missing", {"issues": ["SECRET"]}),
        ("severity must be", {"issues": [{"text": "SECRET", "severity": "SECRET"}]}),
        ("turn must be", {"issues": [{"text": "SECRET", "severity": "info", "turn": -1}]}),
        ("turn must be", {"issues": [{"text": "SECRET", "severity": "info", "turn": 1.5}]}),
        ("text is missing", {"issues": [{"severity": "info"}]}),
        ("follow_up_suggestions must be", {"follow_up_suggestions": [["SECRET"]]}),
        ("summary is missing", {"summary": 1}),
    ],
)
def test_unusable_answers(message: str, answer: str | dict[str, Any]) -> None:
    """The error names the wrong part, without the answer's words."""
    with pytest.raises(UnusableAnswer, match=message) as raised:
        notes_from_answer(answer if isinstance(answer, str) else json.dumps(GOOD | answer))
    assert "SECRET" not in str(raised.value)
