"""LangGraph and LangChain: the real packages, with a chat model that follows a script."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import Field
from session_notes import AsyncPrimaryClient, InvalidArgument, Notes, ObserverClient, PrimaryClient, Turn
from session_notes.integrations.langchain import ObserverMiddleware
from session_notes.integrations.langgraph import ObserverNode, notes_tool
from session_notes.integrations.recorder import TurnRecorder

from tests.integrations.frameworks.conftest import promptly, said, wait_for_summary


class Scripted(BaseChatModel):
    """Calls the tool first if told to, and then says what is in its script."""

    answers: list[str]
    reads: bool = False
    heard: list[BaseMessage] = Field(default_factory=list)
    offered: list[dict[str, Any]] = Field(default_factory=list)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.heard = list(messages)
        if self.reads:
            self.reads = False
            call = {"name": "get_session_notes", "args": {"session_id": "other"}, "id": "1", "type": "tool_call"}
            message = AIMessage("", tool_calls=[call])
        else:
            message = AIMessage(self.answers.pop(0))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Takes note of what it is offered."""
        self.offered = [tool.tool_call_schema.model_json_schema() for tool in tools]
        return self

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def told(self) -> Any:
        """What the tool answered to the model."""
        return next(message.content for message in self.heard if isinstance(message, ToolMessage))


def on(session_id: str) -> RunnableConfig:
    """The config of a graph's thread."""
    return {"configurable": {"thread_id": session_id}}


def hello(text: str = "Hello") -> Any:
    """What the user says."""
    return {"messages": [("user", text)]}


@pytest.fixture
def noted(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> str:
    """A session that has notes."""
    primary.append_turns(session_id, [Turn("user", "x")])
    with observer.run(session_id) as run:
        run.write(Notes(summary="Wants a refund."))
    return session_id


def test_the_model_reads_the_notes_of_the_thread(primary: PrimaryClient, noted: str) -> None:
    """The session is the thread, whatever the model asks for; its notes reach the model."""
    model = Scripted(answers=["Certainly."], reads=True)
    agent = create_agent(model, [notes_tool(primary, max_age=timedelta(minutes=5), max_turns_behind=1)])
    result = agent.invoke(hello(), on(noted))
    assert result["messages"][-1].text == "Certainly."
    assert '"summary": "Wants a refund."' in model.told
    assert '"fresh": true' in model.told
    assert model.offered[0]["properties"] == {}


async def test_the_same_in_a_loop(primary: PrimaryClient, async_primary: AsyncPrimaryClient, noted: str) -> None:
    """Both clients serve an agent in a loop; the application may name the session in its own way."""
    for client in (primary, async_primary):
        model = Scripted(answers=["Certainly."], reads=True)
        agent = create_agent(model, [notes_tool(client, lambda config: config["metadata"]["caller"])])
        await agent.ainvoke(hello(), {"metadata": {"caller": noted}})
        assert '"summary": "Wants a refund."' in model.told


async def test_an_outage_is_an_answer(nobody: str) -> None:
    """The model hears that there are no notes to be had, and the graph goes on."""
    told = '{"ready": false, "reason": "unavailable"}'
    with PrimaryClient(nobody) as gone:
        model = Scripted(answers=["Certainly."], reads=True)
        result = create_agent(model, [notes_tool(gone, "session-1")]).invoke(hello())
        assert (result["messages"][-1].text, model.told) == ("Certainly.", told)
    async with AsyncPrimaryClient(nobody) as gone_too:
        model = Scripted(answers=["Certainly."], reads=True)
        await create_agent(model, [notes_tool(gone_too, "session-1")]).ainvoke(hello())
        assert model.told == told


def test_a_graph_without_a_thread_is_told(primary: PrimaryClient) -> None:
    """Nobody's notes are read by accident."""
    with pytest.raises(InvalidArgument, match="thread_id"):
        notes_tool(primary).invoke({})


def graph_with(model: BaseChatModel, tool: Any, node: Callable[..., Any]) -> Any:
    """A graph as one draws it by hand: model, tools, and the observer's node at the end."""
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([tool]))
    graph.add_node("observe", node)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: "observe"})
    graph.add_edge("tools", "model")
    graph.add_edge("observe", END)
    return graph.compile(checkpointer=InMemorySaver())


async def test_a_node_has_an_observer_look(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Each exchange is in the transcript once, without tools, though the state has them all; then there are notes."""
    model = Scripted(answers=["What did you order?", "Thank you."], reads=True)
    graph = graph_with(model, notes_tool(primary), ObserverNode(recorder))
    graph.invoke(hello("I want my money back."), on(session_id))
    wait_for_summary(primary, session_id, "2 turns")
    assert model.told == '{"ready": false, "reason": "never_run"}'
    await graph.ainvoke(hello("A lamp."), on(session_id))
    wait_for_summary(primary, session_id, "4 turns")
    assert said(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "What did you order?"),
        ("user", "A lamp."),
        ("primary", "Thank you."),
    ]


async def test_middleware_has_an_observer_look(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """The same for LangChain's agents."""
    model = Scripted(answers=["What did you order?", "Thank you."])
    agent = create_agent(model, middleware=[ObserverMiddleware(recorder)], checkpointer=InMemorySaver())
    agent.invoke(hello("I want my money back."), on(session_id))
    await agent.ainvoke(hello("A lamp."), on(session_id))
    wait_for_summary(primary, session_id, "4 turns")
    assert said(primary, session_id)[2:] == [("user", "A lamp."), ("primary", "Thank you.")]


def test_an_outage_holds_up_no_graph(hung: TurnRecorder, session_id: str) -> None:
    """A sidecar that says nothing costs the graph nothing."""
    agent = create_agent(Scripted(answers=["Certainly."]), middleware=[ObserverMiddleware(hung, session_id)])
    with promptly():
        assert agent.invoke(hello())["messages"][-1].text == "Certainly."
