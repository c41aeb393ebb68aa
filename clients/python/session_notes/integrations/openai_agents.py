"""For the OpenAI Agents SDK: a tool that reads the notes, and hooks that have an observer look after each turn.

>>> agent = Agent(
...     name="Support",
...     instructions="...",
...     tools=[notes_tool(primary, lambda run: run.context.session_id, max_turns_behind=2)],
... )
>>> hooks = ObserverHooks(recorder, lambda run: run.context.session_id)
>>> await Runner.run(agent, "I want my money back.", context=caller, hooks=hooks)
"""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._binding import NotesOptions, session_of
from session_notes.integrations.recorder import TurnRecorder
from session_notes.integrations.tools import DESCRIPTION, NAME, AsyncNotesTool, parameters

try:
    from agents import Agent, AgentHookContext, FunctionTool, RunContextWrapper, RunHooks, TResponseInputItem
    from agents.tool_context import ToolContext
    from pydantic_core import to_json
except ImportError as error:
    raise ImportError("this needs openai-agents: pip install '.[openai-agents]' in its checkout") from error

SessionId = str | Callable[[RunContextWrapper[Any]], str]
"""A session's id, or a function that finds it in the run's context."""


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]) -> FunctionTool:
    """A tool for `Agent(tools=[...])` that reads the notes on the session. The model cannot choose another.

    It answers as `AsyncNotesTool` does, as JSON: an outage is `{"ready": false, "reason": "unavailable"}`.

    Args:
        client: What to read with; opened in the loop that the agent runs in.
        session_id: The session, or a function that finds it in the run's context.
        **options: As for `AsyncNotesTool`: `observer`, `max_age`, `max_turns_behind`, `name`, `description`.
    """

    async def read(run: ToolContext[Any], arguments: str) -> str:
        return await AsyncNotesTool(client, session_of(session_id, run), **options).json(arguments)

    return FunctionTool(
        name=options.get("name", NAME),
        description=options.get("description", DESCRIPTION),
        params_json_schema=parameters(),
        on_invoke_tool=read,
    )


class ObserverHooks(RunHooks[Any]):
    """Takes down what the user said and what the agent answered, and has an observer look at it, after each run.

    It holds up no run, and an outage raises nothing. Hand it to `Runner.run(..., hooks=...)`. A run that ends without
    an answer leaves nothing.

    Args:
        recorder: Takes down, and submits.
        session_id: The session, or a function that finds it in the run's context.
    """

    def __init__(self, recorder: TurnRecorder, session_id: SessionId) -> None:
        self._recorder = recorder
        self._session_id = session_id

    async def on_agent_end(self, context: AgentHookContext[Any], agent: Agent[Any], output: Any) -> None:
        """Called by the SDK with the final answer."""
        said = [Turn("user", text) for text in _new_texts(context.turn_input)]
        answer = output if isinstance(output, str) else to_json(output, fallback=str).decode()
        self._recorder.record(session_of(self._session_id, context), *said, Turn("primary", answer))


def _new_texts(items: Sequence[TResponseInputItem]) -> list[str]:
    """What the user said since anybody else did: with an SDK session, the input has the whole conversation in it."""
    new: list[str] = []
    for item in reversed(items):
        if item.get("role") != "user":
            break
        content: Any = item.get("content")
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        new[:0] = [text] if (text := "\n".join(filter(None, parts))) else []
    return new
