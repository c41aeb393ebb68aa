"""The OpenAI Agents SDK: a tool that reads the notes, and hooks that record each run and have an observer look.

>>> agent = Agent(
...     name="Support",
...     instructions="...",
...     tools=[notes_tool(primary, lambda run: run.context.session_id, max_turns_behind=2)],
... )
>>> hooks = ObserverHooks(recorder, lambda run: run.context.session_id)
>>> await Runner.run(agent, "I want my money back.", context=caller, hooks=hooks)

Recorded once a run has its final output, in order:

- the user's words: the messages of the user at the end of the input, however many there are, without the developer's
  or the system's messages after them. Earlier ones are history: an answer or a tool call stands behind them. Words that
  no run has answered are recorded with the next run that has them in its input.
- each message of every agent, the one before a tool call or a handoff included; a refusal too.
- the final output, unless it is the last of these messages: a tool's where the tool ends the run
  (`tool_use_behavior`), and a structured one as JSON.

Not recorded: tool calls and their results, reasoning, images and files, the history that a handoff nests in a message,
and agents that run as tools. The SDK calls its hooks before output guardrails, so an answer that one of them refuses is
recorded.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._binding import (
    NotesOptions,
    Recorder,
    RecordingHook,
    check_client,
    check_session_id,
    get,
    guarded,
    session_of,
    text_of,
    turns,
)
from session_notes.integrations.tools import DESCRIPTION, NAME, AsyncNotesTool, parameters

try:
    from agents import Agent, AgentHookContext, FunctionTool, ModelResponse, RunContextWrapper, RunHooks, Usage
    from agents.tool_context import ToolContext
except ImportError as error:
    raise ImportError("this needs openai-agents: pip install '.[openai-agents]' in its checkout") from error

SessionId = str | Callable[[RunContextWrapper[Any]], str]
"""A session's id, or a function that finds it in the run's context."""


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]) -> FunctionTool:
    """Make a tool for `Agent(tools=[...])` that reads the notes on the session. The model cannot choose another.

    It answers as `AsyncNotesTool` does, as JSON: an outage is `{"ready": false, "reason": "unavailable"}`.

    Args:
        client: The client to read with; opened in the loop that the agent runs in.
        session_id: The session, or a function that finds it in the run's context.
        **options: As for `AsyncNotesTool`: `observer`, `max_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is no `AsyncPrimaryClient`.
    """
    check_client(client, AsyncPrimaryClient)
    check_session_id(session_id)

    async def read(run: ToolContext[Any], arguments: str) -> str:
        return await AsyncNotesTool(client, session_of(session_id, run), **options).json(arguments)

    return FunctionTool(
        name=options.get("name", NAME),
        description=options.get("description", DESCRIPTION),
        params_json_schema=parameters(),
        on_invoke_tool=read,
    )


class ObserverHooks(RunHooks[Any]):
    """Hooks that record what the user and the agents said, and have an observer look at it, after each run.

    They hold up no run, change none, and raise nothing. Hand them to `Runner.run(..., hooks=...)`; one object serves
    any number of runs at once. A run that ends without an output leaves nothing.

    Args:
        recorder: A `TurnRecorder` or `AsyncTurnRecorder`: records, and submits.
        session_id: The session, or a function that finds it in the run's context.

    Raises:
        InvalidArgument: If the recorder is of another kind.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId) -> None:
        self._hook = RecordingHook(recorder, session_id)
        self._runs = _Runs()

    async def on_agent_start(self, context: AgentHookContext[Any], agent: Agent[Any]) -> None:
        """Called by the SDK at the start of a run, and after each handoff."""
        with guarded():
            self._runs.start(context, agent)

    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        """Called by the SDK when another agent takes over."""
        with guarded():
            run = self._runs.get(context)
            if run and run.agent is from_agent:
                run.handed_over = True

    async def on_llm_start(
        self, context: RunContextWrapper[Any], agent: Agent[Any], system_prompt: str | None, input_items: list[Any]
    ) -> None:
        """Called by the SDK before each call of a model."""
        with guarded():
            if run := self._runs.get(context):
                run.ask(input_items)

    async def on_llm_end(self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse) -> None:
        """Called by the SDK with each response of a model."""
        with guarded():
            run = self._runs.get(context)
            if run and run.agent is agent:
                run.hear(response)

    async def on_agent_end(self, context: AgentHookContext[Any], agent: Agent[Any], output: Any) -> None:
        """Called by the SDK with the final output."""
        with guarded():
            run = self._runs.get(context) or _Run(agent, _new_words(context.turn_input))
            if run.agent is agent or not run.calling:
                self._runs.end(context)
                self._hook.record(context, run.turns(output))


@dataclass
class _Run:
    """The words of a run so far, and the agent whose turn it is."""

    agent: Agent[Any]
    words: list[str]
    messages: list[str] = field(default_factory=list)
    calling: bool = False
    handed_over: bool = False
    asked: bool = False

    def ask(self, items: Sequence[Any]) -> None:
        """Add the messages from before a pause for an approval, which the first call of a resumed run has."""
        if self.words and not self.asked:
            after = next((number for number, item in enumerate(reversed(items)) if get(item, "role") == "user"), 0)
            self.messages = _messages(items[len(items) - after :])
        self.asked = True

    def hear(self, response: ModelResponse) -> None:
        """Add the messages of a response."""
        self.messages += _messages(response.output)
        self.calling = any(get(item, "type") == "function_call" for item in response.output)

    def turns(self, output: Any) -> list[Turn]:
        """Return all of it as turns, with the final output."""
        messages, answer = list(self.messages), text_of(output)
        # Unless a tool has ended the run, the output is the last message; a structured one, as the model wrote it.
        if messages and (messages[-1] == answer or not (self.calling or isinstance(output, str))):
            messages.pop()
        return turns(self.words, [*messages, answer])


class _Runs:
    """The runs in progress, each identified by its `usage`, the one object that all hooks of a run get."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[weakref.ref[Usage], _Run]] = {}

    def get(self, context: RunContextWrapper[Any]) -> _Run | None:
        """Return the run, if its start was seen."""
        entry = self._runs.get(id(context.usage))
        return entry[1] if entry else None

    def start(self, context: AgentHookContext[Any], agent: Agent[Any]) -> None:
        """Begin a run, unless it is one that goes on with another agent, or calls this one as a tool."""
        run = self.get(context)
        if run and run.handed_over:
            # The words stay: the next agent's input may have them in a nested history only.
            run.agent, run.handed_over = agent, False
        elif not run or not run.calling or run.agent is agent:
            self._put(context, _Run(agent, _new_words(context.turn_input)))

    def end(self, context: RunContextWrapper[Any]) -> None:
        """Forget a run."""
        self._runs.pop(id(context.usage), None)

    def _put(self, context: RunContextWrapper[Any], run: _Run) -> None:
        key = id(context.usage)
        # A run that fails has no last hook.
        self._runs[key] = (weakref.ref(context.usage, lambda _: self._runs.pop(key, None)), run)


def _messages(items: Sequence[Any]) -> list[str]:
    """Return the texts of the model's messages among these items, refusals included."""
    messages = [item for item in items if get(item, "role") == "assistant"]
    return [text for message in messages if (text := _text(get(message, "content"), ""))]


def _new_words(items: Sequence[Any]) -> list[str]:
    """Return the user's words that are not answered yet: with an SDK session, the input is the whole conversation."""
    words: list[str] = []
    for item in reversed(items):
        role = get(item, "role")
        if role == "user":
            words.insert(0, _text(get(item, "content"), "\n"))
        elif role not in ("developer", "system"):
            break
    return words


def _text(content: Any, separator: str) -> str:
    if isinstance(content, str):
        return content
    parts = [get(part, "text") or get(part, "refusal") for part in content or ()]
    return separator.join(part for part in parts if isinstance(part, str) and part)
