"""The code in docs/integrations-frameworks.md runs and does what the page promises."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import ClaudeSDKClient
from pipecat.processors.filters.identity_filter import IdentityFilter
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Readiness, Turn, TurnRecorder

from tests.integrations.frameworks import langchain_models, livekit_models, openai_agents_models
from tests.integrations.frameworks.claude_models import ScriptedClaude
from tests.integrations.frameworks.support import Analysis, Caller, stored_utterances, summary
from tests.integrations.model_provider import running
from tests.support import Sidecar, eventually

DOCS = (Path(__file__).parents[3] / "docs" / "integrations-frameworks.md").read_text()
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    for section in DOCS.split("\n## ")[1:]
}


async def execute(section: str, names: dict[str, Any], *, block: int = 0) -> None:
    """Run code of a section, which may contain `await`, with these names defined."""
    lines = SECTIONS[section][block].replace('"session-1"', "session_id")
    result = eval(compile(lines, section, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(result):
        await result


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


@pytest.mark.parametrize(
    ("section", "block", "model"),
    [
        ("OpenAI Agents SDK", 0, openai_agents_models.ScriptedModel("Certainly.")),
        ("OpenAI Agents SDK", 1, openai_agents_models.ScriptedModel("Certainly.")),
        ("LangGraph", 0, langchain_models.ScriptedModel(steps=["Certainly."])),
        ("LangChain agents", 0, langchain_models.ScriptedModel(steps=["Certainly."])),
        ("Pydantic AI", 0, TestModel(call_tools=[], custom_output_text="Certainly.")),
    ],
)
async def test_framework_code(
    section: str,
    block: int,
    model: Any,
    async_primary: AsyncPrimaryClient,
    primary: PrimaryClient,
    recorder: TurnRecorder,
    session_id: str,
) -> None:
    """The code of each framework runs unchanged with a scripted model and records the exchange."""
    names = {"model": model, "caller": Caller(session_id), "Caller": Caller, "session_id": session_id}
    await execute(section, names | {"primary": async_primary, "recorder": recorder}, block=block)
    exchange = [("user", "I want my money back."), ("primary", "Certainly.")]
    eventually(lambda: stored_utterances(primary, session_id) == exchange)


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


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("openai_agents", "agents", "openai-agents"),
        ("langgraph", "langchain_core.messages", "langgraph"),
        ("langchain", "langchain.agents.middleware", "langchain"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("claude_agent_sdk", "claude_agent_sdk", "claude-agent-sdk"),
        ("livekit", "livekit.agents", "livekit"),
        ("pipecat", "pipecat.frames.frames", "pipecat"),
    ],
)
def test_missing_package_names_the_extra(module: str, package: str, extra: str) -> None:
    """Without its package, an integration names the extra to install."""
    script = f"import sys; sys.modules[{package!r}] = None; import session_notes.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert f"pip install '.[{extra}]' in its checkout" in done.stderr.splitlines()[-1]
