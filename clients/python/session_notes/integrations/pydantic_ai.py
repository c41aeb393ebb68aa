"""Pydantic AI: a tool that reads notes, and a capability that records turns and submits observer runs.

>>> agent = Agent(
...     "openai:gpt-5",
...     deps_type=Caller,
...     tools=[notes_tool(primary, lambda run: run.deps.session_id, max_turns_behind=2)],
...     capabilities=[Observed(recorder, lambda run: run.deps.session_id)],
... )
>>> await agent.run("I want my money back.", deps=Caller("session-1"))

At the end of a run, the capability records, in order:

- The user's messages: unanswered ones at the end of `message_history`, each text of the prompt, including
  `TextContent`, and messages that arrive during the run.
- The text of each response, including text before a tool call.
- The output, in place of the response text from which it was made. A tool's output comes after that text. Structured
  output is recorded as JSON.

Not recorded: tool calls and their results, thinking, images, files, instructions, approval requests
(`DeferredToolRequests`), and responses that an output validator rejected. The transcripts of a realtime session are
recorded when it ends. An answer that the user interrupted has `extra={"interrupted": True}`.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._messages import after_last, output_text
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations.tools import AsyncNotesTool, parameters

try:
    from pydantic_ai import (
        AgentRunResult,
        BinaryContent,
        DeferredToolRequests,
        ModelMessage,
        ModelRequest,
        ModelResponse,
        RunContext,
        TextContent,
        TextPart,
        Tool,
        ToolCallPart,
        UserPromptPart,
    )
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.messages import SpeechPart
except ImportError as error:
    raise missing_extra(__name__, error) from error

SessionId = str | Callable[[RunContext[Any]], str]
"""A session id, or a function that maps a run's context, such as its `deps`, to one."""


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]) -> Tool[Any]:
    """Make a tool that reads a session's notes, for `Agent(tools=[...])`.

    The model cannot choose the session. The results are those of `AsyncNotesTool`, including
    `{"ready": False, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. Open it in the event loop in which the agent runs.
        session_id: The session id, or a function that maps the run's context to one.
        **options: Options of `AsyncNotesTool`: `observer` or `observers`, `min_severity`, `max_age`,
            `max_snapshot_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or the session id has the wrong type.
    """
    binding = ToolBinding(AsyncNotesTool, client, session_id, options)

    async def read(run: RunContext[Any], **arguments: object) -> dict[str, Any]:
        return await binding.tool_for(run).call(arguments)

    return Tool.from_schema(
        read,
        name=binding.name,
        description=binding.description,
        json_schema=parameters(),
        takes_ctx=True,
    )


class Observed(AbstractCapability[Any]):
    """A capability that records the turns of each run, then submits an observer run.

    It never delays a run, changes it, or raises. A run without a result is not recorded.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the run's context to one.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId) -> None:
        self._hook = RecordingHook(recorder, session_id)
        self._unanswered: list[Turn] = []

    async def for_run(self, ctx: RunContext[Any]) -> "Observed":
        """Return a copy for one run, with the unanswered messages of the history. Pydantic AI calls this before a run.

        The messages are copied now, because a history processor may later insert a summary before the prompt.
        """
        observed = copy(self)
        with ErrorBoundary():
            observed._unanswered = list(_unanswered(ctx.messages))
        return observed

    async def after_run(self, ctx: RunContext[Any], *, result: AgentRunResult[Any]) -> AgentRunResult[Any]:
        """Record the run. Pydantic AI calls this with the run's result."""
        with ErrorBoundary():
            self._hook.record(ctx, _turns(self._unanswered, ctx.prompt, result))
        return result


def _turns(unanswered: list[Turn], prompt: Any, result: AgentRunResult[Any]) -> list[Turn]:
    """Return the turns of a run, starting with the unanswered messages."""
    new = result.new_messages()
    # Messages that a history processor inserted, such as a summary, have no run id.
    new = [message for message in new if message.run_id] or new
    prompts = [part for message in new for part in message.parts if isinstance(part, UserPromptPart)]
    sent = next((part for part in prompts if part.content == prompt), prompts[0] if prompt and prompts else None)
    # Record the application's prompt: a history processor may have changed the part that was sent.
    turns = [*unanswered, *_prompt_turns(prompt)]
    for number, message in enumerate(new):
        if isinstance(message, ModelRequest):
            turns += [turn for part in message.parts if part is not sent for turn in _request_turns(part)]
        elif not _is_rejected(new[number + 1 :]):
            turns += _response_turns(message)
    return [turn for turn in _with_output(turns, new, result.output) if turn.text.strip()]


def _unanswered(history: Sequence[ModelMessage]) -> Iterator[Turn]:
    for message in history[after_last(history, lambda message: not isinstance(message, ModelRequest)) :]:
        for part in message.parts:
            yield from _request_turns(part)


def _request_turns(part: Any) -> Iterator[Turn]:
    if isinstance(part, UserPromptPart):
        yield from _prompt_turns(part.content)
    elif isinstance(part, SpeechPart):
        yield Turn("user", part.content)


def _prompt_turns(content: Any) -> Iterator[Turn]:
    for part in [content] if isinstance(content, str) else content or ():
        text = part.content if isinstance(part, TextContent) else part
        if isinstance(text, str):
            yield Turn("user", text)


def _response_turns(response: ModelResponse) -> Iterator[Turn]:
    text = ""
    for part in response.parts:
        if isinstance(part, TextPart):
            text += part.content
        elif isinstance(part, SpeechPart):
            yield Turn(
                "primary", part.content, extra={"interrupted": True} if part.interrupted_at_ms is not None else {}
            )
        elif text:
            # The provider ran a tool, and the model resumes after it. The turn ends before the tool.
            yield Turn("primary", text)
            text = ""
    yield Turn("primary", text)


def _with_output(turns: list[Turn], new: Sequence[ModelMessage], output: Any) -> list[Turn]:
    """Return the turns with the run's output, instead of the response text from which it was made."""
    if isinstance(output, DeferredToolRequests | BinaryContent):
        return turns
    answer = output_text(output)
    last = next((message for message in reversed(new) if isinstance(message, ModelResponse)), None)
    with_text = [turn for turn in turns if turn.text.strip()]
    if not answer.strip() or last is None or any(isinstance(part, SpeechPart) for part in last.parts):
        return with_text
    made_from_text = any(isinstance(part, TextPart) for part in last.parts) and not any(
        isinstance(part, ToolCallPart) for part in last.parts
    )
    if with_text and with_text[-1].speaker == "primary" and (made_from_text or with_text[-1].text == answer):
        with_text.pop()
    return [*with_text, Turn("primary", answer)]


def _is_rejected(later: Sequence[ModelMessage]) -> bool:
    """Return whether the run rejected a response, given the messages after it."""
    # Besides tool calls, only this feedback makes a run request another response.
    return bool(later) and any(
        part.part_kind == "retry-feedback" or (part.part_kind == "retry-prompt" and part.tool_name is None)
        for part in later[0].parts
    )
