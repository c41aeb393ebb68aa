"""OpenAI Agents SDK: notes as a tool or in the model's input, and hooks or a session that record turns.

>>> agent = Agent(
...     name="Support",
...     instructions="...",
...     tools=[notes_tool(primary, lambda run: run.context.session_id, max_turns_behind=2)],
... )
>>> hooks = ObserverHooks(recorder, lambda run: run.context.session_id)
>>> await Runner.run(agent, "I want my money back.", context=caller, hooks=hooks)

Notes also reach the model without a tool call, through `RunConfig(call_model_input_filter=notes_filter(...))`. With an
SDK session, `ObservedSession` records its items as they are added, tool calls included if requested, instead of hooks.

Once a run has its final output, the hooks record, in order:

- The user's messages at the end of the input, even with developer or system messages between or after them. Messages
  before an answer or a tool call are history. Unanswered messages are recorded with the next run whose input contains
  them.
- The messages of every agent, including text before a tool call or a handoff, and refusals.
- The final output, unless it repeats the last of these messages. If a tool ends the run (`tool_use_behavior`), the
  output is the tool's result. Structured output is recorded as JSON.

Not recorded: tool calls and their results, reasoning, images, files, history that a handoff nests in a message, and
agents that run as tools. The SDK calls its hooks before output guardrails, so an answer that a guardrail rejects is
recorded.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._feeds import FeedOptions, Feeds
from session_notes.integrations._messages import after_last, content_text, field_of, output_text
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations.tools import AsyncNotesTool, parameters

try:
    from agents import Agent, AgentHookContext, FunctionTool, ModelResponse, RunContextWrapper, RunHooks, Usage
    from agents.run import CallModelData, ModelInputData
    from agents.run_config import CallModelInputFilter
    from agents.tool_context import ToolContext

    from session_notes.integrations._openai_agents_session import ObservedSession
except ImportError as error:
    raise missing_extra(__name__, error) from error

__all__ = ["ObservedSession", "ObserverHooks", "SessionId", "notes_filter", "notes_tool"]

SessionId = str | Callable[[RunContextWrapper[Any]], str]
"""A session id, or a function that maps a run's context to one."""


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]) -> FunctionTool:
    """Make a tool that reads a session's notes, for `Agent(tools=[...])`.

    The model cannot choose the session. The results are those of `AsyncNotesTool`, as JSON, including
    `{"ready": false, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. Open it in the event loop in which the agent runs.
        session_id: The session id, or a function that maps the run's context to one.
        **options: Options of `AsyncNotesTool`: `observer` or `observers`, `min_severity`, `max_age`,
            `max_snapshot_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or the session id has the wrong type.
    """
    binding = ToolBinding(AsyncNotesTool, client, session_id, options)

    async def read(run: ToolContext[Any], arguments: str) -> str:
        return await binding.tool_for(run).json(arguments)

    return FunctionTool(
        name=binding.name,
        description=binding.description,
        params_json_schema=parameters(),
        on_invoke_tool=read,
    )


def notes_filter(
    client: AsyncPrimaryClient,
    session_id: str | Callable[[CallModelData[Any]], str],
    **options: Unpack[FeedOptions],
) -> CallModelInputFilter:
    """Make a filter that adds a session's notes to the model's input, for `RunConfig(call_model_input_filter=...)`.

    They are the last message of each input, with the role `developer`. They never enter an SDK session; in a
    conversation that OpenAI stores (`conversation_id`, `previous_response_id`), they remain. The filter takes at most
    the client's timeout, and never raises.

    Args:
        client: Reads the notes. Open it in the event loop in which the agent runs.
        session_id: The session id, or a function that maps the data of a call, such as its `context`, to one.
        **options: Options of `NotesFeed`: `observers`, `min_severity`, `max_chars`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or another argument is invalid.
    """
    feeds = Feeds(client, session_id, options)

    async def add_notes(data: CallModelData[Any]) -> ModelInputData:
        model_input = data.model_data
        if text := await feeds.text(data):
            model_input.input.append({"role": "developer", "content": text})
        return model_input

    return add_notes


class ObserverHooks(RunHooks[Any]):
    """Hooks that record the turns of each run, then submit an observer run.

    They never delay a run, change it, or raise. Pass them to `Runner.run(..., hooks=...)`. One object can serve any
    number of concurrent runs. A run without a final output is not recorded.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the run's context to one.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId) -> None:
        self._hook = RecordingHook(recorder, session_id)
        self._runs = _Runs()

    async def on_agent_start(self, context: AgentHookContext[Any], agent: Agent[Any]) -> None:
        """Begin a run, or continue it after a handoff."""
        with ErrorBoundary():
            self._runs.start(context, agent)

    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        """Mark the run as handed over to another agent."""
        with ErrorBoundary():
            run = self._runs.get(context)
            if run and run.agent is from_agent:
                run.handed_over = True

    async def on_llm_start(
        self, context: RunContextWrapper[Any], agent: Agent[Any], system_prompt: str | None, input_items: list[Any]
    ) -> None:
        """Add the earlier messages of a resumed run. The SDK calls this before each model call."""
        with ErrorBoundary():
            if run := self._runs.get(context):
                run.add_input(input_items)

    async def on_llm_end(self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse) -> None:
        """Add the messages of a model's response."""
        with ErrorBoundary():
            run = self._runs.get(context)
            if run and run.agent is agent:
                run.add_response(response)

    async def on_agent_end(self, context: AgentHookContext[Any], agent: Agent[Any], output: Any) -> None:
        """Record the run. The SDK calls this with the final output."""
        with ErrorBoundary():
            run = self._runs.get(context) or _Run(agent, _unanswered(context.turn_input))
            if run.agent is agent or not run.calling:
                self._runs.end(context)
                self._hook.record(context, run.turns(output))


@dataclass
class _Run:
    """The texts of a run so far, and the agent that is responding."""

    agent: Agent[Any]
    prompts: list[str]
    messages: list[str] = field(default_factory=list)
    calling: bool = False
    handed_over: bool = False
    model_called: bool = False

    def add_input(self, items: Sequence[Any]) -> None:
        """Add the messages from before a pause for approval, which are in the input of a resumed run's first call."""
        if self.prompts and not self.model_called:
            start = after_last(items, lambda item: field_of(item, "role") == "user")
            self.messages = _message_texts(items[start:]) if start else []
        self.model_called = True

    def add_response(self, response: ModelResponse) -> None:
        """Add the messages of a response."""
        self.messages += _message_texts(response.output)
        self.calling = any(field_of(item, "type") == "function_call" for item in response.output)

    def turns(self, output: Any) -> list[Turn]:
        """Return the turns of the run with its final output, without empty turns."""
        messages, answer = list(self.messages), output_text(output)
        # Unless a tool ended the run, the output repeats the last message, which is raw JSON if it is structured.
        if messages and (messages[-1] == answer or not (self.calling or isinstance(output, str))):
            messages.pop()
        turns = [Turn("user", text) for text in self.prompts]
        turns += [Turn("primary", text) for text in (*messages, answer)]
        return [turn for turn in turns if turn.text.strip()]


class _Runs:
    """The runs in flight, identified by their `usage`, the only object that all hooks of a run receive."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[weakref.ref[Usage], _Run]] = {}

    def get(self, context: RunContextWrapper[Any]) -> _Run | None:
        """Return the run of a context; None if its start was missed."""
        entry = self._runs.get(id(context.usage))
        return entry[1] if entry else None

    def start(self, context: AgentHookContext[Any], agent: Agent[Any]) -> None:
        """Begin a run, unless the agent takes over an existing run or is a tool of that run's agent."""
        run = self.get(context)
        if run and run.handed_over:
            # Keep the prompts: the next agent's input may contain them only in nested history.
            run.agent, run.handed_over = agent, False
        elif not run or not run.calling or run.agent is agent:
            self._put(context, _Run(agent, _unanswered(context.turn_input)))

    def end(self, context: RunContextWrapper[Any]) -> None:
        """Forget a run."""
        self._runs.pop(id(context.usage), None)

    def _put(self, context: RunContextWrapper[Any], run: _Run) -> None:
        key = id(context.usage)
        # The SDK calls no final hook for a failed run. The weak reference drops that run.
        self._runs[key] = (weakref.ref(context.usage, lambda _: self._runs.pop(key, None)), run)


def _message_texts(items: Sequence[Any]) -> list[str]:
    """Return the texts of the model's messages among the items, including refusals."""
    messages = [item for item in items if field_of(item, "role") == "assistant"]
    return [text for message in messages if (text := content_text(field_of(message, "content"), ""))]


def _unanswered(items: Sequence[Any]) -> list[str]:
    """Return the user's messages after the last answer. With an SDK session, the input is the whole conversation."""
    start = after_last(items, lambda item: field_of(item, "role") not in ("user", "developer", "system"))
    return [content_text(field_of(item, "content"), "\n") for item in items[start:] if field_of(item, "role") == "user"]
