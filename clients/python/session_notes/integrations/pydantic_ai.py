"""Pydantic AI: a tool that reads the notes, and a capability that records each run and has an observer look.

>>> agent = Agent(
...     "openai:gpt-5",
...     deps_type=Caller,
...     tools=[notes_tool(primary, lambda run: run.deps.session_id, max_turns_behind=2)],
...     capabilities=[Observed(recorder, lambda run: run.deps.session_id)],
... )
>>> await agent.run("I want my money back.", deps=Caller("session-1"))

Recorded at the end of a run, in order:

- the user's words: each text of the prompt, `TextContent` too; messages of the user at the end of `message_history`,
  which nothing has answered; what the run was given while it ran.
- the text of each response, the one before a tool call included.
- the output: instead of the text that it was made of, or after it where a tool has made it; a structured one as JSON.

Not recorded: tool calls and their results, thinking, images and files, instructions, the request for an approval
(`DeferredToolRequests`), and a response that an output validator has refused. Of a realtime session, the transcripts
are recorded at its end; an answer that the user broke into has `extra={"interrupted": True}`.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._binding import (
    NotesOptions,
    Recorder,
    RecordingHook,
    check_client,
    check_session_id,
    guarded,
    session_of,
    text_of,
)
from session_notes.integrations.tools import DESCRIPTION, NAME, AsyncNotesTool, parameters

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
    raise ImportError("this needs pydantic-ai-slim: pip install '.[pydantic-ai]' in its checkout") from error

SessionId = str | Callable[[RunContext[Any]], str]
"""A session's id, or a function that finds it in the run's context, such as in its `deps`."""


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]) -> Tool[Any]:
    """Make a tool for `Agent(tools=[...])` that reads the notes on the session. The model cannot choose another.

    It answers as `AsyncNotesTool` does: an outage is `{"ready": False, "reason": "unavailable"}`.

    Args:
        client: The client to read with; opened in the loop that the agent runs in.
        session_id: The session, or a function that finds it in the run's context.
        **options: As for `AsyncNotesTool`: `observer`, `max_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is no `AsyncPrimaryClient`.
    """
    check_client(client, AsyncPrimaryClient)
    check_session_id(session_id)

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
    """A capability that records what the user and the agent said, and has an observer look at it, after each run.

    It holds up no run, changes nothing, and raises nothing. A run that ends without a result leaves nothing.

    Args:
        recorder: A `TurnRecorder` or `AsyncTurnRecorder`: records, and submits.
        session_id: The session, or a function that finds it in the run's context.

    Raises:
        InvalidArgument: If the recorder is of another kind.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId) -> None:
        self._hook = RecordingHook(recorder, session_id)
        self._earlier: list[Turn] = []

    async def for_run(self, ctx: RunContext[Any]) -> "Observed":
        """Called by Pydantic AI before a run: keep the words that nothing has answered, as they were handed over.

        A history processor may put a summary in front of the prompt, which the user has not said.
        """
        observed = copy(self)
        with guarded():
            observed._earlier = list(_unanswered(ctx.messages))
        return observed

    async def after_run(self, ctx: RunContext[Any], *, result: AgentRunResult[Any]) -> AgentRunResult[Any]:
        """Called by Pydantic AI with the result."""
        with guarded():
            self._hook.record(ctx, _conversation(self._earlier, ctx.prompt, result))
        return result


def _conversation(earlier: list[Turn], prompt: Any, result: AgentRunResult[Any]) -> list[Turn]:
    """Return all that was said in a run, with the words from before it that nothing has answered."""
    new = result.new_messages()
    # What a history processor has put in, such as a summary, is of no run.
    new = [message for message in new if message.run_id] or new
    prompts = [part for message in new for part in message.parts if isinstance(part, UserPromptPart)]
    given = next((part for part in prompts if part.content == prompt), prompts[0] if prompt and prompts else None)
    # The prompt as it was given, since a processor may have changed it.
    turns = [*earlier, *_words(prompt)]
    for number, message in enumerate(new):
        if isinstance(message, ModelRequest):
            turns += [turn for part in message.parts if part is not given for turn in _request_turns(part)]
        elif not _is_refused(new[number + 1 :]):
            turns += _response_turns(message)
    return [turn for turn in _with_output(turns, new, result.output) if turn.text.strip()]


def _unanswered(history: Sequence[ModelMessage]) -> Iterator[Turn]:
    start = len(history)
    while start > 0 and isinstance(history[start - 1], ModelRequest):
        start -= 1
    for message in history[start:]:
        for part in message.parts:
            yield from _request_turns(part)


def _request_turns(part: Any) -> Iterator[Turn]:
    if isinstance(part, UserPromptPart):
        yield from _words(part.content)
    elif isinstance(part, SpeechPart):
        yield Turn("user", part.content)


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
            # A tool of the provider's in between: what follows is said when it has answered.
            yield Turn("primary", text)
            text = ""
    yield Turn("primary", text)


def _with_output(turns: list[Turn], new: Sequence[ModelMessage], output: Any) -> list[Turn]:
    if isinstance(output, DeferredToolRequests | BinaryContent):
        return turns
    answer = text_of(output)
    last = next((message for message in reversed(new) if isinstance(message, ModelResponse)), None)
    spoken = [turn for turn in turns if turn.text.strip()]
    if not answer.strip() or last is None or any(isinstance(part, SpeechPart) for part in last.parts):
        return spoken
    made_of_text = any(isinstance(part, TextPart) for part in last.parts) and not any(
        isinstance(part, ToolCallPart) for part in last.parts
    )
    if spoken and spoken[-1].speaker == "primary" and (made_of_text or spoken[-1].text == answer):
        spoken.pop()
    return [*spoken, Turn("primary", answer)]


def _is_refused(later: Sequence[ModelMessage]) -> bool:
    # Of the run's own messages, only such feedback asks for another response where no tool was called.
    return bool(later) and any(
        part.part_kind == "retry-feedback" or (part.part_kind == "retry-prompt" and part.tool_name is None)
        for part in later[0].parts
    )


def _words(content: Any) -> Iterator[Turn]:
    for part in [content] if isinstance(content, str) else content or ():
        text = part.content if isinstance(part, TextContent) else part
        if isinstance(text, str):
            yield Turn("user", text)
