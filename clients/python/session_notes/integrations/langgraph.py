"""LangGraph: a tool that reads notes, and a node that records exchanges and submits observer runs.

    >>> graph = StateGraph(MessagesState)
    >>> graph.add_node("agent", create_agent(model, [notes_tool(primary, max_turns_behind=2)]))
    >>> graph.add_node("observe", ObserverNode(recorder))
    >>> graph.add_edge(START, "agent")
    >>> graph.add_edge("agent", "observe")
    >>> graph.compile().invoke({"messages": [("user", "...")]}, {"configurable": {"thread_id": "session-1"}})

By default, the thread id is the session id.

When the graph reaches the node, the node records from `messages`, in order:

- The user's messages: all human messages directly before the model's last messages, even with system messages between
  or after them. Earlier messages are history.
- Each model message since then, including text before a tool call, and refusals.
- Tool results at the very end, as the answer of a tool with `return_direct`.

All nodes of a recorder share the ids of recorded messages. A message is therefore recorded once, even if the graph
reaches several nodes or is resumed. If `messages` contains recorded messages, the node records everything after the
last one. Place the node where an exchange ends, for example before an `interrupt()` that asks the user.

Not recorded: tool calls, other tool results, reasoning, images, and human messages that the framework wrote, such as
summaries (`lc_source`).
"""

from collections.abc import Callable
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, PrimaryClient
from session_notes.integrations._arguments import check_client
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._messages import field_of
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._sessions import NoSession
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations.tools import AsyncNotesTool, NotesTool

try:
    from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
    from langchain_core.tools import StructuredTool

    from session_notes.integrations._langchain_messages import last_exchange, messages_in, turns_from
except ImportError as error:
    raise missing_extra(__name__, error) from error

SessionId = str | Callable[[RunnableConfig], str]
"""A session id, or a function that maps a run's config to one."""


def thread_id(config: RunnableConfig) -> str:
    """Return the thread id of a config, which is the default session id.

    Raises:
        InvalidArgument: If the config has no thread id.
    """
    thread = config.get("configurable", {}).get("thread_id")
    if thread is None:
        raise NoSession("the config has no thread_id; set one, or pass session_id")
    return str(thread)


def notes_tool(
    client: PrimaryClient | AsyncPrimaryClient, session_id: SessionId = thread_id, **options: Unpack[NotesOptions]
) -> StructuredTool:
    """Make a tool that reads a session's notes, for an agent or a `ToolNode`.

    The model cannot choose the session. The results are those of `NotesTool`, including
    `{"ready": False, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. A `PrimaryClient` supports `invoke`, and `ainvoke` in a thread. An `AsyncPrimaryClient`
            supports only `ainvoke`, in the event loop in which it was opened.
        session_id: The session id, or a function that maps the run's config to one.
        **options: Options of `NotesTool`: `observer` or `observers`, `min_severity`, `max_age`,
            `max_snapshot_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client or the session id has the wrong type.
    """
    check_client(client, PrimaryClient, AsyncPrimaryClient)
    if isinstance(client, PrimaryClient):
        binding = ToolBinding(NotesTool, client, session_id, options)

        def read(config: RunnableConfig) -> dict[str, Any]:
            return binding.tool_for(config).call()

        return StructuredTool.from_function(read, name=binding.name, description=binding.description)

    async_binding = ToolBinding(AsyncNotesTool, client, session_id, options)

    async def read_async(config: RunnableConfig) -> dict[str, Any]:
        return await async_binding.tool_for(config).call()

    return StructuredTool.from_function(
        coroutine=read_async, name=async_binding.name, description=async_binding.description
    )


class ObserverNode(Runnable[Any, None]):
    """A node that records the new messages in `messages`, then submits an observer run.

    It never delays the graph, changes its state, or raises.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the run's config to one.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId = thread_id) -> None:
        self._hook = RecordingHook(recorder, session_id)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> None:
        """Record the new messages of a state. LangGraph calls this when it reaches the node."""
        with ErrorBoundary():
            context = ensure_config(config)
            messages = messages_in(input if isinstance(input, list | tuple) else field_of(input, "messages"))
            # Several exchanges may be new, for example after an interrupt that asked the user or after a failed run.
            start = self._hook.after_recorded(context, [message.id for message in messages])
            self._hook.record_once(context, turns_from(messages, start) if start else last_exchange(messages))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> None:
        """Run `invoke` in the event loop, as an `AsyncTurnRecorder` requires."""
        self.invoke(input, config)

    __call__ = invoke
