"""Google ADK: plugins that record turns and add notes to the model's requests, and a tool that reads notes.

>>> plugins = [ObserverPlugin(recorder), NotesPlugin(primary, max_turns_behind=4)]
>>> app = App(name="support", root_agent=Agent(name="support", model="gemini-flash-latest"), plugins=plugins)
>>> runner = Runner(app=app, session_service=InMemorySessionService())

By default, the ADK session's id is the session id. ADK's ids are unique only per app and user.

When a run ends, `ObserverPlugin` records from the ADK session, in order and with their times:

- The user's messages: all that follow the last recorded turn, or if none is known, as in a new process, those directly
  before the answer. They include the messages of failed runs, which ADK keeps too.
- The messages of every agent, including text before a tool call or a transfer, and structured output.
- On request, tool calls and their results.

In a live session (`run_live`), it records at the end of each of the model's turns, with the transcriptions of speech.

Not recorded: thoughts, images, files, partial events, and agents that run as tools (`AgentTool`, `mode="single_turn"`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._feeds import FeedOptions, Feeds, LatestSessions, StoredConversation
from session_notes.integrations._messages import after_last
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations._tool_calls import call_turn, result_turn
from session_notes.integrations.tools import AsyncNotesTool

try:
    from google.adk.agents import LlmAgent
    from google.adk.agents.callback_context import CallbackContext
    from google.adk.agents.invocation_context import InvocationContext
    from google.adk.agents.readonly_context import ReadonlyContext
    from google.adk.events import Event
    from google.adk.models.llm_request import LlmRequest
    from google.adk.plugins.base_plugin import BasePlugin
    from google.adk.tools.base_tool import BaseTool
    from google.adk.tools.tool_context import ToolContext
    from google.genai.types import Content, FunctionDeclaration, Part
except ImportError as error:
    raise missing_extra(__name__, error) from error

__all__ = ["NotesPlugin", "ObserverPlugin", "SessionId", "notes_tool", "own_id"]

SessionId = str | Callable[[ReadonlyContext], str]
"""A session id, or a function that maps a run's context, such as its `session` or `user_id`, to one."""

_in_tool: ContextVar[bool] = ContextVar("session_notes_in_tool", default=False)
"""Whether the current task is a tool call. ADK makes a task for each call, and `AgentTool` runs its agent in it."""


def own_id(context: ReadonlyContext) -> str:
    """Return the id of the ADK session, which is the default session id. It is unique only per app and user."""
    return context.session.id


def notes_tool(client: AsyncPrimaryClient, session_id: SessionId = own_id, **options: Unpack[NotesOptions]) -> BaseTool:
    """Make a tool that reads a session's notes, for `Agent(tools=[...])`.

    The model cannot choose the session. The results are those of `AsyncNotesTool`, including
    `{"ready": False, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. Open it in the event loop in which the agent runs.
        session_id: The session id, or a function that maps the tool's context to one.
        **options: Options of `AsyncNotesTool`: `observer` or `observers`, `min_severity`, `max_age`,
            `max_snapshot_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or the session id has the wrong type.
    """
    return _NotesTool(ToolBinding(AsyncNotesTool, client, session_id, options))


class _NotesTool(BaseTool):
    def __init__(self, binding: ToolBinding[AsyncNotesTool]) -> None:
        super().__init__(name=binding.name, description=binding.description)
        self._binding = binding

    def _get_declaration(self) -> FunctionDeclaration:
        return FunctionDeclaration(name=self.name, description=self.description)

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> dict[str, Any]:
        return await self._binding.tool_for(tool_context).call(args)


class _Plugin(BasePlugin):
    async def before_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext
    ) -> dict[str, Any] | None:
        """Mark the task of a tool call. ADK passes plugins on to agents that run in it."""
        _in_tool.set(True)
        return None


class NotesPlugin(_Plugin):
    """A plugin that adds a session's notes to the model's requests, for `App(plugins=[...])`.

    They are the last message of each request, with the role `user`. They never enter the ADK session. In a conversation
    that Google stores (`use_interactions_api`), they remain, and are added only when they have changed since a request
    that succeeded. Reading them takes at most the client's timeout, and never raises. Agents that run as tools do not
    get them. Neither do live sessions, in which ADK calls the model once: use `notes_tool` there.

    Args:
        client: Reads the notes. Open it in the event loop in which the agent runs.
        session_id: The session id, or a function that maps the callback's context to one.
        **options: Options of `NotesFeed`: `observers`, `min_severity`, `max_chars`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or another argument is invalid.
    """

    def __init__(
        self, client: AsyncPrimaryClient, session_id: SessionId = own_id, **options: Unpack[FeedOptions]
    ) -> None:
        super().__init__("session_notes")
        self._feeds = Feeds(client, session_id, options)
        # By app, user, session and agent, because Google stores a conversation for each agent.
        self._conversations = LatestSessions[tuple[str, ...], StoredConversation](lambda _: StoredConversation())

    async def before_model_callback(self, *, callback_context: CallbackContext, llm_request: LlmRequest) -> None:
        """Add the notes to a request."""
        with ErrorBoundary("no notes for the prompt"):
            # For a live session, ADK only lets plugins check the user's message, and discards the request.
            live = callback_context.get_invocation_context().live_request_queue is not None
            if not (live or _in_tool.get()):
                text = await self._feeds.text(callback_context)
                session = callback_context.session
                key = (session.app_name, session.user_id, session.id, callback_context.agent_name)
                if text := self._conversations.get(key).addition(llm_request.previous_interaction_id, text):
                    llm_request.contents.append(Content(role="user", parts=[Part(text=text)]))


class ObserverPlugin(_Plugin):
    """A plugin that records the turns of each run, then submits an observer run, for `App(plugins=[...])`.

    It never delays a run, changes it, or raises. One object can serve any number of concurrent runs. A run that fails
    is recorded with the next run of its session.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the run's context to one.
        tool_calls: Whether to record tool calls. Each call and each result counts as a turn.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    def __init__(self, recorder: Recorder, session_id: SessionId = own_id, *, tool_calls: bool = False) -> None:
        super().__init__("session_notes_observer")
        self._hook = RecordingHook(recorder, session_id)
        self._tool_calls = tool_calls

    async def after_run_callback(self, *, invocation_context: InvocationContext) -> None:
        """Record the run."""
        self._record(invocation_context)

    async def on_event_callback(self, *, invocation_context: InvocationContext, event: Event) -> None:
        """Record the turns so far of a live session, whose run takes as long as the conversation."""
        if invocation_context.live_request_queue is not None and (event.turn_complete or event.interrupted):
            self._record(invocation_context)

    def _record(self, invocation_context: InvocationContext) -> None:
        with ErrorBoundary():
            if not _in_tool.get():
                context = ReadonlyContext(invocation_context)
                # Without content: state, errors, summaries.
                events = [event for event in invocation_context.session.events if event.content or _speech(event)]
                start = self._hook.after_recorded(context, [event.id for event in events]) or _last_exchange(events)
                answering = [event for event in events[start:] if not _from_tool(event, invocation_context.agent)]
                self._hook.record_once(context, _turns(answering, self._tool_calls))


def _last_exchange(events: Sequence[Event]) -> int:
    """Return the position of the user's last messages."""
    return after_last(events[: after_last(events, _from_user)], lambda event: not _from_user(event))


def _from_user(event: Event) -> bool:
    """Return whether the user sent an event, as opposed to a node, which writes its input in the user's name."""
    return event.author == "user" and not event.node_info.path


def _from_tool(event: Event, agent: Any) -> bool:
    """Return whether an event's agent ran as a tool of another one."""
    author = agent and agent.root_agent.find_agent(event.author)
    return getattr(author, "mode", None) == "single_turn" and isinstance(author.parent_agent, LlmAgent)


def _turns(events: Sequence[Event], tool_calls: bool) -> Iterator[tuple[str, Turn]]:
    """Yield the turns of events. The first turn of an event has the event's id."""
    for event in events:
        turns = [_spoken(event)]
        if tool_calls:
            turns += [call_turn(call.name, call.args, call.id) for call in event.get_function_calls()]
            turns += [result_turn(result.response, result.id) for result in event.get_function_responses()]
        time = datetime.fromtimestamp(event.timestamp, UTC)
        for number, turn in enumerate(turn for turn in turns if turn.text.strip()):
            yield f"{event.id} {number}" if number else event.id, replace(turn, time=time)


def _spoken(event: Event) -> Turn:
    parts = event.content.parts if event.content else None
    texts = [part.text for part in parts or () if part.text and not part.thought]
    if event.author == "user":
        return Turn("user", "\n".join(texts) or _speech(event))
    return Turn("primary", "".join(texts) or _speech(event))


def _speech(event: Event) -> str:
    transcription = event.input_transcription or event.output_transcription
    return (transcription.text or "") if transcription else ""
