"""LangGraph: a tool that reads the notes, and a node that records each exchange and has an observer look.

    >>> graph = StateGraph(MessagesState)
    >>> graph.add_node("agent", create_agent(model, [notes_tool(primary, max_turns_behind=2)]))
    >>> graph.add_node("observe", ObserverNode(recorder))
    >>> graph.add_edge(START, "agent")
    >>> graph.add_edge("agent", "observe")
    >>> graph.compile().invoke({"messages": [("user", "...")]}, {"configurable": {"thread_id": "session-1"}})

By default, the session is the graph's thread.

Recorded when the node is reached, of `messages`, in order:

- the user's words: the human messages before the model's last messages, however many stand together, with system
  messages between or behind them. What was said before is history.
- each message of the model since then, the one before a tool call included, and a refusal.
- tools' results at the very end: the answer, where a tool has `return_direct`.

A message is recorded once, however often a node is reached or the graph is resumed: the nodes of one recorder remember
ids. Where one of the messages is remembered, all that was said since then is recorded. Put the node wherever an
exchange ends, also before an `interrupt()` that asks the user.

Not recorded: tool calls and other results, reasoning, images, and human messages that are none, such as a summary
(`lc_source`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, PrimaryClient, Turn
from session_notes.integrations._binding import (
    NoSession,
    NotesOptions,
    Recorder,
    RecordingHook,
    check_client,
    check_session_id,
    get,
    guarded,
    session_of,
)
from session_notes.integrations.tools import DESCRIPTION, NAME, AsyncNotesTool, NotesTool

try:
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        ChatMessage,
        HumanMessage,
        SystemMessage,
        ToolMessage,
        convert_to_messages,
    )
    from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
    from langchain_core.tools import StructuredTool
except ImportError as error:
    raise ImportError("this needs langgraph: pip install '.[langgraph]' in its checkout") from error

SessionId = str | Callable[[RunnableConfig], str]
"""A session's id, or a function that finds it in the run's config."""


def thread_id(config: RunnableConfig) -> str:
    """Return the graph's thread, as the session's id.

    Raises:
        InvalidArgument: If the graph runs without one.
    """
    thread = config.get("configurable", {}).get("thread_id")
    if thread is None:
        raise NoSession("the config has no thread_id to name the session; give one, or a session_id")
    return str(thread)


def notes_tool(
    client: PrimaryClient | AsyncPrimaryClient, session_id: SessionId = thread_id, **options: Unpack[NotesOptions]
) -> StructuredTool:
    """Make a tool for an agent or a `ToolNode` that reads the notes on the session. The model cannot choose another.

    It answers as `NotesTool` does: an outage is `{"ready": False, "reason": "unavailable"}`.

    Args:
        client: The client to read with. A `PrimaryClient` serves `invoke`, and `ainvoke` in a thread; an
            `AsyncPrimaryClient` serves `ainvoke` in the loop it was opened in, and nothing else.
        session_id: The session, or a function that finds it in the run's config.
        **options: As for `NotesTool`: `observer`, `max_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is of another kind.
    """
    check_client(client, PrimaryClient, AsyncPrimaryClient)
    check_session_id(session_id)
    name, description = options.get("name", NAME), options.get("description", DESCRIPTION)
    if isinstance(client, PrimaryClient):

        def read(config: RunnableConfig) -> dict[str, Any]:
            return NotesTool(client, session_of(session_id, config), **options).call()

        return StructuredTool.from_function(read, name=name, description=description)

    async def read_async(config: RunnableConfig) -> dict[str, Any]:
        return await AsyncNotesTool(client, session_of(session_id, config), **options).call()

    return StructuredTool.from_function(coroutine=read_async, name=name, description=description)


class ObserverNode(Runnable[Any, None]):
    """A node that records the last exchange in `messages`, and has an observer look at it.

    It holds up no graph, changes nothing, and raises nothing.

    Args:
        recorder: A `TurnRecorder` or `AsyncTurnRecorder`: records, and submits.
        session_id: The session, or a function that finds it in the run's config.

    Raises:
        InvalidArgument: If the recorder is of another kind.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId = thread_id) -> None:
        self._hook = RecordingHook(recorder, session_id)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> None:
        """Called by LangGraph, with the state after the agent."""
        with guarded():
            context = ensure_config(config)
            messages = messages_in(input if isinstance(input, list | tuple) else get(input, "messages"))
            # There may be several exchanges since the last time: an interrupt asks the user, or a run has failed.
            start = self._hook.count_recorded(context, [message.id for message in messages])
            self._hook.record_once(context, spoken(messages, start) if start else last_exchange(messages))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> None:
        """Called by LangGraph in a loop, where an `AsyncTurnRecorder` is at home too."""
        self.invoke(input, config)

    __call__ = invoke


def messages_in(content: Any) -> list[BaseMessage]:
    """Return the messages among the items of a state, which may hold them in any form that LangChain takes."""
    messages: list[BaseMessage] = []
    for item in content if isinstance(content, Iterable) else ():
        try:
            messages += [item] if isinstance(item, BaseMessage) else convert_to_messages([item])
        except Exception:  # noqa: S112 - no message at all, so nobody has said it
            continue
    return messages


def last_exchange(messages: list[BaseMessage]) -> list[tuple[Any, Turn]]:
    """Return the user's last words and the answer to them, as turns, each with its message's id.

    Where nothing but words has come, they are the exchange.
    """
    start = len(messages)
    while start > 0 and not is_users(messages[start - 1]):
        start -= 1
    while start > 0 and (is_users(messages[start - 1]) or _is_between(messages[start - 1])):
        start -= 1
    return spoken(messages, start)


def spoken(messages: list[BaseMessage], start: int) -> list[tuple[Any, Turn]]:
    """Return what was said from there on, as turns, each with its message's id."""
    direct = len(messages)
    while direct > 0 and isinstance(messages[direct - 1], ToolMessage):
        direct -= 1
    heard = [message for message in messages[start:direct] if is_users(message) or is_models(message)]
    heard += [message for message in messages[max(start, direct) :] if get(message, "status") != "error"]
    return [(message.id, turn_of(message)) for message in heard]


def is_users(message: BaseMessage) -> bool:
    """Return whether the user has said this, and not the framework in the user's name."""
    if isinstance(message, ChatMessage):
        return message.role in ("user", "human")
    return isinstance(message, HumanMessage) and not message.additional_kwargs.get("lc_source")


def is_models(message: BaseMessage) -> bool:
    """Return whether the model has said this."""
    if isinstance(message, ChatMessage):
        return message.role in ("assistant", "ai")
    return isinstance(message, AIMessage)


def turn_of(message: BaseMessage) -> Turn:
    """Return a message's text as a turn: the user's, or else the model's."""
    content, text = message.content, str(message.text)
    if isinstance(content, list):
        refusals = [part.get("refusal") for part in content if isinstance(part, Mapping)]
        text += "".join(refusal for refusal in refusals if isinstance(refusal, str))
    refusal = message.additional_kwargs.get("refusal")
    return Turn("user" if is_users(message) else "primary", text or (refusal if isinstance(refusal, str) else ""))


def _is_between(message: BaseMessage) -> bool:
    # A system message, or a human one of the framework's own, may stand among the user's words.
    return isinstance(message, SystemMessage) or (isinstance(message, HumanMessage) and not is_users(message))
