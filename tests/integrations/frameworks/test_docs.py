"""docs/integrations-frameworks.md does what it says."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import livekit_agent
import pytest
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, PrimaryClient, Readiness, Turn, TurnRecorder
from voice import listening_in

from tests.integrations.frameworks import test_langchain, test_openai_agents, test_pydantic_ai, test_voice_agents
from tests.integrations.frameworks.conftest import Analysis, said, summary
from tests.support import Sidecar, eventually

DOCS = (Path(__file__).parents[3] / "docs" / "integrations-frameworks.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL))


async def execute(section: str, **names: Any) -> None:
    """Runs a section's code, `await` included, with these names there already."""
    lines = SECTIONS[section].replace('"session-1"', "session_id")
    running = eval(compile(lines, section, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(running):
        await running


async def test_the_processs_lines(
    sidecar: Sidecar, analysis: Analysis, primary: PrimaryClient, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other sections take as given: something to read with, and something to record with."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)

    async def serve(reader: AsyncPrimaryClient, recorder: TurnRecorder) -> None:
        recorder.record(session_id, Turn("user", "x"))
        assert (await reader.get_notes(session_id)).readiness in (
            Readiness.NEVER_RUN,
            Readiness.RUNNING,
            Readiness.READY,
        )

    await execute("The process", analyse=analysis, serve=serve)
    assert summary(primary, session_id) == "1 turns"


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("OpenAI Agents SDK", test_openai_agents.Scripted("Certainly.")),
        ("LangGraph", test_langchain.Scripted(answers=["Certainly."])),
        ("LangChain agents", test_langchain.Scripted(answers=["Certainly."])),
        ("Pydantic AI", TestModel(call_tools=[], custom_output_text="Certainly.")),
    ],
)
async def test_each_frameworks_lines(
    section: str,
    model: Any,
    async_primary: AsyncPrimaryClient,
    primary: PrimaryClient,
    recorder: TurnRecorder,
    session_id: str,
) -> None:
    """They run as they stand, with a model on a script, and leave an exchange in the transcript."""
    caller = test_pydantic_ai.Caller(session_id)
    given = {"model": model, "caller": caller, "Caller": type(caller), "session_id": session_id}
    await execute(section, primary=async_primary, recorder=recorder, **given)
    exchange = [("user", "I want my money back."), ("primary", "Certainly.")]
    eventually(lambda: said(primary, session_id) == exchange)


async def test_the_voice_agents_lines(sidecar: Sidecar, session_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They start a call; test_voice_agents.py has what comes after."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    names = {name: vars(livekit_agent)[name] for name in ("AgentSession", "agent_with_notes", "take_down")}
    model = test_voice_agents.ScriptedLLM()
    await execute(
        "Voice: Pipecat and LiveKit Agents", **names, listening_in=listening_in, model=model, session_id=session_id
    )


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("openai_agents", "agents", "openai-agents"),
        ("langgraph", "langchain_core.messages", "langgraph"),
        ("langchain", "langchain.agents.middleware", "langchain"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
    ],
)
def test_what_is_missing_is_said(module: str, package: str, extra: str) -> None:
    """Without its package a module says which extra to install."""
    program = f"import sys; sys.modules[{package!r}] = None; import session_notes.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert f"pip install '.[{extra}]' in its checkout" in done.stderr.splitlines()[-1]
