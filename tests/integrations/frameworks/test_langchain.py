"""LangGraph and LangChain: the real packages, with a chat model that follows a script."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, PIIMiddleware, SummarizationMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt
from pydantic import BaseModel, Field
from session_notes import AsyncPrimaryClient, InvalidArgument, Notes, ObserverClient, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations.langchain import ObserverMiddleware
from session_notes.integrations.langgraph import ObserverNode, notes_tool

from tests.integrations.frameworks.conftest import Listener, promptly, said, wait_for_summary


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


SPOKEN = "Let me look that up."


class Steps(Scripted):
    """Answers with these messages, one after the other; an exception is raised."""

    answers: list[str] = Field(default_factory=list)
    steps: list[Any]

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.heard = list(messages)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        message = step if isinstance(step, AIMessage) else AIMessage(step)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self


def calling(name: str, said: str = "", number: int = 1, **arguments: Any) -> AIMessage:
    """A message of the model that calls a tool."""
    return AIMessage(said, tool_calls=[{"name": name, "args": arguments, "id": f"c{number}", "type": "tool_call"}])


@tool
def look_up() -> str:
    """Looks something up."""
    return "in store"


@tool(return_direct=True)
def answer_directly() -> str:
    """Answers."""
    return "in store"


MIDDLE: list[Any] = [("user", "Earlier"), ("assistant", "Yes?")]


@pytest.mark.parametrize(
    ("input", "words"),
    [
        ([*MIDDLE, ("user", "Hello")], ["Hello"]),
        ([("user", "Hello"), ("user", "Again")], ["Hello", "Again"]),
        (
            [*MIDDLE, ("user", "Hello"), ("system", "Be kind."), {"role": "user", "content": "Again"}],
            ["Hello", "Again"],
        ),
        ([("user", "Hello"), SystemMessage("Be kind.")], ["Hello"]),
        ([ChatMessage(content="Hello", role="user")], ["Hello"]),
        ([HumanMessage([{"type": "text", "text": "See "}, {"type": "image", "url": "x"}, "this"])], ["See this"]),
        ([HumanMessage([{"type": "image", "url": "x"}])], []),
        ([HumanMessage("A job is done.", additional_kwargs={"lc_source": "job"}), HumanMessage("Hello")], ["Hello"]),
    ],
)
async def test_the_words_of_a_run_whatever_its_input_holds(input: list[Any], words: list[str]) -> None:
    """All that the user has said since the last answer, and nothing else; by the middleware and the node alike."""
    expected = [*(("user", text) for text in words), ("primary", "Certainly.")]
    heard = Listener()
    agent = create_agent(Steps(steps=["Certainly."]), middleware=[ObserverMiddleware(heard)])
    agent.invoke({"messages": input}, on("session-1"))
    assert heard.turns == expected

    heard = Listener()
    graph = graph_with(Steps(steps=["Certainly."]), look_up, ObserverNode(heard))
    await graph.ainvoke({"messages": input}, on("session-1"))
    assert heard.turns == expected


async def test_what_the_model_says_before_a_tool_call() -> None:
    """It is recorded, in order; neither the call nor its result is, nor reasoning."""
    answer = AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Here."}])
    expected = [("user", "Hello"), ("primary", SPOKEN), ("primary", "Here.")]
    heard = Listener()
    model = Steps(steps=[calling("look_up", SPOKEN), answer])
    agent = create_agent(model, [look_up], middleware=[ObserverMiddleware(heard)])
    async for _ in agent.astream(hello(), on("session-1")):
        pass
    assert heard.turns == expected

    heard = Listener()
    model = Steps(steps=[calling("look_up", SPOKEN), answer])
    graph_with(model, look_up, ObserverNode(heard)).invoke(hello(), on("session-1"))
    assert heard.turns == expected


def test_a_tool_whose_result_is_the_answer() -> None:
    """With `return_direct` the user hears the tool's result."""
    expected = [("user", "Hello"), ("primary", SPOKEN), ("primary", "in store")]
    heard = Listener()
    model = Steps(steps=[calling("answer_directly", SPOKEN)])
    agent = create_agent(model, [answer_directly], middleware=[ObserverMiddleware(heard)])
    agent.invoke(hello(), on("session-1"))
    assert heard.turns == expected

    heard = Listener()
    graph = StateGraph(MessagesState)
    graph.add_node("agent", create_agent(Steps(steps=[calling("answer_directly", SPOKEN)]), [answer_directly]))
    graph.add_node("observe", ObserverNode(heard))
    graph.add_edge(START, "agent")
    graph.add_edge("agent", "observe")
    graph.compile().invoke(hello(), on("session-1"))
    assert heard.turns == expected


def test_a_summary_is_not_what_the_user_said() -> None:
    """Nor are the words lost that it replaces in the middle of a run, or what was said before a tool call."""
    heard = Listener()
    steps: list[Any] = [calling("look_up", f"{SPOKEN} {number}", number) for number in range(3)]
    summaries = Steps(steps=["Much was said."] * 9)
    summing_up = SummarizationMiddleware(summaries, trigger=("messages", 3), keep=("messages", 1))
    model = Steps(steps=[*steps, "Here.", "Bye."])
    middleware: Any = [summing_up, ObserverMiddleware(heard)]
    agent = create_agent(model, [look_up], middleware=middleware, checkpointer=InMemorySaver())
    agent.invoke(hello(), on("session-1"))
    result = agent.invoke(hello("Thanks"), on("session-1"))
    assert any(message.additional_kwargs.get("lc_source") for message in result["messages"])
    assert heard.turns == [
        ("user", "Hello"),
        *(("primary", f"{SPOKEN} {number}") for number in range(3)),
        ("primary", "Here."),
        ("user", "Thanks"),
        ("primary", "Bye."),
    ]
    assert "session_notes" not in str(result)


class Answer(BaseModel):
    """What the agent answers with."""

    text: str


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_a_structured_response(strategy: Any) -> None:
    """It is recorded as JSON, however the model gives it."""
    heard = Listener()
    step = calling("Answer", text="I see") if strategy is ToolStrategy else AIMessage('{"text":"I see"}')
    agent = create_agent(Steps(steps=[step]), middleware=[ObserverMiddleware(heard)], response_format=strategy(Answer))
    agent.invoke(hello(), on("session-1"))
    assert heard.turns == [("user", "Hello"), ("primary", '{"text":"I see"}')]


def test_an_agent_that_waited_for_an_approval() -> None:
    """It is recorded once, when it ends, also by another process, with what was said before the pause."""
    heard = Listener()
    memory = InMemorySaver()
    steps: list[Any] = [calling("look_up", SPOKEN), "Done."]

    def agent() -> Any:
        asking: Any = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
        middleware: Any = [asking, ObserverMiddleware(heard)]
        return create_agent(Steps(steps=steps), [look_up], middleware=middleware, checkpointer=memory)

    assert "__interrupt__" in agent().invoke(hello(), on("session-1"))
    del steps[:-1]
    agent().invoke(Command(resume={"decisions": [{"type": "approve"}]}), on("session-1"))
    assert heard.turns == [("user", "Hello"), ("primary", SPOKEN), ("primary", "Done.")]


def test_an_agent_that_was_never_resumed() -> None:
    """What was said before the pause comes with the next run."""
    heard = Listener()
    model = Steps(steps=[calling("look_up", SPOKEN), "Never mind."])
    asking: Any = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    agent: Any = create_agent(
        model, [look_up], middleware=[asking, ObserverMiddleware(heard)], checkpointer=InMemorySaver()
    )
    agent.invoke(hello(), on("session-1"))
    agent.invoke(hello("Leave it."), on("session-1"))
    assert heard.turns == [
        ("user", "Hello"),
        ("primary", SPOKEN),
        ("user", "Leave it."),
        ("primary", "Never mind."),
    ]


@pytest.mark.parametrize("kind", ["node", "middleware"])
def test_a_graph_that_is_resumed(kind: str) -> None:
    """Each message is recorded once, though the graph passes the agent again after the interrupt."""
    heard = Listener()
    model = Steps(steps=["Shall I?", "Done."])
    agent: Any = create_agent(model, middleware=[ObserverMiddleware(heard)] if kind == "middleware" else [])

    def ask(_: MessagesState) -> Any:
        return {"messages": [("user", "Yes.")]} if interrupt("ok?") == "yes" else {}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("observe", ObserverNode(heard) if kind == "node" else lambda state: None)
    graph.add_node("ask", ask)
    graph.add_edge(START, "agent")
    graph.add_edge("agent", "observe")
    graph.add_conditional_edges("observe", lambda state: END if state["messages"][-1].text == "Done." else "ask")
    graph.add_edge("ask", "agent")
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello("Refund it."), on("session-1"))
    run.invoke(Command(resume="yes"), on("session-1"))
    expected = [("user", "Refund it."), ("primary", "Shall I?"), ("user", "Yes."), ("primary", "Done.")]
    assert heard.turns == expected


def test_a_graph_whose_agent_speaks_again_after_an_interrupt() -> None:
    """The user's words stay recorded once."""
    heard = Listener()
    model = Steps(steps=["Shall I?", "Done."])
    graph = StateGraph(MessagesState)
    for name in ("agent", "agent2"):
        graph.add_node(name, lambda state: {"messages": [model.invoke(state["messages"])]})
    node = ObserverNode(heard)
    graph.add_node("observe", node)
    graph.add_node("observe2", node)
    graph.add_node("ask", lambda state: interrupt("ok?") and None)
    for edge in pairwise([START, "agent", "observe", "ask", "agent2", "observe2"]):
        graph.add_edge(*edge)
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello(), on("session-1"))
    run.invoke(Command(resume="yes"), on("session-1"))
    assert heard.turns == [("user", "Hello"), ("primary", "Shall I?"), ("primary", "Done.")]


def test_two_exchanges_between_two_looks() -> None:
    """Both exchanges since the last look are recorded, and none before them again by another node."""
    heard = Listener()
    model = Steps(steps=["Hi.", "Which order?", "Done.", "Bye."])
    graph = StateGraph(MessagesState)
    for name in ("agent", "agent2"):
        graph.add_node(name, lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("ask", lambda _: {"messages": [("user", interrupt("order?"))]})
    graph.add_node("observe", ObserverNode(heard))
    graph.add_node("observe2", ObserverNode(heard))
    graph.add_conditional_edges("agent", lambda state: "ask" if "?" in state["messages"][-1].text else "observe")
    for edge in [(START, "agent"), ("ask", "agent2"), ("agent2", "observe2")]:
        graph.add_edge(*edge)
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello(), on("session-1"))
    run.invoke(hello("Refund it."), on("session-1"))
    run.invoke(Command(resume="4711"), on("session-1"))
    run.invoke(hello("Thanks."), on("session-1"))
    first, question = [("user", "Hello"), ("primary", "Hi.")], [("user", "Refund it."), ("primary", "Which order?")]
    answer, last = [("user", "4711"), ("primary", "Done.")], [("user", "Thanks."), ("primary", "Bye.")]
    assert heard.turns == [*first, *question, *answer, *last]


def test_a_node_that_begins_anew_after_an_interrupt() -> None:
    """LangGraph runs it from its start: the agent in it speaks again, the user does not."""
    heard = Listener()
    model = Steps(steps=["Shall I?", "Shall I now?"])
    agent = create_agent(model, middleware=[ObserverMiddleware(heard)], checkpointer=False)

    def node(state: Any, config: RunnableConfig) -> Any:
        result = agent.invoke({"messages": state["messages"]}, config)
        interrupt("ok?")
        return {"messages": result["messages"]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    run = graph.compile(checkpointer=InMemorySaver())
    run.invoke(hello(), on("session-1"))
    run.invoke(Command(resume="yes"), on("session-1"))
    assert heard.turns == [("user", "Hello"), ("primary", "Shall I?"), ("primary", "Shall I now?")]


def test_a_run_that_failed_and_its_retry() -> None:
    """The failed one leaves nothing; the words are recorded with the run that answers them, once."""
    heard = Listener()
    model = Steps(steps=[RuntimeError(), "Here."])
    agent = create_agent(model, middleware=[ObserverMiddleware(heard)], checkpointer=InMemorySaver())
    with pytest.raises(RuntimeError):
        agent.invoke(hello(), on("session-1"))
    agent.invoke(None, on("session-1"))
    assert heard.turns == [("user", "Hello"), ("primary", "Here.")]


def test_what_other_middleware_takes_out_stays_out() -> None:
    """Personal data that is redacted in the messages is not recorded either."""
    heard = Listener()
    model = Steps(steps=["I write to a@example.com."])
    redacting: Any = PIIMiddleware("email", apply_to_output=True)
    agent: Any = create_agent(model, middleware=[ObserverMiddleware(heard), redacting])
    agent.invoke(hello("I am b@example.com"), on("session-1"))
    assert [speaker for speaker, _ in heard.turns] == ["user", "primary"]
    assert "example.com" not in str(heard.turns)


def no_session(_: Any) -> str:
    raise KeyError("my order 4711")


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda run: None, lambda run: ["unhashable"]])
async def test_a_hook_that_fails_leaves_the_run_alone(session_id: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a session that is not found, nor a broken recorder, nor a strange state reaches the run, nor the log."""
    broken = Listener(RuntimeError("my order 4711"))
    agent = create_agent(Steps(steps=["Certainly."] * 2), middleware=[ObserverMiddleware(broken, session_id)])
    assert agent.invoke(hello())["messages"][-1].text == "Certainly."
    assert (await agent.ainvoke(hello()))["messages"][-1].text == "Certainly."
    node = ObserverNode(broken, session_id)
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


def test_a_hook_without_a_thread_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on; the log says which setting is missing."""
    heard = Listener()
    agent = create_agent(Steps(steps=["Certainly."]), middleware=[ObserverMiddleware(heard)])
    assert agent.invoke(hello())["messages"][-1].text == "Certainly."
    assert heard.turns == []
    assert "the config has no thread_id" in caplog.text
