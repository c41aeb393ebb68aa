"""Microsoft Agent Framework: context providers that record turns and give notes to the model, and a notes tool.

>>> agent = Agent(
...     client,
...     "...",
...     context_providers=[NotesProvider(primary, max_turns_behind=4), ObserverProvider(recorder)],
... )
>>> await agent.run("I want my money back.", session=AgentSession(session_id="session-1"))

By default, the id of the `AgentSession` is the session id. Pass a session to each run: without one, the framework makes
one with a random id per run.

At the end of a run, `ObserverProvider` records, in order: the user's messages at the end of the input, and the text of
each message of the agent, including text before a tool call. Structured output is recorded as the model wrote it.

Not recorded: tool calls and their results, approvals, reasoning, images, messages that `enqueue_messages` adds during a
run, a run that fails, and a stream that is not consumed to its end. The framework does not store such a run either. In
an `AgentLoopMiddleware` loop, the input and the loop's response are recorded once, when the loop ends.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._feeds import FeedOptions, Feeds
from session_notes.integrations._messages import after_last
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._sessions import NoSession
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations.tools import AsyncNotesTool

try:
    from agent_framework import (
        AgentSession,
        ChatContext,
        ChatResponse,
        ContextProvider,
        FunctionInvocationContext,
        FunctionTool,
        Message,
        SessionContext,
        chat_middleware,
    )
except ImportError as error:
    raise missing_extra(__name__, error) from error

SessionId = str | Callable[[Any], str]
"""A session id, or a function that maps an `AgentSession` to one."""

_STORED = "stored"
"""Key in the provider's state: the id of the conversation that the service stores, and a digest of its last notes."""


def own_id(session: AgentSession | None) -> str:
    """Return the id of the framework's session, which is the default session id.

    Raises:
        InvalidArgument: If the run has no session.
    """
    if session is None:
        raise NoSession("the run has no session; pass one, or pass session_id")
    return session.session_id


def notes_tool(
    client: AsyncPrimaryClient, session_id: SessionId = own_id, **options: Unpack[NotesOptions]
) -> FunctionTool:
    """Make a tool that reads a session's notes, for `Agent(tools=[...])`.

    The model cannot choose the session. The results are those of `AsyncNotesTool`, as JSON, including
    `{"ready": false, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. Open it in the event loop in which the agent runs.
        session_id: The session id, or a function that maps the run's `AgentSession` to one.
        **options: Options of `AsyncNotesTool`: `observer` or `observers`, `min_severity`, `max_age`,
            `max_snapshot_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or the session id has the wrong type.
    """
    binding = ToolBinding(AsyncNotesTool, client, session_id, options)

    async def read(ctx: FunctionInvocationContext) -> str:
        return await binding.tool_for(ctx.session).json()

    return FunctionTool(name=binding.name, description=binding.description, func=read)


class NotesProvider(ContextProvider):
    """A context provider that adds a session's notes to the model's input, for `Agent(context_providers=[...])`.

    It reads them when a run begins. They are the last message of each model call of the run, with the role `user`, and
    never enter a history provider. In a conversation that the service stores (`service_session_id`), they remain, so
    they are added only when they have changed since a model call that succeeded. Reading them takes at most the
    client's timeout, and never raises.

    A `WorkflowAgent` has no model calls, so add the provider to the agents of its workflow. They have sessions of their
    own, so pass the session id as a string.

    Args:
        client: Reads the notes. Open it in the event loop in which the agent runs.
        session_id: The session id, or a function that maps the run's `AgentSession` to one.
        **options: Options of `NotesFeed`: `observers`, `min_severity`, `max_chars`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or another argument is invalid.
    """

    def __init__(
        self, client: AsyncPrimaryClient, session_id: SessionId = own_id, **options: Unpack[FeedOptions]
    ) -> None:
        super().__init__("session-notes")
        self._feeds = Feeds(client, session_id, options)

    async def before_run(
        self, *, session: AgentSession, context: SessionContext, state: dict[str, Any], **_: Any
    ) -> None:
        """Add the notes to the model calls of a run. The framework calls this when the run begins."""
        text = await self._feeds.text(session)
        digest = hashlib.sha256(text.encode()).hexdigest()
        # A history provider that stores each model call leaves out messages with another source.
        source = {"_attribution": {"source_id": self.source_id}}

        @chat_middleware
        async def add_notes(call: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
            # The framework updates the id in the session after each model call.
            if text and state.get(_STORED) != [session.service_session_id, digest]:
                call.messages = [*call.messages, Message("user", [text], additional_properties=source)]
            call.stream_result_hooks.append(remember)
            await call_next()
            if isinstance(call.result, ChatResponse):
                remember(call.result)

        def remember(response: ChatResponse) -> None:
            if text and response.conversation_id is not None:
                state[_STORED] = [response.conversation_id, digest]

        context.extend_middleware(self.source_id, add_notes)


class ObserverProvider(ContextProvider):
    """A context provider that records the turns of each run, then submits an observer run.

    It never delays a run, changes it, or raises. Pass it to `Agent(context_providers=[...])`. For a workflow, pass it
    to `Workflow.as_agent(context_providers=[...])`, not to its agents, whose input may come from each other.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the run's `AgentSession` to one.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    after_run_once_per_turn = True

    def __init__(self, recorder: Recorder, session_id: SessionId = own_id) -> None:
        super().__init__("session-notes-observer")
        self._hook = RecordingHook(recorder, session_id)

    async def after_run(self, *, session: AgentSession, context: SessionContext, **_: Any) -> None:
        """Record the run. The framework calls this with the response."""
        with ErrorBoundary():
            self._hook.record(session, [turn for turn in _turns(context) if turn.text.strip()])


def _turns(context: SessionContext) -> Iterator[Turn]:
    messages = context.input_messages
    for message in messages[after_last(messages, lambda message: message.role in ("assistant", "tool")) :]:
        if message.role == "user":
            yield Turn("user", _text(message, "\n"))
    for message in context.response.messages if context.response else ():
        if message.role == "assistant":
            yield Turn("primary", _text(message, ""))


def _text(message: Message, separator: str) -> str:
    return separator.join(content.text or "" for content in message.contents if content.type == "text")
