"""Pydantic AI: a tool that reads the notes, and a capability that records each run and submits one of the observer.

>>> agent = Agent(
...     "openai:gpt-5",
...     deps_type=Caller,
...     tools=[notes_tool(primary, lambda run: run.deps.session_id, max_turns_behind=2)],
...     capabilities=[Observed(recorder, lambda run: run.deps.session_id)],
... )
>>> await agent.run("I want my money back.", deps=Caller("session-1"))

At the end of a run, the capability records in order:

- The user's turn: each text of the prompt, including `TextContent`; unanswered messages of the user at the end of
  `message_history`; and messages that the run received while it was in flight.
- The text of each response, including text before a tool call.
- The output. It replaces the text that it was made from; the output of a tool follows that text. Structured output is
  recorded as JSON.

Tool calls and their results, thinking, images, files, instructions, the request for an approval
(`DeferredToolRequests`), and responses that an output validator rejected are not recorded. The transcripts of a
realtime session are recorded when it ends. An answer that the user interrupted has `extra={"interrupted": True}`.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._arguments import check_client
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
"""A session id, or a function that returns it for a run's context, such as from its `deps`."""


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId, **options: Unpack[NotesOptions]) -> Tool[Any]:
    """Make a tool for `Agent(tools=[...])` that reads the notes on the session.

    The model cannot choose another session. Results are those of `AsyncNotesTool`: during an outage,
    `{"ready": False, "reason": "unavailable"}`.

    Args:
        client: Reads the notes; opened in the loop that the agent runs in.
        session_id: The session id, or a function that returns it for the run's context.
        **options: Options of `AsyncNotesTool`: `observer`, `max_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`.
    """
    check_client(client, AsyncPrimaryClient)
    binding = ToolBinding(partial(AsyncNotesTool, client), session_id, options)

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
    """A capability that records the turns of each run and then submits a run of the observer.

    It never delays a run, changes it, or raises. A run without a result is not recorded.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that returns it for the run's context.

    Raises:
        InvalidArgument: If the recorder is of another kind.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId) -> None:
        self._hook = RecordingHook(recorder, session_id)
        self._unanswered: list[Turn] = []

    async def for_run(self, ctx: RunContext[Any]) -> "Observed":
        """Keep the unanswered messages of the history. Pydantic AI calls this before a run.

        They are kept as received: a history processor may later put a summary in front of the prompt.
        """
        observed = copy(self)
        with ErrorBoundary():
            observed._unanswered = list(_unanswered(ctx.messages))
        return observed

    async def after_run(self, ctx: RunContext[Any], *, result: AgentRunResult[Any]) -> AgentRunResult[Any]:
        """Record the run. Pydantic AI calls this with its result."""
        with ErrorBoundary():
            self._hook.record(ctx, _turns(self._unanswered, ctx.prompt, result))
        return result


def _turns(unanswered: list[Turn], prompt: Any, result: AgentRunResult[Any]) -> list[Turn]:
    """Return the turns of a run, after the earlier messages that were not answered."""
    new = result.new_messages()
    # Messages that a history processor inserted, such as a summary, have no run id.
    new = [message for message in new if message.run_id] or new
    prompts = [part for message in new for part in message.parts if isinstance(part, UserPromptPart)]
    sent = next((part for part in prompts if part.content == prompt), prompts[0] if prompt and prompts else None)
    # The prompt as the application gave it: a processor may have changed the part that was sent.
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
            # The model resumes after a tool that the provider ran: a turn ends before the tool.
            yield Turn("primary", text)
            text = ""
    yield Turn("primary", text)


def _with_output(turns: list[Turn], new: Sequence[ModelMessage], output: Any) -> list[Turn]:
    """Return the turns with the run's output, in place of the response text that it was made from."""
    if isinstance(output, DeferredToolRequests | BinaryContent):
        return turns
    answer = output_text(output)
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


def _is_rejected(later: Sequence[ModelMessage]) -> bool:
    """Return whether the run asked for another response, given the messages after this one."""
    # Without a tool call, only this feedback makes a run ask for another response.
    return bool(later) and any(
        part.part_kind == "retry-feedback" or (part.part_kind == "retry-prompt" and part.tool_name is None)
        for part in later[0].parts
    )
