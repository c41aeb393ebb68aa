"""For Pydantic AI: a tool that reads the notes, and a capability that has an observer look after each turn.

>>> agent = Agent(
...     "openai:gpt-5",
...     deps_type=Caller,
...     tools=[notes_tool(primary, lambda run: run.deps.session_id, max_turns_behind=2)],
...     capabilities=[Observed(recorder, lambda run: run.deps.session_id)],
... )
>>> await agent.run("I want my money back.", deps=Caller("session-1"))
"""

from collections.abc import Callable
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._binding import NotesOptions, session_of
from session_notes.integrations.recorder import TurnRecorder
from session_notes.integrations.tools import DESCRIPTION, NAME, AsyncNotesTool, parameters

try:
    from pydantic_ai import AgentRunResult, RunContext, Tool
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_core import to_json
except ImportError as error:
    raise ImportError("this needs pydantic-ai-slim: pip install '.[pydantic-ai]' in its checkout") from error

SessionId = str | Callable[[RunContext[Any]], str]
"""A session's id, or a function that finds it in the run's context, such as in its `deps`."""


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]) -> Tool[Any]:
    """A tool for `Agent(tools=[...])` that reads the notes on the session. The model cannot choose another.

    It answers as `AsyncNotesTool` does: an outage is `{"ready": False, "reason": "unavailable"}`.

    Args:
        client: What to read with; opened in the loop that the agent runs in.
        session_id: The session, or a function that finds it in the run's context.
        **options: As for `AsyncNotesTool`: `observer`, `max_age`, `max_turns_behind`, `name`, `description`.
    """

    async def read(run: RunContext[Any], **arguments: object) -> dict[str, Any]:
        return await AsyncNotesTool(client, session_of(session_id, run), **options).call(arguments)

    return Tool.from_schema(
        read,
        name=options.get("name", NAME),
        description=options.get("description", DESCRIPTION),
        json_schema=parameters(),
        takes_ctx=True,
    )


class Observed(AbstractCapability[Any]):
    """Takes down what the user said and what the agent answered, and has an observer look at it, after each run.

    It holds up no run, changes nothing, and an outage raises nothing. A run that ends without a result leaves nothing.

    Args:
        recorder: Takes down, and submits.
        session_id: The session, or a function that finds it in the run's context.
    """

    def __init__(self, recorder: TurnRecorder, session_id: SessionId) -> None:
        self._recorder = recorder
        self._session_id = session_id

    async def after_run(self, ctx: RunContext[Any], *, result: AgentRunResult[Any]) -> AgentRunResult[Any]:
        """Called by Pydantic AI with the result."""
        prompt = [ctx.prompt] if isinstance(ctx.prompt, str) else ctx.prompt or ()
        said = [Turn("user", part) for part in prompt if isinstance(part, str)]
        answer = result.output if isinstance(result.output, str) else to_json(result.output, fallback=str).decode()
        self._recorder.record(session_of(self._session_id, ctx), *said, Turn("primary", answer))
        return result
