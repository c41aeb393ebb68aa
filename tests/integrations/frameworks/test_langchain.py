"""The integrations with LangGraph and LangChain, with the real packages and a scripted chat model."""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, PIIMiddleware, SummarizationMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from session_notes import AsyncPrimaryClient, InvalidArgument, PrimaryClient, TurnRecorder
from session_notes.integrations.langchain import ObserverMiddleware
from session_notes.integrations.langgraph import ObserverNode, notes_tool

from tests.integrations.frameworks.langchain_models import ScriptedModel, read_notes, tool_call
from tests.integrations.frameworks.support import (
    MemoryRecorder,
    no_session,
    promptly,
    stored_utterances,
    wait_for_summary,
)

PREFACE = "Let me look that up."


def thread(session_id: str) -> RunnableConfig:
    """Return the config of a graph's thread."""
    return {"configurable": {"thread_id": session_id}}


def hello(text: str = "Hello") -> Any:
    """Return an input with one message of the user."""
    return {"messages": [("user", text)]}


def test_tool_reads_the_notes_of_the_thread(primary: PrimaryClient, noted_session: str) -> None:
    """The model gets the notes of the thread's session, whatever arguments it sends."""
    model = ScriptedModel(steps=[read_notes(), "Certainly."])
    agent = create_agent(model, [notes_tool(primary, max_age=timedelta(minutes=5), max_turns_behind=1)])
    result = agent.invoke(hello(), thread(noted_session))
    assert result["messages"][-1].text == "Certainly."
    assert '"summary": "Wants a refund."' in model.tool_result
    assert '"fresh": true' in model.tool_result
    assert model.offered[0].tool_call_schema.model_json_schema()["properties"] == {}


async def test_tool_in_an_event_loop(
    primary: PrimaryClient, async_primary: AsyncPrimaryClient, noted_session: str
) -> None:
    """Both clients work in an event loop, and the application can choose the session with its own function."""
    for client in (primary, async_primary):
        model = ScriptedModel(steps=[read_notes(), "Certainly."])
        agent = create_agent(model, [notes_tool(client, lambda config: config["metadata"]["caller"])])
        await agent.ainvoke(hello(), {"metadata": {"caller": noted_session}})
        assert '"summary": "Wants a refund."' in model.tool_result


async def test_outage_is_a_tool_result(unreachable: str) -> None:
    """The model gets `unavailable`, and the graph continues."""
    unavailable = '{"ready": false, "reason": "unavailable"}'
    with PrimaryClient(unreachable) as client:
        model = ScriptedModel(steps=[read_notes(), "Certainly."])
        result = create_agent(model, [notes_tool(client, "session-1")]).invoke(hello())
        assert (result["messages"][-1].text, model.tool_result) == ("Certainly.", unavailable)
    async with AsyncPrimaryClient(unreachable) as async_client:
        model = ScriptedModel(steps=[read_notes(), "Certainly."])
        await create_agent(model, [notes_tool(async_client, "session-1")]).ainvoke(hello())
        assert model.tool_result == unavailable


def test_tool_without_a_thread(primary: PrimaryClient) -> None:
    """Without a thread, the tool raises an error instead of reading a session."""
    with pytest.raises(InvalidArgument, match="thread_id"):
        notes_tool(primary).invoke({})


def graph_with(model: BaseChatModel, tool: Any, node: Callable[..., Any]) -> Any:
    """Return a graph of a model and tools, with the observer's node at the end."""
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([tool]))
    graph.add_node("observe", node)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: "observe"})
    graph.add_edge("tools", "model")
    graph.add_edge("observe", END)
    return graph.compile(checkpointer=InMemorySaver())


async def test_node_records_and_submits(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Each exchange is in the transcript once, without tool messages, and the observer writes notes on it."""
    model = ScriptedModel(steps=[read_notes(), "What did you order?", "Thank you."])
    graph = graph_with(model, notes_tool(primary), ObserverNode(recorder))
    graph.invoke(hello("I want my money back."), thread(session_id))
    wait_for_summary(primary, session_id, "2 turns")
    assert model.tool_result == '{"ready": false, "reason": "never_run"}'
    await graph.ainvoke(hello("A lamp."), thread(session_id))
    wait_for_summary(primary, session_id, "4 turns")
    assert stored_utterances(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "What did you order?"),
        ("user", "A lamp."),
        ("primary", "Thank you."),
    ]


async def test_middleware_records_and_submits(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """The middleware records each exchange, and the observer writes notes on it."""
    model = ScriptedModel(steps=["What did you order?", "Thank you."])
    agent = create_agent(model, middleware=[ObserverMiddleware(recorder)], checkpointer=InMemorySaver())
    agent.invoke(hello("I want my money back."), thread(session_id))
    await agent.ainvoke(hello("A lamp."), thread(session_id))
    wait_for_summary(primary, session_id, "4 turns")
    assert stored_utterances(primary, session_id)[2:] == [("user", "A lamp."), ("primary", "Thank you.")]


def test_outage_does_not_delay_the_graph(hanging_recorder: TurnRecorder, session_id: str) -> None:
    """The graph does not wait for a sidecar that hangs."""
    agent = create_agent(
        ScriptedModel(steps=["Certainly."]), middleware=[ObserverMiddleware(hanging_recorder, session_id)]
    )
    with promptly():
        assert agent.invoke(hello())["messages"][-1].text == "Certainly."


@tool
def look_up() -> str:
    """Look something up."""
    return "in store"


@tool(return_direct=True)
def answer_directly() -> str:
    """Answer."""
    return "in store"


EARLIER: list[Any] = [("user", "Earlier"), ("assistant", "Yes?")]


@pytest.mark.parametrize(
    ("input", "texts"),
    [
        ([*EARLIER, ("user", "Hello")], ["Hello"]),
        ([("user", "Hello"), ("user", "Again")], ["Hello", "Again"]),
        (
            [*EARLIER, ("user", "Hello"), ("system", "Be kind."), {"role": "user", "content": "Again"}],
            ["Hello", "Again"],
        ),
        ([("user", "Hello"), SystemMessage("Be kind.")], ["Hello"]),
        ([ChatMessage(content="Hello", role="user")], ["Hello"]),
        ([HumanMessage([{"type": "text", "text": "See "}, {"type": "image", "url": "x"}, "this"])], ["See this"]),
        ([HumanMessage([{"type": "image", "url": "x"}])], []),
        ([HumanMessage("A job is done.", additional_kwargs={"lc_source": "job"}), HumanMessage("Hello")], ["Hello"]),
    ],
)
async def test_user_turns_of_any_input(input: list[Any], texts: list[str]) -> None:
    """The middleware and the node record all messages of the user since the last answer, and nothing else."""
    expected = [*(("user", text) for text in texts), ("primary", "Certainly.")]
    recorder = MemoryRecorder()
    agent = create_agent(ScriptedModel(steps=["Certainly."]), middleware=[ObserverMiddleware(recorder)])
    agent.invoke({"messages": input}, thread("session-1"))
    assert recorder.utterances == expected

    recorder = MemoryRecorder()
    graph = graph_with(ScriptedModel(steps=["Certainly."]), look_up, ObserverNode(recorder))
    await graph.ainvoke({"messages": input}, thread("session-1"))
    assert recorder.utterances == expected


async def test_text_before_a_tool_call() -> None:
    """The text is recorded in order, without the call, its result and reasoning."""
    answer = AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Here."}])
    expected = [("user", "Hello"), ("primary", PREFACE), ("primary", "Here.")]
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=[tool_call("look_up", PREFACE), answer])
    agent = create_agent(model, [look_up], middleware=[ObserverMiddleware(recorder)])
    async for _ in agent.astream(hello(), thread("session-1")):
        pass
    assert recorder.utterances == expected

    recorder = MemoryRecorder()
    model = ScriptedModel(steps=[tool_call("look_up", PREFACE), answer])
    graph_with(model, look_up, ObserverNode(recorder)).invoke(hello(), thread("session-1"))
    assert recorder.utterances == expected


def test_tool_result_as_the_answer() -> None:
    """The result of a tool with `return_direct` is recorded as the answer."""
    expected = [("user", "Hello"), ("primary", PREFACE), ("primary", "in store")]
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=[tool_call("answer_directly", PREFACE)])
    agent = create_agent(model, [answer_directly], middleware=[ObserverMiddleware(recorder)])
    agent.invoke(hello(), thread("session-1"))
    assert recorder.utterances == expected

    recorder = MemoryRecorder()
    graph = StateGraph(MessagesState)
    graph.add_node(
        "agent", create_agent(ScriptedModel(steps=[tool_call("answer_directly", PREFACE)]), [answer_directly])
    )
    graph.add_node("observe", ObserverNode(recorder))
    graph.add_edge(START, "agent")
    graph.add_edge("agent", "observe")
    graph.compile().invoke(hello(), thread("session-1"))
    assert recorder.utterances == expected


def test_summary_is_not_recorded() -> None:
    """A summary is not a turn, and the turns that it replaces during a run are still recorded."""
    recorder = MemoryRecorder()
    steps: list[Any] = [tool_call("look_up", f"{PREFACE} {number}", number) for number in range(3)]
    summaries = ScriptedModel(steps=["A summary."] * 9)
    summarization = SummarizationMiddleware(summaries, trigger=("messages", 3), keep=("messages", 1))
    model = ScriptedModel(steps=[*steps, "Here.", "Bye."])
    middleware: Any = [summarization, ObserverMiddleware(recorder)]
    agent = create_agent(model, [look_up], middleware=middleware, checkpointer=InMemorySaver())
    agent.invoke(hello(), thread("session-1"))
    result = agent.invoke(hello("Thanks"), thread("session-1"))
    assert any(message.additional_kwargs.get("lc_source") for message in result["messages"])
    assert recorder.utterances == [
        ("user", "Hello"),
        *(("primary", f"{PREFACE} {number}") for number in range(3)),
        ("primary", "Here."),
        ("user", "Thanks"),
        ("primary", "Bye."),
    ]
    assert "session_notes" not in str(result)


class Answer(BaseModel):
    """A structured answer."""

    text: str


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_structured_response(strategy: Any) -> None:
    """A structured response is recorded as JSON with either strategy."""
    recorder = MemoryRecorder()
    step = tool_call("Answer", text="I see") if strategy is ToolStrategy else AIMessage('{"text":"I see"}')
    agent = create_agent(
        ScriptedModel(steps=[step]), middleware=[ObserverMiddleware(recorder)], response_format=strategy(Answer)
    )
    agent.invoke(hello(), thread("session-1"))
    assert recorder.utterances == [("user", "Hello"), ("primary", '{"text":"I see"}')]


def test_run_with_an_approval() -> None:
    """The run is recorded once, at its end, with the text from before the pause, even if another process resumes it."""
    recorder = MemoryRecorder()
    memory = InMemorySaver()
    steps: list[Any] = [tool_call("look_up", PREFACE), "Done."]

    def agent() -> Any:
        approval: Any = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
        middleware: Any = [approval, ObserverMiddleware(recorder)]
        return create_agent(ScriptedModel(steps=steps), [look_up], middleware=middleware, checkpointer=memory)

    assert "__interrupt__" in agent().invoke(hello(), thread("session-1"))
    del steps[:-1]
    agent().invoke(Command(resume={"decisions": [{"type": "approve"}]}), thread("session-1"))
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE), ("primary", "Done.")]


def test_interrupted_run_that_is_not_resumed() -> None:
    """The turns of the interrupted run are recorded with the next run."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=[tool_call("look_up", PREFACE), "Never mind."])
    approval: Any = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    agent: Any = create_agent(
        model, [look_up], middleware=[approval, ObserverMiddleware(recorder)], checkpointer=InMemorySaver()
    )
    agent.invoke(hello(), thread("session-1"))
    agent.invoke(hello("Leave it."), thread("session-1"))
    assert recorder.utterances == [
        ("user", "Hello"),
        ("primary", PREFACE),
        ("user", "Leave it."),
        ("primary", "Never mind."),
    ]


@pytest.mark.parametrize("answer", [tool_call("look_up", PREFACE), PREFACE])
def test_stream_that_is_not_read_to_its_end(answer: Any) -> None:
    """The last message that the caller read is recorded with the next run: the agent's thread has it too."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=[answer, "Done."])
    agent: Any = create_agent(model, [look_up], middleware=[ObserverMiddleware(recorder)], checkpointer=InMemorySaver())
    for update in agent.stream(hello(), thread("session-1"), stream_mode="updates"):
        if "model" in update:
            break
    agent.invoke(hello("Thanks."), thread("session-1"))
    assert recorder.utterances == [
        ("user", "Hello"),
        ("primary", PREFACE),
        ("user", "Thanks."),
        ("primary", "Done."),
    ]


@pytest.mark.parametrize("kind", ["node", "middleware"])
def test_resumed_graph(kind: str) -> None:
    """Each message is recorded once, although the agent runs again after the interrupt."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=["Shall I?", "Done."])
    agent: Any = create_agent(model, middleware=[ObserverMiddleware(recorder)] if kind == "middleware" else [])

    def ask(_: MessagesState) -> Any:
        return {"messages": [("user", "Yes.")]} if interrupt("ok?") == "yes" else {}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("observe", ObserverNode(recorder) if kind == "node" else lambda state: None)
    graph.add_node("ask", ask)
    graph.add_edge(START, "agent")
    graph.add_edge("agent", "observe")
    graph.add_conditional_edges("observe", lambda state: END if state["messages"][-1].text == "Done." else "ask")
    graph.add_edge("ask", "agent")
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello("Refund it."), thread("session-1"))
    run.invoke(Command(resume="yes"), thread("session-1"))
    expected = [("user", "Refund it."), ("primary", "Shall I?"), ("user", "Yes."), ("primary", "Done.")]
    assert recorder.utterances == expected


def test_second_answer_after_an_interrupt() -> None:
    """The second answer to the same message of the user is recorded without that message."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=["Shall I?", "Done."])
    graph = StateGraph(MessagesState)
    for name in ("agent", "agent2"):
        graph.add_node(name, lambda state: {"messages": [model.invoke(state["messages"])]})
    node = ObserverNode(recorder)
    graph.add_node("observe", node)
    graph.add_node("observe2", node)
    graph.add_node("ask", lambda state: interrupt("ok?") and None)
    for edge in pairwise([START, "agent", "observe", "ask", "agent2", "observe2"]):
        graph.add_edge(*edge)
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello(), thread("session-1"))
    run.invoke(Command(resume="yes"), thread("session-1"))
    assert recorder.utterances == [("user", "Hello"), ("primary", "Shall I?"), ("primary", "Done.")]


def test_two_exchanges_since_the_last_recording() -> None:
    """Another node of the same recorder records both new exchanges and none of the earlier ones."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=["Hi.", "Which order?", "Done.", "Bye."])
    graph = StateGraph(MessagesState)
    for name in ("agent", "agent2"):
        graph.add_node(name, lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("ask", lambda _: {"messages": [("user", interrupt("order?"))]})
    graph.add_node("observe", ObserverNode(recorder))
    graph.add_node("observe2", ObserverNode(recorder))
    graph.add_conditional_edges("agent", lambda state: "ask" if "?" in state["messages"][-1].text else "observe")
    for edge in [(START, "agent"), ("ask", "agent2"), ("agent2", "observe2")]:
        graph.add_edge(*edge)
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello(), thread("session-1"))
    run.invoke(hello("Refund it."), thread("session-1"))
    run.invoke(Command(resume="4711"), thread("session-1"))
    run.invoke(hello("Thanks."), thread("session-1"))
    first, question = [("user", "Hello"), ("primary", "Hi.")], [("user", "Refund it."), ("primary", "Which order?")]
    answer, last = [("user", "4711"), ("primary", "Done.")], [("user", "Thanks."), ("primary", "Bye.")]
    assert recorder.utterances == [*first, *question, *answer, *last]


def test_node_that_restarts_after_an_interrupt() -> None:
    """LangGraph reruns the node from its start. The new answer is recorded; the user's message is not repeated."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=["Shall I?", "Shall I now?"])
    agent = create_agent(model, middleware=[ObserverMiddleware(recorder)], checkpointer=False)

    def node(state: Any, config: RunnableConfig) -> Any:
        result = agent.invoke({"messages": state["messages"]}, config)
        interrupt("ok?")
        return {"messages": result["messages"]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello(), thread("session-1"))
    run.invoke(Command(resume="yes"), thread("session-1"))
    assert recorder.utterances == [("user", "Hello"), ("primary", "Shall I?"), ("primary", "Shall I now?")]


def test_retry_of_a_failed_run() -> None:
    """A failed run records nothing; the retry records the user's message once, with the answer."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=[RuntimeError(), "Here."])
    agent = create_agent(model, middleware=[ObserverMiddleware(recorder)], checkpointer=InMemorySaver())
    with pytest.raises(RuntimeError):
        agent.invoke(hello(), thread("session-1"))
    agent.invoke(None, thread("session-1"))
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here.")]


def test_redacted_messages() -> None:
    """Messages that other middleware redacts are recorded in redacted form."""
    recorder = MemoryRecorder()
    model = ScriptedModel(steps=["I write to a@example.com."])
    redaction: Any = PIIMiddleware("email", apply_to_output=True)
    agent: Any = create_agent(model, middleware=[ObserverMiddleware(recorder), redaction])
    agent.invoke(hello("I am b@example.com"), thread("session-1"))
    assert [speaker for speaker, _ in recorder.utterances] == ["user", "primary"]
    assert "example.com" not in str(recorder.utterances)


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda run: None, lambda run: ["unhashable"]])
async def test_hook_errors_do_not_reach_the_run(session_id: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The run survives an unknown session, a failing recorder and an invalid state; the log has no user data."""
    recorder = MemoryRecorder(RuntimeError("my order 4711"))
    agent = create_agent(ScriptedModel(steps=["Certainly."] * 2), middleware=[ObserverMiddleware(recorder, session_id)])
    assert agent.invoke(hello())["messages"][-1].text == "Certainly."
    assert (await agent.ainvoke(hello()))["messages"][-1].text == "Certainly."
    node = ObserverNode(recorder, session_id)
    for state in (
        None,
        {},
        {"messages": None},
        {"messages": [None, 7, object(), ("who", "x")]},
        object(),
        [("user", "x")],
    ):
        node.invoke(state)
        await node.ainvoke(state)
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)


def test_hook_without_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    """The run continues, and the log names the missing setting."""
    recorder = MemoryRecorder()
    agent = create_agent(ScriptedModel(steps=["Certainly."]), middleware=[ObserverMiddleware(recorder)])
    assert agent.invoke(hello())["messages"][-1].text == "Certainly."
    assert recorder.utterances == []
    assert "the config has no thread_id" in caplog.text
