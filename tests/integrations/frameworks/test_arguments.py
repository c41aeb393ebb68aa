"""The arguments of tools and hooks of the frameworks in this environment."""

from collections.abc import Callable
from typing import Any

import pytest
from agents import SQLiteSession
from claude_agent_sdk import InMemorySessionStore
from livekit.agents import AgentSession
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, AsyncTurnRecorder, InvalidArgument, ObserverClient, PrimaryClient
from session_notes.integrations import (
    agent_framework,
    claude_agent_sdk,
    langchain,
    langgraph,
    livekit,
    openai_agents,
    pipecat,
    pydantic_ai,
    strands,
)
from session_notes.integrations._feeds import Feeds
from session_notes.integrations.mcp import notes_server
from session_notes.integrations.tools import AsyncNotesTool, NotesTool

from tests.integrations.frameworks.arguments import Reader, test_wrong_client, test_wrong_recorder
from tests.integrations.frameworks.support import stored_utterances

__all__ = ["test_wrong_client", "test_wrong_recorder"]

HOOKS: list[Callable[..., Any]] = [
    openai_agents.ObserverHooks,
    langgraph.ObserverNode,
    langchain.ObserverMiddleware,
    pydantic_ai.Observed,
    strands.ObserverHooks,
    agent_framework.ObserverProvider,
    lambda recorder, session_id: openai_agents.ObservedSession(SQLiteSession("s1"), recorder, session_id),
    lambda recorder, session_id: claude_agent_sdk.ObservedStore(InMemorySessionStore(), recorder, session_id),
    lambda recorder, session_id: livekit.record_turns(AgentSession(), recorder, session_id),
    lambda recorder, session_id: pipecat.record_turns(LLMContextAggregatorPair(LLMContext()), recorder, session_id),
]


READERS: list[Reader] = [
    (lambda client: NotesTool(client, "s1"), AsyncPrimaryClient, "PrimaryClient.*use AsyncNotesTool"),
    (lambda client: AsyncNotesTool(client, "s1"), PrimaryClient, "AsyncPrimaryClient.*use NotesTool"),
    (lambda client: NotesTool(client, "s1"), ObserverClient, "PrimaryClient, not ObserverClient"),
    (lambda client: openai_agents.notes_tool(client, "s1"), PrimaryClient, "AsyncPrimaryClient"),
    (lambda client: pydantic_ai.notes_tool(client, "s1"), PrimaryClient, "AsyncPrimaryClient"),
    (lambda client: openai_agents.notes_filter(client, "s1"), PrimaryClient, "AsyncPrimaryClient"),
    (claude_agent_sdk.notes_hook, PrimaryClient, "AsyncPrimaryClient"),
    (lambda client: livekit.notes_tool(client, "s1"), PrimaryClient, "AsyncPrimaryClient"),
    (lambda client: livekit.TurnNotes(client, "s1"), PrimaryClient, "AsyncPrimaryClient"),
    (lambda client: pipecat.notes_tool(client, "s1"), PrimaryClient, "AsyncPrimaryClient"),
    (lambda client: pipecat.NotesProcessor(client, "s1"), PrimaryClient, "AsyncPrimaryClient"),
    (langgraph.notes_tool, ObserverClient, "PrimaryClient or AsyncPrimaryClient"),
    (lambda client: strands.notes_tool(client, "s1"), ObserverClient, "PrimaryClient or AsyncPrimaryClient"),
    (lambda client: strands.notes_injector(client, "s1"), ObserverClient, "PrimaryClient or AsyncPrimaryClient"),
    (agent_framework.notes_tool, PrimaryClient, "AsyncPrimaryClient"),
    (agent_framework.NotesProvider, PrimaryClient, "AsyncPrimaryClient"),
    (notes_server, PrimaryClient, "AsyncPrimaryClient"),
]


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Any:
    """Each integration that reads notes, with a client that it rejects."""
    return request.param


@pytest.fixture(params=HOOKS)
def hook(request: pytest.FixtureRequest) -> Any:
    """The hook of each integration."""
    return request.param


@pytest.mark.parametrize("make", [NotesTool, strands.notes_tool, strands.notes_injector])
@pytest.mark.parametrize("options", [{"observers": "coach"}, {"observers": []}, {"max_age": 30}, {"min_severity": "x"}])
def test_options_of_the_wrong_type(primary: PrimaryClient, make: Callable[..., Any], options: dict[str, Any]) -> None:
    """They are rejected when a tool or a prompt's notes are made, not in each run."""
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        make(primary, "s1", **options)


async def test_invalid_argument_in_the_log(async_primary: AsyncPrimaryClient, caplog: pytest.LogCaptureFixture) -> None:
    """The log names an argument that the sidecar rejects, without its value."""
    assert await Feeds(async_primary, lambda _: "order 4711", {}).text() == ""
    assert "no notes for the prompt: InvalidArgument: requests[0].session_id" in caplog.text
    assert "4711" not in caplog.text


async def test_async_recorder(async_primary: AsyncPrimaryClient, primary: PrimaryClient, session_id: str) -> None:
    """Hooks accept an `AsyncTurnRecorder` in the event loop in which it was opened."""
    agent: Agent[None, str] = Agent(TestModel(custom_output_text="Certainly."))
    async with AsyncTurnRecorder(async_primary) as recorder:
        await agent.run("Hello", capabilities=[pydantic_ai.Observed(recorder, session_id)])
    assert stored_utterances(primary, session_id) == [("user", "Hello"), ("primary", "Certainly.")]
