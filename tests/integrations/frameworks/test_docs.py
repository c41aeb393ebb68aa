"""The code in docs/integrations-frameworks.md runs and does what the page promises."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pipecat.processors.filters.identity_filter import IdentityFilter
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, PrimaryClient, Readiness, Turn, TurnRecorder

from tests.integrations.frameworks import langchain_models, livekit_models, openai_agents_models
from tests.integrations.frameworks.support import Analysis, Caller, stored_utterances, summary
from tests.support import Sidecar, eventually

DOCS = (Path(__file__).parents[3] / "docs" / "integrations-frameworks.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL))


async def execute(section: str, **names: Any) -> None:
    """Run the code of a section, which may contain `await`, with these names defined."""
    lines = SECTIONS[section].replace('"session-1"', "session_id")
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

    await execute("Setup", analyse=analysis, serve=serve)
    assert summary(primary, session_id) == "1 turns"


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("OpenAI Agents SDK", openai_agents_models.ScriptedModel("Certainly.")),
        ("LangGraph", langchain_models.ScriptedModel(steps=["Certainly."])),
        ("LangChain agents", langchain_models.ScriptedModel(steps=["Certainly."])),
        ("Pydantic AI", TestModel(call_tools=[], custom_output_text="Certainly.")),
    ],
)
async def test_framework_code(
    section: str,
    model: Any,
    async_primary: AsyncPrimaryClient,
    primary: PrimaryClient,
    recorder: TurnRecorder,
    session_id: str,
) -> None:
    """The code of each framework runs unchanged with a scripted model and records the exchange."""
    names = {"model": model, "caller": Caller(session_id), "Caller": Caller, "session_id": session_id}
    await execute(section, primary=async_primary, recorder=recorder, **names)
    exchange = [("user", "I want my money back."), ("primary", "Certainly.")]
    eventually(lambda: stored_utterances(primary, session_id) == exchange)


async def test_livekit_code(async_primary: AsyncPrimaryClient, recorder: TurnRecorder, session_id: str) -> None:
    """The code of the voice agents starts a call. test_voice_agents.py covers the rest of a call."""
    model = livekit_models.ScriptedLLM()
    await execute("LiveKit Agents", primary=async_primary, recorder=recorder, model=model, session_id=session_id)


async def test_pipecat_code(async_primary: AsyncPrimaryClient, recorder: TurnRecorder, session_id: str) -> None:
    """The code makes a pipeline. test_voice_agents.py covers its run."""
    names = {"llm": IdentityFilter(), "session_id": session_id}  # type: ignore[no-untyped-call]
    await execute("Pipecat", primary=async_primary, recorder=recorder, **names)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("openai_agents", "agents", "openai-agents"),
        ("langgraph", "langchain_core.messages", "langgraph"),
        ("langchain", "langchain.agents.middleware", "langchain"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("livekit", "livekit.agents", "livekit"),
        ("pipecat", "pipecat.frames.frames", "pipecat"),
    ],
)
def test_missing_package_names_the_extra(module: str, package: str, extra: str) -> None:
    """Without its package, an integration names the extra to install."""
    script = f"import sys; sys.modules[{package!r}] = None; import session_notes.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert f"pip install '.[{extra}]' in its checkout" in done.stderr.splitlines()[-1]
