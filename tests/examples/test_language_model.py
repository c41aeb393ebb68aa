"""The analyser that asks a language model, against an endpoint that speaks chat completions on loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from analysers import Analyser, UnusableAnswer, analyser_from_environment, notes_from_answer
from session_notes import BackgroundObserver, Issue, Notes, ObserverClient, PrimaryClient, RunState, Severity, Turn

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


class Endpoint(ThreadingHTTPServer):
    """Answers every chat completion with `answer`, once `open` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Completion)
        self.answer = json.dumps(GOOD)
        self.requests: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.open.set()

    @property
    def environment(self) -> dict[str, str]:
        """What makes the examples use it."""
        return {
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.server_port}/v1",
            "SESSION_NOTES_MODEL": "some-model",
            "NO_PROXY": "127.0.0.1",
        }


class Completion(BaseHTTPRequestHandler):
    """One call of the endpoint."""

    server: Endpoint

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(json.loads(request) | {"path": self.path})
        self.server.open.wait(30)
        message = {"role": "assistant", "content": self.server.answer}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "some-model", "choices": [choice]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def primary(sidecar: Sidecar, session_id: str) -> Iterator[PrimaryClient]:
    """A primary whose user has said something."""
    with PrimaryClient(sidecar.target) as client:
        client.append_turns(session_id, [Turn("user", "All of it, by May."), Turn("primary", "Noted.")])
        yield client


def test_the_observer_writes_what_the_model_found(
    run: Callable[..., str], endpoint: Endpoint, primary: PrimaryClient, session_id: str
) -> None:
    run("observer.py", "--session", session_id, "--once", **endpoint.environment)

    reading = primary.get_notes(session_id)
    assert reading.as_tool_result()["notes"] == GOOD
    (request,) = endpoint.requests
    assert (request["path"], request["model"]) == ("/v1/chat/completions", "some-model")
    assert request["response_format"] == {"type": "json_object"}
    assert request["messages"][1]["content"] == "1. user: All of it, by May.\n2. primary: Noted."


@pytest.fixture
def analyser(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Analyser:
    """As the observer has it where the environment names a model."""
    for name, text in endpoint.environment.items():
        monkeypatch.setenv(name, text)
    return analyser_from_environment()


def test_an_answer_that_is_no_json_fails_the_run(
    sidecar: Sidecar,
    endpoint: Endpoint,
    analyser: Analyser,
    primary: PrimaryClient,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.answer = "The user wants all of it by May."

    with BackgroundObserver(analyser, target=sidecar.target) as observer:
        observer.submit(session_id)

    reading = primary.get_notes(session_id)
    assert reading.as_tool_result() == {"ready": False, "reason": "failed"}
    assert reading.latest_run is not None
    assert (reading.latest_run.state, reading.latest_run.failure) == (RunState.FAILED, "UnusableAnswer")
    assert "UnusableAnswer" in caplog.text
    assert "by May" not in caplog.text


def test_a_model_that_is_too_slow_is_given_up_with_the_run(
    sidecar: Sidecar, endpoint: Endpoint, analyser: Analyser, primary: PrimaryClient, session_id: str
) -> None:
    endpoint.open.clear()
    limit = timedelta(seconds=0.5)

    with BackgroundObserver(analyser, target=sidecar.target, time_limit=limit) as observer:
        observer.submit(session_id)
        # The call has the run's time as its own limit: else its thread would be waiting still.
        assert observer.close(timedelta(seconds=5))

    with ObserverClient(sidecar.target) as client:
        assert [one.state for one in client.list_runs(session_id)] == [RunState.FAILED]
    assert len(endpoint.requests) == 1


def test_the_primary_answers_with_the_model_and_shows_it_the_notes(
    run: Callable[..., str], endpoint: Endpoint, primary: PrimaryClient, session_id: str
) -> None:
    endpoint.answer = "Which of them can move?"

    shown = run("primary.py", "--session", session_id, said="Hello\n", **endpoint.environment)

    assert "primary > Which of them can move?" in shown
    (request,) = endpoint.requests
    instructions, *turns = request["messages"]
    assert '{"ready": false, "reason": "never_run"}' in instructions["content"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("plain", json.dumps(GOOD)),
        ("in a code block", f"```json\n{json.dumps(GOOD)}\n```"),
        ("after a sentence", f"Here you are: {json.dumps(GOOD)}"),
        ("with a key nobody asked for", json.dumps(GOOD | {"confidence": 1})),
    ],
)
def test_answers_that_can_be_used(reason: str, text: str) -> None:
    assert notes_from_answer(text) == NOTES, reason


@pytest.mark.parametrize(
    ("message", "answer"),
    [
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
def test_answers_that_cannot_be_used(message: str, answer: str | dict[str, Any]) -> None:
    with pytest.raises(UnusableAnswer, match=message) as raised:
        notes_from_answer(answer if isinstance(answer, str) else json.dumps(GOOD | answer))
    assert "SECRET" not in str(raised.value)
