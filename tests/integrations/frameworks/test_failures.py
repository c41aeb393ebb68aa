"""A failing sidecar never breaks, slows or changes a conversation, in the frameworks of this environment."""

from pathlib import Path
from typing import Any

import pytest
from agent_framework import Agent as FrameworkAgent
from agents import Agent, RunConfig, Runner, SQLiteSession, set_tracing_disabled
from claude_agent_sdk import HookMatcher, InMemorySessionStore
from langchain.agents import create_agent
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient
from session_notes.integrations import (
    agent_framework,
    claude_agent_sdk,
    langchain,
    langgraph,
    openai_agents,
    pydantic_ai,
    strands,
)
from session_notes.integrations._recording import Recorder
from strands import Agent as StrandsAgent

from tests.integrations.frameworks import agent_framework_models, langchain_models, openai_agents_models, strands_models
from tests.integrations.frameworks.claude_models import ScriptedClaude, ask
from tests.integrations.frameworks.failures import Exchange, test_a_failing_sidecar_changes_nothing
from tests.integrations.frameworks.support import QUESTION
from tests.integrations.frameworks.voice_exchanges import livekit_turn, pipecat_turn
from tests.integrations.model_provider import running

__all__ = ["test_a_failing_sidecar_changes_nothing"]

set_tracing_disabled(True)


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


async def run_strands(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run an agent with hooks and notes in its input."""
    model = strands_models.ScriptedModel("Certainly.")
    hooks, notes = strands.ObserverHooks(recorder, session_id), strands.notes_injector(primary, session_id)
    agent = StrandsAgent(model, hooks=[hooks], plugins=[notes], callback_handler=None)
    return str(await agent.invoke_async(QUESTION)), model.texts


async def run_agent_framework(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run an agent of Microsoft Agent Framework with both context providers."""
    client = agent_framework_models.ScriptedClient("Certainly.")
    notes = agent_framework.NotesProvider(primary, session_id)
    observer = agent_framework.ObserverProvider(recorder, session_id)
    return (await FrameworkAgent(client, context_providers=[notes, observer]).run(QUESTION)).text, client.texts


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
        run_strands,
        run_agent_framework,
        livekit_turn,
        pipecat_turn,
        "run_claude",
    ]
)
def exchange(request: pytest.FixtureRequest) -> Any:
    """The exchange of each integration."""
    return request.getfixturevalue(request.param) if isinstance(request.param, str) else request.param
