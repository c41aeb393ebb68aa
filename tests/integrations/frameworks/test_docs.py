"""The code in docs/integrations-frameworks.md, for the frameworks in this environment."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import ClaudeSDKClient
from pipecat.processors.filters.identity_filter import IdentityFilter
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Readiness, Turn, TurnRecorder

from tests.integrations.frameworks import (
    agent_framework_models,
    langchain_models,
    livekit_models,
    openai_agents_models,
    strands_models,
)
from tests.integrations.frameworks.claude_models import ScriptedClaude
from tests.integrations.frameworks.docs import (
    DOCS,
    execute,
    test_framework_code,
    test_missing_package_names_the_extra,
)
from tests.integrations.frameworks.support import Analysis, stored_utterances, summary
from tests.integrations.model_provider import running
from tests.support import Sidecar, eventually

__all__ = ["test_framework_code", "test_missing_package_names_the_extra"]


@pytest.fixture(
    params=[
        ("OpenAI Agents SDK", 0, openai_agents_models.ScriptedModel("Certainly.")),
        ("OpenAI Agents SDK", 1, openai_agents_models.ScriptedModel("Certainly.")),
        ("LangGraph", 0, langchain_models.ScriptedModel(steps=["Certainly."])),
        ("LangChain agents", 0, langchain_models.ScriptedModel(steps=["Certainly."])),
        ("Pydantic AI", 0, TestModel(call_tools=[], custom_output_text="Certainly.")),
        ("Strands Agents", 0, strands_models.ScriptedModel("Certainly.")),
        ("Microsoft Agent Framework", 0, agent_framework_models.ScriptedClient("Certainly.")),
    ]
)
def example(request: pytest.FixtureRequest) -> Any:
    """The code of each framework that a scripted model can run."""
    return request.param


@pytest.fixture(
    params=[
        ("openai_agents", "agents", "openai-agents"),
        ("langgraph", "langchain_core.messages", "langgraph"),
        ("langchain", "langchain.agents.middleware", "langchain"),
        ("langchain", "langchain_core", "langchain"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("strands", "strands.hooks", "strands"),
        ("agent_framework", "agent_framework", "agent-framework"),
        ("claude_agent_sdk", "claude_agent_sdk", "claude-agent-sdk"),
        ("livekit", "livekit.agents", "livekit"),
        ("pipecat", "pipecat.frames.frames", "pipecat"),
    ]
)
def extra(request: pytest.FixtureRequest) -> Any:
    """The extra of each integration."""
    return request.param


async def test_setup_code(
    sidecar: Sidecar, analysis: Analysis, primary: PrimaryClient, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setup code provides the client and the recorder that the other sections use."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)

    async def serve(reader: AsyncPrimaryClient, recorder: TurnRecorder) -> None:
        recorder.record(session_id, Turn("user", "x"))
        assert (await reader.get_notes(session_id)).readiness in (
            Readiness.NEVER_RUN,
            Readiness.RUNNING,
            Readiness.READY,
        )

    await execute("Setup", {"analyse": analysis, "serve": serve})
    assert summary(primary, session_id) == "1 turns"


async def test_livekit_code(async_primary: AsyncPrimaryClient, recorder: TurnRecorder, session_id: str) -> None:
    """The code of the voice agents starts a call. test_voice_agents.py covers the rest of a call."""
    names = {"primary": async_primary, "recorder": recorder, "session_id": session_id}
    await execute("LiveKit Agents", names | {"model": livekit_models.ScriptedLLM()})


async def test_pipecat_code(async_primary: AsyncPrimaryClient, recorder: TurnRecorder, session_id: str) -> None:
    """The code makes a pipeline. test_voice_agents.py covers its run."""
    names = {"primary": async_primary, "recorder": recorder, "session_id": session_id}
    await execute("Pipecat", names | {"llm": IdentityFilter()})  # type: ignore[no-untyped-call]


async def test_claude_agent_sdk_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    async_primary: AsyncPrimaryClient,
    primary: PrimaryClient,
    recorder: TurnRecorder,
) -> None:
    """The code runs unchanged and records the exchange in the SDK's session."""
    names: dict[str, Any] = {"primary": async_primary, "recorder": recorder}
    with running(ScriptedClaude("Certainly.")) as model:
        environment = model.options(tmp_path, monkeypatch).env
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        await execute("Claude Agent SDK", names)
    session_id = names["answers"][-1].session_id
    exchange = [("user", "I want my money back."), ("primary", "Certainly.")]
    eventually(lambda: stored_utterances(primary, session_id) == exchange)


async def test_claude_code_settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sidecar: Sidecar,
    primary: PrimaryClient,
    observer: ObserverClient,
) -> None:
    """With these settings, both sides of a conversation are recorded, and each prompt has the notes."""
    (settings,) = re.findall(r"^## Claude Code\n.*?^```json\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text(settings)
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    with running(ScriptedClaude('What did you "order"?', "Thank you.")) as model:
        options = model.options(tmp_path, monkeypatch, setting_sources=["project"])
        async with ClaudeSDKClient(options) as client:
            await client.query("I want my money\nback.")
            session_id: Any = [message async for message in client.receive_response()][-1].session_id  # type: ignore[union-attr]
            with observer.run(session_id) as run:
                run.write(Notes(summary="Wants a refund."))
            await client.query("A lamp.")
            assert len([message async for message in client.receive_response()]) > 1
        first, second = [str(request["messages"]) for request in model.requests]
    assert "session-notes" not in first
    assert "Wants a refund." in second
    assert stored_utterances(primary, session_id) == [
        ("user", "I want my money\nback."),
        ("primary", 'What did you "order"?'),
        ("user", "A lamp."),
        ("primary", "Thank you."),
    ]
