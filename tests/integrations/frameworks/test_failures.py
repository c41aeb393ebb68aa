"""A failing sidecar never breaks, slows or changes a conversation, in any framework.

Every integration has an exchange here: a conversation with all that the integration hooks into it, except the tool.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, SQLiteSession, set_tracing_disabled
from claude_agent_sdk import HookMatcher, InMemorySessionStore
from langchain.agents import create_agent
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, PrimaryClient, TurnRecorder
from session_notes.integrations import claude_agent_sdk, langchain, langgraph, openai_agents, pydantic_ai
from session_notes.integrations._recording import Recorder

from tests.integrations.frameworks import langchain_models, openai_agents_models
from tests.integrations.frameworks.claude_models import ScriptedClaude, ask
from tests.integrations.frameworks.livekit_models import QUESTION
from tests.integrations.frameworks.support import MemoryRecorder
from tests.integrations.frameworks.voice_exchanges import livekit_turn, pipecat_turn
from tests.integrations.model_provider import running

set_tracing_disabled(True)

Exchange = Callable[[AsyncPrimaryClient, Recorder, str], Awaitable[Any]]
"""Runs a conversation, and returns what the framework made of it: answers, history, or the model's input."""


async def run_openai_hooks(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run an agent of the OpenAI Agents SDK with hooks and notes in its input."""
    model = openai_agents_models.ScriptedModel("Certainly.")
    config = RunConfig(call_model_input_filter=openai_agents.notes_filter(primary, session_id))
    hooks = openai_agents.ObserverHooks(recorder, session_id)
    result = await Runner.run(Agent(name="Support", model=model), QUESTION, hooks=hooks, run_config=config)
    return result.final_output, model.inputs


async def run_openai_session(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run an agent of the OpenAI Agents SDK with an observed session."""
    model, memory = openai_agents_models.ScriptedModel("Certainly."), SQLiteSession("s1")
    session = openai_agents.ObservedSession(memory, recorder, session_id)
    result = await Runner.run(Agent(name="Support", model=model), QUESTION, session=session)
    history = await memory.get_items()
    memory.close()
    return result.final_output, history


async def run_langgraph(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run a graph with an observing node."""
    graph = StateGraph(MessagesState)
    graph.add_node("agent", create_agent(langchain_models.ScriptedModel(steps=["Certainly."])))
    graph.add_node("observe", langgraph.ObserverNode(recorder, session_id))
    graph.add_edge(START, "agent")
    graph.add_edge("agent", "observe")
    messages: Any = {"messages": [("user", QUESTION)]}
    result = await graph.compile().ainvoke(messages)
    return [(message.type, message.text) for message in result["messages"]]


async def run_langchain(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run an agent with observing middleware."""
    model = langchain_models.ScriptedModel(steps=["Certainly."])
    agent: Any = create_agent(model, middleware=[langchain.ObserverMiddleware(recorder, session_id)])
    result = await agent.ainvoke({"messages": [("user", QUESTION)]})
    return [(message.type, message.text) for message in result["messages"]]


async def run_pydantic_ai(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run an agent with an observing capability."""
    agent = PydanticAgent(TestModel(custom_output_text="Certainly."))
    return (await agent.run(QUESTION, capabilities=[pydantic_ai.Observed(recorder, session_id)])).output


@pytest.fixture
def run_claude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """Runs a conversation with the Claude Agent SDK, an observed store and a hook."""

    async def run(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
        store = claude_agent_sdk.ObservedStore(InMemorySessionStore(), recorder, session_id)
        hook = claude_agent_sdk.notes_hook(primary, session_id)
        hooks: Any = {"UserPromptSubmit": [HookMatcher(hooks=[hook])]}
        with running(ScriptedClaude("Certainly.")) as model:
            options = model.options(tmp_path, monkeypatch, session_store=store, hooks=hooks)
            return await ask(options, QUESTION), len(model.requests)

    return run


@pytest.fixture(
    params=[
        run_openai_hooks,
        run_openai_session,
        run_langgraph,
        run_langchain,
        run_pydantic_ai,
        livekit_turn,
        pipecat_turn,
        "run_claude",
    ]
)
def exchange(request: pytest.FixtureRequest) -> Any:
    """The exchange of each integration."""
    return request.getfixturevalue(request.param) if isinstance(request.param, str) else request.param


@pytest.fixture(params=["refused", "silent", "broken"])
def failing(
    request: pytest.FixtureRequest, unreachable: str, silent: str
) -> Iterator[tuple[AsyncPrimaryClient, Recorder]]:
    """A client and a recorder of a sidecar that is gone, of one that never responds, or with errors of their own."""
    target = silent if request.param == "silent" else unreachable
    client = AsyncPrimaryClient(target)
    if request.param == "broken":
        # A client that is not open raises UsageError.
        yield client, MemoryRecorder(RuntimeError("my order 4711"))
        return
    with PrimaryClient(target) as writer:
        recorder = TurnRecorder(writer, timeout=timedelta(seconds=60))
        yield client, recorder
        recorder.close(timedelta())


async def test_a_failing_sidecar_changes_nothing(
    exchange: Exchange,
    failing: tuple[AsyncPrimaryClient, Recorder],
    async_primary: AsyncPrimaryClient,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The conversation is the same as with a working sidecar without notes, and does not wait for the failing one."""
    working = MemoryRecorder()
    expected = await exchange(async_primary, working, session_id)
    assert ("user", QUESTION) in working.utterances
    client, recorder = failing
    if isinstance(recorder, MemoryRecorder):
        assert await exchange(client, recorder, session_id) == expected
    else:
        async with client:
            start = time.monotonic()
            assert await exchange(client, recorder, session_id) == expected
            # Claude Code alone may take 15 s to start on a busy machine. The recorder's timeout is 60 s.
            assert time.monotonic() - start < 40
    assert "4711" not in caplog.text
