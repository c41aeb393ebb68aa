"""For LangGraph: a tool that reads the notes, and a node that has an observer look after each turn.

    >>> graph = StateGraph(MessagesState)
    >>> graph.add_node("agent", create_agent(model, [notes_tool(primary, max_turns_behind=2)]))
    >>> graph.add_node("observe", ObserverNode(recorder))
    >>> graph.add_edge(START, "agent")
    >>> graph.add_edge("agent", "observe")
    >>> graph.compile().invoke({"messages": [("user", "...")]}, {"configurable": {"thread_id": "session-1"}})

The session is the graph's thread, unless told otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, InvalidArgument, PrimaryClient, Turn
from session_notes.integrations._binding import NotesOptions, session_of
from session_notes.integrations.recorder import TurnRecorder
from session_notes.integrations.tools import DESCRIPTION, NAME, AsyncNotesTool, NotesTool

try:
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import StructuredTool
except ImportError as error:
    raise ImportError("this needs langgraph: pip install '.[langgraph]' in its checkout") from error

SessionId = str | Callable[[RunnableConfig], str]
"""A session's id, or a function that finds it in the run's config."""


def thread_id(config: RunnableConfig) -> str:
    """The thread of the graph, as the session's id.

    Raises:
        InvalidArgument: The graph runs without one.
    """
    thread = config.get("configurable", {}).get("thread_id")
    if thread is None:
        raise InvalidArgument("the config has no thread_id to name the session; give one, or a session_id")
    return str(thread)


def notes_tool(
    client: PrimaryClient | AsyncPrimaryClient, session_id: SessionId = thread_id, **options: Unpack[NotesOptions]
) -> StructuredTool:
    """A tool for an agent or a `ToolNode` that reads the notes on the session. The model cannot choose another.

    It answers as `NotesTool` does: an outage is `{"ready": False, "reason": "unavailable"}`.

    Args:
        client: What to read with. A `PrimaryClient` serves `invoke`, and `ainvoke` in a thread; an `AsyncPrimaryClient`
            serves `ainvoke` in the loop it was opened in, and nothing else.
        session_id: The session, or a function that finds it in the run's config.
        **options: As for `NotesTool`: `observer`, `max_age`, `max_turns_behind`, `name`, `description`.
    """
    name, description = options.get("name", NAME), options.get("description", DESCRIPTION)
    if isinstance(client, PrimaryClient):

        def read(config: RunnableConfig) -> dict[str, Any]:
            return NotesTool(client, session_of(session_id, config), **options).call()

        return StructuredTool.from_function(read, name=name, description=description)

    async def read_async(config: RunnableConfig) -> dict[str, Any]:
        return await AsyncNotesTool(client, session_of(session_id, config), **options).call()

    return StructuredTool.from_function(coroutine=read_async, name=name, description=description)


class ObserverNode:
    """A node for the end of a graph: takes down the last exchange in `messages`, and has an observer look at it.

    It holds up no graph, changes nothing, and an outage raises nothing.

    Args:
        recorder: Takes down, and submits.
        session_id: The session, or a function that finds it in the run's config.
    """

    def __init__(self, recorder: TurnRecorder, session_id: SessionId = thread_id) -> None:
        self._recorder = recorder
        self._session_id = session_id

    def __call__(self, state: Mapping[str, Any], config: RunnableConfig) -> None:
        """Called by LangGraph, with the state after the agent."""
        self._recorder.record(session_of(self._session_id, config), *last_exchange(state["messages"]))


def last_exchange(messages: Sequence[BaseMessage]) -> Iterator[Turn]:
    """The user's last message and the answer to it, as turns: without tools, and without what has no text."""
    for number in reversed(range(len(messages))):
        if isinstance(messages[number], HumanMessage):
            break
    else:
        return
    if messages[number].text:
        yield Turn("user", messages[number].text)
    answer = messages[-1]
    if isinstance(answer, AIMessage) and answer.text:
        yield Turn("primary", answer.text)
