"""Pipecat: turns of a pipeline are recorded, and notes reach the model with each user turn, or as a tool.

>>> aggregators = LLMContextAggregatorPair(LLMContext())
>>> record_turns(aggregators, recorder, session_id)
>>> notes = NotesProcessor(primary, session_id, max_turns_behind=4)
>>> Pipeline([transport.input(), stt, aggregators.user(), notes, llm, tts, transport.output(), aggregators.assistant()])

Nothing in this module delays the audio: turns are recorded in the background, and reading the notes takes at most the
client's timeout.
"""

from datetime import UTC, datetime
from typing import Unpack, cast

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._feeds import FeedOptions, Feeds, is_notes
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_binding import NotesOptions, ToolBinding
from session_notes.integrations.tools import AsyncNotesTool

try:
    from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
    from pipecat.frames.frames import Frame, LLMContextFrame
    from pipecat.processors.aggregators.llm_context import LLMContext, LLMContextMessage, standard_message_text
    from pipecat.processors.aggregators.llm_response_universal import (
        AssistantTurnStoppedMessage,
        LLMAssistantAggregator,
        LLMContextAggregatorPair,
        LLMUserAggregator,
        UserTurnMessageAddedMessage,
    )
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.services.llm_service import FunctionCallParams
except ImportError as error:
    raise missing_extra(__name__, error) from error


def notes_tool(client: AsyncPrimaryClient, session_id: str, **options: Unpack[NotesOptions]) -> FunctionSchema:
    """Make a tool that reads a session's notes, for `LLMContext(tools=[...])`, which also registers its handler.

    The model cannot choose the session. The results are those of `AsyncNotesTool`, including
    `{"ready": False, "reason": "unavailable"}` during an outage.

    Args:
        client: Reads the notes. Open it in the event loop in which the pipeline runs.
        session_id: The session id.
        **options: Options of `AsyncNotesTool`: `observer` or `observers`, `min_severity`, `max_age`,
            `max_snapshot_age`, `max_turns_behind`, `name`, `description`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or the session id has the wrong type.
    """
    binding = ToolBinding(AsyncNotesTool, client, session_id, options)

    async def read(call: FunctionCallParams) -> None:
        await call.result_callback(await binding.tool_for(None).call())

    return FunctionSchema(binding.name, binding.description, properties={}, required=[], handler=read)


def record_turns(aggregators: LLMContextAggregatorPair, recorder: Recorder, session_id: str) -> None:
    """Record every turn of a pipeline, and submit an observer run after each user turn.

    A turn's `time` is when its speaker began, so that an observer can sort a transcript that arrives late. If the user
    interrupts an answer, its turn has the words spoken before, and `extra={"interrupted": True}`. An error is logged,
    and never reaches the pipeline.

    Args:
        aggregators: The aggregators of the pipeline. The assistant's must follow the output, to have the spoken words.
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """
    hook = RecordingHook(recorder, session_id)

    async def record_user(aggregator: LLMUserAggregator, message: UserTurnMessageAddedMessage) -> None:
        with ErrorBoundary():
            hook.record(None, [Turn("user", message.content, time=_time(message.timestamp))])

    async def record_answer(aggregator: LLMAssistantAggregator, message: AssistantTurnStoppedMessage) -> None:
        with ErrorBoundary():
            if message.content:  # An immediate interruption leaves it empty.
                extra = {"interrupted": True} if message.interrupted else {}
                turn = Turn("primary", message.content, time=_time(message.timestamp), extra=extra)
                hook.record(None, [turn], observe=False)

    aggregators.user().add_event_handler("on_user_turn_message_added", record_user)
    aggregators.assistant().add_event_handler("on_assistant_turn_stopped", record_answer)


class NotesProcessor(FrameProcessor):
    """A processor between the user aggregator and the LLM service that adds the notes to the model's context.

    The context has the notes in one message, after the user's. It is replaced when the notes change, so an unchanged
    context stays in the prompt cache. During an outage, the last notes stay.

    Args:
        client: Reads the notes. Open it in the event loop in which the pipeline runs.
        session_id: The session id.
        **options: Options of `NotesFeed`: `observers`, `min_severity`, `max_chars`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or another argument is invalid.
    """

    def __init__(self, client: AsyncPrimaryClient, session_id: str, **options: Unpack[FeedOptions]) -> None:
        super().__init__()
        self._feeds = Feeds(client, session_id, options)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Add the notes to a context on its way to the LLM service. Pass on every frame."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame) and direction is FrameDirection.DOWNSTREAM:
            text = await self._feeds.text()
            with ErrorBoundary("no notes for the prompt"):
                _put(frame.context, text)
        await self.push_frame(frame, direction)


def _put(context: LLMContext, text: str) -> None:
    """Make the text the only notes in a context, at its end unless it already has them."""
    messages = context.get_messages()
    notes = [message for message in messages if is_notes(standard_message_text(message))]
    if [standard_message_text(message) for message in notes] != ([text] if text else []):
        kept = [message for message in messages if message not in notes]
        # Not the user's role, in which other processors expect speech.
        new = [cast(LLMContextMessage, {"role": "developer", "content": text})] if text else []
        context.set_messages(kept + new)


def _time(timestamp: str) -> datetime:
    """Return when a turn began, or now for a message added outside a turn, for which Pipecat has no time."""
    return datetime.fromisoformat(timestamp) if timestamp else datetime.now(UTC)
