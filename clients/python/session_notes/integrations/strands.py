"""Strands Agents: hooks that record turns, and notes in the model's input or as a tool.

>>> agent = Agent(
...     state={"session_id": "session-1"},
...     hooks=[ObserverHooks(recorder, lambda agent: agent.state.get("session_id"))],
...     plugins=[notes_injector(primary, lambda agent: agent.state.get("session_id"), max_turns_behind=4)],
... )
>>> agent("I want my money back.")

At the end of a run, the hooks record, in order and once:

- The user's messages since the agent's last message, also those that an earlier run left unanswered.
- The text of each message of the agent, including text before a tool call.
- Structured output, as JSON.

An interrupted run is recorded up to the interrupt, and the rest when it has been resumed and ends. A run that fails
before the agent's first message is recorded with the next run. One that fails later is recorded without an observer
run, because Strands keeps its messages. If a hook resumes a run (`event.resume`), the hook's input is not recorded.
The last message of a run that `Agent.cancel` ended, which Strands may have written, has `extra={"interrupted": True}`.

Not recorded: tool calls and their results, reasoning, images, documents, messages that a session manager restored, what
hooks add to the user's messages, such as memories, prompts that Strands adds for structured output, and runs of the
deprecated `Agent.structured_output`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Unpack
from weakref import WeakKeyDictionary

from session_notes import AsyncPrimaryClient, PrimaryClient, Turn
from session_notes.integrations._arguments import check_client
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._feeds import FeedOptions, Feeds, StoredConversation
from session_notes.integrations._messages import after_last, output_text
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations.tools import AsyncNotesTool, NotesTool, parameters

try:
    from strands import Agent, ToolContext, tool
    from strands.agent import AgentResult
    from strands.hooks import (
        AfterInvocationEvent,
        BeforeModelCallEvent,
        BeforeToolsEvent,
        HookOrder,
        HookProvider,
        HookRegistry,
        MessageAddedEvent,
    )
    from strands.types.content import Message
    from strands.types.tools import AgentTool
    from strands.vended_plugins.context_injector import ContextInjector, InjectionContext
except ImportError as error:
    raise missing_extra(__name__, error) from error

SessionId = str | Callable[[Any], str]
"""A session id, or a function that maps an agent, such as its `state`, to one."""

_Prompt = tuple[Message, list[Any]]
"""A message, and its content when it was added."""


def notes_tool(
    client: PrimaryClient | AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]
) -> AgentTool:
    """Make a tool that reads a session's notes, for `Agent(tools=[...])`.

    The model cannot choose the session. The results are those of `NotesTool`, as JSON, including
    `{"ready": false, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. `agent(...)` needs a `PrimaryClient`. `agent.invoke_async` and `agent.stream_async`
            also accept an `AsyncPrimaryClient` that was opened in their event loop.
        session_id: The session id, or a function that maps the agent to one.
        **options: Options of `NotesTool`: `observer` or `observers`, `min_severity`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client or the session id has the wrong type.
    """
    check_client(client, PrimaryClient, AsyncPrimaryClient)
    schema = {"json": parameters()}
    if isinstance(client, PrimaryClient):
        binding = ToolBinding(NotesTool, client, session_id, options)

        @tool(name=binding.name, description=binding.description, inputSchema=schema, context=True)
        def read(tool_context: ToolContext) -> str:
            return binding.tool_for(tool_context.agent).json()

        return read

    async_binding = ToolBinding(AsyncNotesTool, client, session_id, options)

    @tool(name=async_binding.name, description=async_binding.description, inputSchema=schema, context=True)
    async def read_async(tool_context: ToolContext) -> str:
        return await async_binding.tool_for(tool_context.agent).json()

    return read_async


def notes_injector(
    client: PrimaryClient | AsyncPrimaryClient, session_id: SessionId, **options: Unpack[FeedOptions]
) -> ContextInjector:
    """Make a plugin that adds a session's notes to the input of each model call, for `Agent(plugins=[...])`.

    They follow the last message of the user, or the tool results. They never enter the agent's messages, so a session
    manager does not store them. They only remain in a conversation that the model's provider stores (`Model.stateful`),
    and are added there only when they have changed since a model call that succeeded. Reading them takes at most the
    client's timeout, and never raises.

    Args:
        client: Reads the notes. `agent(...)` needs a `PrimaryClient`. `agent.invoke_async` and `agent.stream_async`
            also accept an `AsyncPrimaryClient` that was opened in their event loop.
        session_id: The session id, or a function that maps the agent to one.
        **options: Options of `NotesFeed`: `observers`, `min_severity`, `max_chars`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`.

    Raises:
        InvalidArgument: If the client or another argument is invalid.
    """
    feeds = Feeds(client, session_id, options, clients=(PrimaryClient, AsyncPrimaryClient))
    conversations: WeakKeyDictionary[Any, StoredConversation] = WeakKeyDictionary()

    async def notes(context: InjectionContext) -> str:
        text = await feeds.text(context.agent)
        with ErrorBoundary("no notes for the prompt"):
            agent: Any = context.agent
            # Strands has no public name for the id of the last response that the provider has stored.
            previous_id = agent._model_state.get("response_id") if agent.model.stateful else None
            return conversations.setdefault(agent, StoredConversation()).addition(previous_id, text)
        return text

    return ContextInjector(notes, name="session-notes", trigger="everyTurn")


class ObserverHooks(HookProvider):
    """Hooks that record the turns of each run, then submit an observer run, for `Agent(hooks=[...])`.

    They never delay a run, change it, or raise. One object can serve any number of agents that run concurrently. Do not
    add it to the agents of a `Graph` or a `Swarm`, whose prompts the orchestrator writes.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the agent to one.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId) -> None:
        self._hook = RecordingHook(recorder, session_id)
        self._runs: WeakKeyDictionary[Agent, list[Message]] = WeakKeyDictionary()
        # The prompts of each agent, with their content before other hooks added to it.
        self._prompts: WeakKeyDictionary[Agent, list[_Prompt]] = WeakKeyDictionary()

    def register_hooks(self, registry: HookRegistry, **kwargs: Any) -> None:
        """Register the hooks with an agent. Strands calls this when it makes the agent."""
        # First, before a hook replaces messages with a summary. A resumed run may continue with its tools.
        registry.add_callback([BeforeModelCallEvent, BeforeToolsEvent], self._start, order=HookOrder.SDK_FIRST)
        registry.add_callback(MessageAddedEvent, self._add, order=HookOrder.SDK_FIRST)
        # Last, after a hook that resumes the run.
        registry.add_callback(AfterInvocationEvent, self._end, order=HookOrder.SDK_LAST)

    def _start(self, event: BeforeModelCallEvent | BeforeToolsEvent) -> None:
        """Begin a run with the user's messages, unless it has begun."""
        with ErrorBoundary():
            if event.agent not in self._runs:
                messages = event.agent.messages
                self._runs[event.agent] = messages[after_last(messages, _is_answer) :]

    def _add(self, event: MessageAddedEvent) -> None:
        """Add a message of the agent to its run. In a run, Strands and hooks write those with the user's role."""
        with ErrorBoundary():
            if event.agent not in self._runs:
                self._prompts.setdefault(event.agent, []).append((event.message, list(event.message["content"])))
            elif _is_answer(event.message):
                self._runs[event.agent].append(event.message)

    def _end(self, event: AfterInvocationEvent) -> None:
        """Record the run, unless a hook resumes it."""
        with ErrorBoundary():
            if event.resume is None:
                messages = self._runs.pop(event.agent, [])
                ended = event.result is not None
                if ended or any(_is_answer(message) for message in messages):
                    turns = list(_turns(messages, self._prompts.pop(event.agent, []), event.result))
                    self._hook.record_once(event.agent, turns, observe=ended)


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant"


def _turns(
    messages: Sequence[Message], prompts: Sequence[_Prompt], result: AgentResult | None
) -> Iterator[tuple[Any, Turn]]:
    """Yield the turns of messages and of the structured output, each with an id."""
    for message in messages:
        speaker, separator = ("primary", "") if _is_answer(message) else ("user", "\n")
        cancelled = result is not None and result.stop_reason == "cancelled" and message is messages[-1]
        extra = {"interrupted": True} if cancelled and _is_answer(message) else {}
        yield message.get("tracking_id"), Turn(speaker, separator.join(_texts(_said(message, prompts))), extra=extra)
    output = result.structured_output if result else None
    # Without a call of the output's tool, the last message is the output.
    if output is not None and messages and any("toolUse" in block for block in messages[-1]["content"]):
        yield f"{messages[-1].get('tracking_id')} output", Turn("primary", output_text(output))


def _said(message: Message, prompts: Sequence[_Prompt]) -> Sequence[Any]:
    """Return a message's content without what hooks added to it, such as memories."""
    content = message["content"]
    original = next((blocks for prompt, blocks in prompts if prompt is message), ())
    # If nothing of it is left, the prompt was redacted.
    return [block for block in content if any(block is other for other in original)] or content


def _texts(content: Iterable[Any]) -> Iterator[str]:
    for block in content:
        if "text" in block:
            yield block["text"]
        elif "citationsContent" in block:
            yield from _texts(block["citationsContent"].get("content", ()))
