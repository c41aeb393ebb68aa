"""LiveKit Agents: turns of a session are recorded, and notes reach the model with each user turn, or as a tool.

>>> class Support(Agent):
...     def __init__(self, notes: TurnNotes) -> None:
...         super().__init__(instructions="...")
...         self._notes = notes
...
...     async def on_user_turn_completed(self, turn_ctx: ChatContext, new_message: ChatMessage) -> None:
...         await self._notes.add_to(turn_ctx)
>>> record_turns(session, recorder, session_id)
>>> await session.start(Support(TurnNotes(primary, session_id, max_turns_behind=4)), room=job.room)

Nothing in this module delays the audio: turns are recorded in the background, and reading the notes takes at most the
client's timeout.
"""

from datetime import UTC, datetime
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._feeds import FeedOptions, Feeds, is_notes
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations.tools import AsyncNotesTool, parameters

try:
    from livekit.agents import AgentSession, ChatContext, ChatMessage, ConversationItemAddedEvent, function_tool
    from livekit.agents.llm import Tool
except ImportError as error:
    raise missing_extra(__name__, error) from error


def notes_tool(client: AsyncPrimaryClient, session_id: str, **options: Unpack[NotesOptions]) -> Tool:
    """Make a tool that reads a session's notes, for `Agent(tools=[...])`.

    The model cannot choose the session. The results are those of `AsyncNotesTool`, including
    `{"ready": False, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. Open it in the event loop in which the session runs.
        session_id: The session id.
        **options: Options of `AsyncNotesTool`: `observer` or `observers`, `min_severity`, `max_age`,
            `max_snapshot_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or the session id has the wrong type.
    """
    binding = ToolBinding(AsyncNotesTool, client, session_id, options)

    async def read(raw_arguments: dict[str, object]) -> dict[str, Any]:
        return await binding.tool_for(None).call()

    schema = {"name": binding.name, "description": binding.description, "parameters": parameters()}
    return function_tool(read, raw_schema=schema)


def record_turns(session: AgentSession[Any], recorder: Recorder, session_id: str) -> None:
    """Record every turn of a session, and submit an observer run after each user turn.

    A turn's `time` is when its speaker began, so that an observer can sort a transcript that arrives late. If the user
    interrupts an answer, its turn has the words that were played, and `extra={"interrupted": True}`. An error is
    logged, and never reaches the session.

    Args:
        session: The session, before or after its start.
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """
    hook = RecordingHook(recorder, session_id)

    @session.on("conversation_item_added")
    def record(event: ConversationItemAddedEvent) -> None:
        with ErrorBoundary():
            item = event.item
            if isinstance(item, ChatMessage) and item.role in ("user", "assistant") and item.text_content:
                # LiveKit repeats the event if a realtime model reports an item again.
                hook.record_once(None, [(item.id, _turn(item, item.text_content))], observe=item.role == "user")


class TurnNotes:
    """The notes on a session, added to the context of each turn.

    They are at its end, after the user's message, as a message of their own. LiveKit discards this context after the
    turn, so notes never enter the conversation's history. During an outage, a turn has the last notes.

    Args:
        client: Reads the notes. Open it in the event loop in which the session runs.
        session_id: The session id.
        **options: Options of `NotesFeed`: `observers`, `min_severity`, `max_chars`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or another argument is invalid.
    """

    def __init__(self, client: AsyncPrimaryClient, session_id: str, **options: Unpack[FeedOptions]) -> None:
        self._feeds = Feeds(client, session_id, options)

    async def add_to(self, turn_ctx: ChatContext) -> None:
        """Add the notes to a turn's context, in `on_user_turn_completed` or `llm_node`. Never raise.

        Notes that an earlier call added are replaced.
        """
        text = await self._feeds.text()
        with ErrorBoundary("no notes for the prompt"):
            turn_ctx.items[:] = [item for item in turn_ctx.items if not _has_notes(item)]
            if text:
                # For some providers, LiveKit marks later system messages as instructions, which notes are not.
                turn_ctx.add_message(role="user", content=text)


def _has_notes(item: Any) -> bool:
    return isinstance(item, ChatMessage) and is_notes(item.text_content)


def _turn(message: ChatMessage, text: str) -> Turn:
    # A text message was not spoken, so it has only its time of arrival.
    began = datetime.fromtimestamp(message.metrics.get("started_speaking_at") or message.created_at, UTC)
    speaker = "user" if message.role == "user" else "primary"
    return Turn(speaker, text, time=began, extra={"interrupted": True} if message.interrupted else {})
