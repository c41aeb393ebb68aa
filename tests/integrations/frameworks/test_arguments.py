"""Clients, recorders and session ids of the wrong type are rejected when a tool or a hook is made."""

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
from session_notes import (
    AsyncPrimaryClient,
    AsyncTurnRecorder,
    BackgroundObserver,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    TurnRecorder,
)
from session_notes.integrations import (
    claude_agent_sdk,
    langchain,
    langgraph,
    livekit,
    openai_agents,
    pipecat,
    pydantic_ai,
)
from session_notes.integrations.mcp import notes_server
from session_notes.integrations.tools import AsyncNotesTool, NotesTool

from tests.integrations.frameworks.support import stored_utterances

TARGET = "127.0.0.1:1"
HOOKS: list[Callable[..., Any]] = [
    openai_agents.ObserverHooks,
    langgraph.ObserverNode,
    langchain.ObserverMiddleware,
    pydantic_ai.Observed,
    lambda recorder, session_id: openai_agents.ObservedSession(SQLiteSession("s1"), recorder, session_id),
    lambda recorder, session_id: claude_agent_sdk.ObservedStore(InMemorySessionStore(), recorder, session_id),
    lambda recorder, session_id: livekit.record_turns(AgentSession(), recorder, session_id),
    lambda recorder, session_id: pipecat.record_turns(LLMContextAggregatorPair(LLMContext()), recorder, session_id),
]


@pytest.mark.parametrize(
    ("make", "client", "error"),
    [
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
        (notes_server, PrimaryClient, "AsyncPrimaryClient"),
    ],
)
def test_wrong_client(make: Callable[[Any], Any], client: Callable[[str], Any], error: str) -> None:
    """The error names the accepted class and, for the other primary client, the right tool."""
    with pytest.raises(InvalidArgument, match=error):
        make(client(TARGET))
    with pytest.raises(InvalidArgument, match=r"not (NoneType|PrimaryClient|AsyncPrimaryClient|ObserverClient)$|; for"):
        make(None)


class CoroutineRecorder:
    """A recorder with a coroutine function, which no hook awaits."""

    async def record(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize("hook", HOOKS)
async def test_wrong_recorder(hook: Callable[..., Any]) -> None:
    """A hook rejects clients, observers, classes and coroutine functions, and session ids of the wrong type."""
    with PrimaryClient(TARGET) as primary, ObserverClient(TARGET) as client:
        with BackgroundObserver(lambda run: Notes(), client=client) as background:
            for wrong in (primary, AsyncPrimaryClient(TARGET), background, None, CoroutineRecorder(), TurnRecorder):
                with pytest.raises(InvalidArgument, match="TurnRecorder or AsyncTurnRecorder"):
                    hook(wrong, "s1")
        with TurnRecorder(primary) as recorder:
            hook(recorder, "s1")
            for session_id in (None, 7, CoroutineRecorder().record):
                with pytest.raises(InvalidArgument, match="session_id"):
                    hook(recorder, session_id)


async def test_async_recorder(async_primary: AsyncPrimaryClient, primary: PrimaryClient, session_id: str) -> None:
    """Hooks accept an `AsyncTurnRecorder` in the event loop in which it was opened."""
    agent: Agent[None, str] = Agent(TestModel(custom_output_text="Certainly."))
    async with AsyncTurnRecorder(async_primary) as recorder:
        await agent.run("Hello", capabilities=[pydantic_ai.Observed(recorder, session_id)])
    assert stored_utterances(primary, session_id) == [("user", "Hello"), ("primary", "Certainly.")]
