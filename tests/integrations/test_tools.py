"""The notes tool with the real clients of OpenAI and Anthropic and a scripted model."""

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, ToolParam
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from openai.types.responses import FunctionToolParam, ResponseInputParam
from pydantic import TypeAdapter
from session_notes import (
    AsyncPrimaryClient,
    InvalidArgument,
    Issue,
    Notes,
    ObserverClient,
    PrimaryClient,
    Severity,
    Turn,
    UsageError,
)
from session_notes.integrations.tools import AsyncNotesTool, NotesTool

from tests.access.callers import token_files
from tests.integrations.model_provider import Provider, running
from tests.support import CANARY, Sidecar, free_port, leaks, new_session_id

NOTES = Notes(
    coverage={"goals": 1.0, "budget": 0.25},
    issues=[Issue("Größe und Termin widersprechen sich", Severity.CRITICAL, turn=2)],
    follow_up_suggestions=["Which of them can move?"],
    summary="Goals are clear.",
)
AS_JSON = {
    "coverage": {"goals": 1.0, "budget": 0.25},
    "issues": [{"text": "Größe und Termin widersprechen sich", "severity": "critical", "turn": 2}],
    "follow_up_suggestions": ["Which of them can move?"],
    "summary": "Goals are clear.",
}
UNAVAILABLE = {"ready": False, "reason": "unavailable"}
MODEL = "some-model"
ANSWER = "Which of them can move?"
# Longer than the default, since tests share a few cores.
PATIENCE = timedelta(seconds=10)


@pytest.fixture
def primary(sidecar: Sidecar) -> Iterator[PrimaryClient]:
    with PrimaryClient(sidecar.target, timeout=PATIENCE) as primary:
        yield primary


@pytest.fixture
def noted_session(sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> str:
    """A session with two turns, notes on both, and one later turn."""
    primary.append_turns(session_id, [Turn("user", "All of it, by May."), Turn("primary", "Noted.")])
    with ObserverClient(sidecar.target) as observer, observer.run(session_id) as run:
        run.write(NOTES)
    primary.append_turns(session_id, [Turn("user", "So?")])
    return session_id


@pytest.fixture
def tool(primary: PrimaryClient, noted_session: str) -> NotesTool:
    return NotesTool(primary, noted_session, max_age=timedelta(minutes=5), max_turns_behind=0)


def without_ages(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without its ages, which must exist and be small."""
    ages = {name: result[name] for name in ("age_seconds", "snapshot_age_seconds")}
    assert all(0 <= age < 60 for age in ages.values()), ages
    return {name: value for name, value in result.items() if name not in ages}


BEHIND = {"ready": True, "turns_behind": 1, "fresh": False, "stale_because": ["turns_behind"], "notes": AS_JSON}


@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("openai", ChatCompletionFunctionToolParam),
        ("openai_responses", FunctionToolParam),
        ("anthropic", ToolParam),
    ],
)
def test_definitions_have_the_packages_types(tool: NotesTool, method: str, package: Any) -> None:
    """A definition has every required key of the package's own type and no unknown key."""
    definition = getattr(tool, method)()

    assert TypeAdapter(package).validate_python(definition) == definition


async def test_whole_numbers_stay_whole(sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> None:
    """A model gets 4711, not 4711.0, at any depth of `extra`."""
    extra = {"order": 4711, "price": 0.5, "lines": [{"count": -2}, 1e3]}
    with ObserverClient(sidecar.target) as observer, observer.run(session_id) as run:
        run.write(Notes(extra=extra))
    tool = NotesTool(primary, session_id)
    assert tool.call()["notes"] == {"extra": extra}
    for number in ('"order":4711', '"price":0.5', '[{"count":-2},1000]'):
        assert re.search(f"{re.escape(number)}(?!\\.)", tool.json())
    async with AsyncPrimaryClient(sidecar.target, timeout=PATIENCE) as client:
        assert "4711.0" not in await AsyncNotesTool(client, session_id).json()


def chat_completion(**message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None} | message}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}


CHAT = (
    chat_completion(
        tool_calls=[{"id": "c1", "type": "function", "function": {"name": "get_session_notes", "arguments": "{}"}}]
    ),
    chat_completion(content=ANSWER),
)


def test_chat_completions(tool: NotesTool) -> None:
    """With OpenAI's client, the model calls the tool, gets the notes and answers."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "So?"}]
    with running(Provider(*CHAT)) as model, OpenAI(api_key="none", base_url=f"{model.url}/v1") as openai:
        while (
            answer := openai.chat.completions.create(model=MODEL, messages=messages, tools=[tool.openai()])
            .choices[0]
            .message
        ).tool_calls:
            messages.append(answer.to_dict())  # type: ignore[arg-type]
            messages += [
                {"role": "tool", "tool_call_id": call.id, "content": tool.json()} for call in answer.tool_calls
            ]

    assert answer.content == ANSWER
    first_request, second_request = model.requests
    assert first_request["path"] == "/v1/chat/completions"
    assert first_request["tools"] == [tool.openai()]
    assert without_ages(json.loads(second_request["messages"][-1]["content"])) == BEHIND
    assert "Größe" in second_request["messages"][-1]["content"], "escaped letters cost tokens"


async def test_async_chat_completions(sidecar: Sidecar, noted_session: str) -> None:
    """The asyncio clients read the notes in the same way."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "So?"}]
    with running(Provider(*CHAT)) as model:
        async with (
            AsyncPrimaryClient(sidecar.target, timeout=PATIENCE) as client,
            AsyncOpenAI(api_key="none", base_url=f"{model.url}/v1") as openai,
        ):
            tool = AsyncNotesTool(client, noted_session, max_turns_behind=0)
            first = await openai.chat.completions.create(model=MODEL, messages=messages, tools=[tool.openai()])
            (call,) = first.choices[0].message.tool_calls or []
            messages.append({"role": "tool", "tool_call_id": call.id, "content": await tool.json()})
            last = await openai.chat.completions.create(model=MODEL, messages=messages, tools=[tool.openai()])

    assert last.choices[0].message.content == ANSWER
    assert without_ages(json.loads(model.requests[1]["messages"][-1]["content"])) == BEHIND


def response(output: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "r1",
        "object": "response",
        "created_at": 1,
        "model": MODEL,
        "status": "completed",
        "output": [output],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }


def test_responses(tool: NotesTool) -> None:
    """With OpenAI's Responses API, the model calls the tool, gets the notes and answers."""
    items: ResponseInputParam = [{"role": "user", "content": "So?"}]
    call = {"type": "function_call", "id": "f1", "call_id": "c1", "name": "get_session_notes", "arguments": "{}"}
    text = {"type": "output_text", "text": ANSWER, "annotations": []}
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [text]}
    with (
        running(Provider(response(call), response(message))) as model,
        OpenAI(api_key="none", base_url=f"{model.url}/v1") as openai,
    ):
        first = openai.responses.create(model=MODEL, input=items, tools=[tool.openai_responses()])
        for item in first.output:
            if item.type == "function_call":
                items.append({"type": "function_call_output", "call_id": item.call_id, "output": tool.json()})
        last = openai.responses.create(model=MODEL, input=items, tools=[tool.openai_responses()])

    assert last.output_text == ANSWER
    first_request, second_request = model.requests
    assert first_request["tools"] == [tool.openai_responses()]
    assert without_ages(json.loads(second_request["input"][-1]["output"])) == BEHIND


def message(block: dict[str, Any], stop_reason: str) -> dict[str, Any]:
    return {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [block],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


MESSAGES = (
    message({"type": "tool_use", "id": "t1", "name": "get_session_notes", "input": {}}, "tool_use"),
    message({"type": "text", "text": ANSWER}, "end_turn"),
)


def test_messages(tool: NotesTool) -> None:
    """With Anthropic's client, the model calls the tool, gets the notes and answers."""
    messages: list[MessageParam] = [{"role": "user", "content": "So?"}]
    with running(Provider(*MESSAGES)) as model, Anthropic(api_key="none", base_url=model.url) as anthropic:
        while (
            answer := anthropic.messages.create(
                model=MODEL, max_tokens=100, messages=messages, tools=[tool.anthropic()]
            )
        ).stop_reason == "tool_use":
            messages.append({"role": "assistant", "content": answer.content})
            for block in answer.content:
                if block.type == "tool_use":
                    result = tool.json(block.input)
                    messages.append(
                        {
                            "role": "user",
                            "content": [{"type": "tool_result", "tool_use_id": block.id, "content": result}],
                        }
                    )

    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": ANSWER}]
    first_request, second_request = model.requests
    assert first_request["path"] == "/v1/messages"
    assert first_request["tools"] == [tool.anthropic()]
    assert without_ages(json.loads(second_request["messages"][-1]["content"][0]["content"])) == BEHIND


async def test_async_messages(sidecar: Sidecar, noted_session: str) -> None:
    """The asyncio clients read the notes in the same way."""
    messages: list[MessageParam] = [{"role": "user", "content": "So?"}]
    with running(Provider(*MESSAGES)) as model:
        async with (
            AsyncPrimaryClient(sidecar.target, timeout=PATIENCE) as client,
            AsyncAnthropic(api_key="none", base_url=model.url) as anthropic,
        ):
            tool = AsyncNotesTool(client, noted_session, max_turns_behind=0)
            answer = await anthropic.messages.create(
                model=MODEL, max_tokens=100, messages=messages, tools=[tool.anthropic()]
            )

    assert answer.stop_reason == "tool_use"
    assert model.requests[0]["tools"] == [tool.anthropic()]


def test_model_cannot_choose_the_session(tool: NotesTool, primary: PrimaryClient) -> None:
    """Arguments of the model are ignored: the tool reads the session that the application chose."""
    empty = NotesTool(primary, new_session_id())

    assert empty.call({"session_id": "s1", "observer": "other"}) == {"ready": False, "reason": "never_run"}
    assert "session" not in json.dumps(tool.anthropic()["input_schema"])


def test_application_sets_the_bounds(primary: PrimaryClient, noted_session: str) -> None:
    """The application sets the bounds and the current turn; a function for the turn is called each time."""
    turns = iter([2, 7])
    tool = NotesTool(primary, noted_session, max_turns_behind=3, current_turn=lambda: next(turns))

    assert [(result["turns_behind"], result["fresh"]) for result in (tool.call(), tool.call())] == [
        (0, True),
        (5, False),
    ]
    assert NotesTool(primary, noted_session, current_turn=4).call()["turns_behind"] == 2
    assert NotesTool(primary, noted_session, max_age=timedelta(0)).call()["fresh"] is False
    assert NotesTool(primary, noted_session, observer="other").call() == {"ready": False, "reason": "never_run"}


async def test_outage_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    """Without a sidecar, the result is `unavailable`, which is not an error and is not logged."""
    unused_address = f"127.0.0.1:{free_port()}"
    with PrimaryClient(unused_address) as client:
        assert NotesTool(client, "s1").call() == UNAVAILABLE
        assert NotesTool(client, "s1").json() == '{"ready":false,"reason":"unavailable"}'
    async with AsyncPrimaryClient(unused_address) as async_client:
        assert await AsyncNotesTool(async_client, "s1").call() == UNAVAILABLE
    assert not [record for record in caplog.records if record.name.startswith("session_notes")]


async def test_call_ends_with_the_clients_timeout() -> None:
    """A sidecar that accepts connections but never responds delays a call only by the client's timeout."""
    short = timedelta(milliseconds=100)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with PrimaryClient(target, timeout=short) as client:
            start = time.monotonic()
            assert NotesTool(client, "s1").call() == UNAVAILABLE
        async with AsyncPrimaryClient(target, timeout=short) as async_client:
            assert await AsyncNotesTool(async_client, "s1").call() == UNAVAILABLE
            assert time.monotonic() - start < 5


async def test_rejected_token_is_unavailable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A rejected token makes the result `unavailable`. The log has the cause, without the token and the session."""
    caplog.set_level(logging.DEBUG)
    session_id = new_session_id()
    with Sidecar(flags=["--tokens-dir", str(token_files(tmp_path / "tokens"))]) as sidecar:
        with PrimaryClient(sidecar.target, token=f"{CANARY}-wrong", timeout=PATIENCE) as client:
            assert NotesTool(client, session_id).call() == UNAVAILABLE
        async with AsyncPrimaryClient(sidecar.target, token=f"{CANARY}-wrong", timeout=PATIENCE) as async_client:
            assert await AsyncNotesTool(async_client, session_id).call() == UNAVAILABLE

    assert caplog.text.count("notes are unavailable to the model: Unauthenticated") == 2
    assert not leaks(caplog.text)


def test_application_errors_are_raised(primary: PrimaryClient, sidecar: Sidecar) -> None:
    """An invalid id and a closed client are errors for the programmer, not results for the model."""
    with pytest.raises(InvalidArgument, match="session_id"):
        NotesTool(primary, "no good").call()
    with PrimaryClient(sidecar.target) as closed:
        pass
    with pytest.raises(UsageError):
        NotesTool(closed, "s1").call()
