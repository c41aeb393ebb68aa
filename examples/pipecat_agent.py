"""A voice agent with Pipecat, whose model can read what an observer noted about the call.

    pip install session-notes 'pipecat-ai[runner,webrtc]'
    OPENAI_API_KEY=... python examples/pipecat_agent.py      # then open http://localhost:7860/client

The sidecar is that of SESSION_NOTES_TARGET. Without it the conversation goes on all the same, just without notes.
"""

import os
import uuid
from datetime import UTC, datetime
from typing import Any

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMAssistantAggregator,
    LLMContextAggregatorPair,
    LLMUserAggregator,
    LLMUserAggregatorParams,
    UserTurnMessageAddedMessage,
)
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.llm_service import FunctionCallParams, LLMService
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner
from session_notes import TurnRecorder
from session_notes.integrations.tools import AsyncNotesTool
from voice import INSTRUCTIONS, listening_in, turn

TRANSPORTS = {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}


def context_with_notes(llm: LLMService[Any], notes: AsyncNotesTool) -> LLMContext:
    """The conversation's context: its model has a tool that reads the notes."""

    async def read(call: FunctionCallParams) -> None:
        await call.result_callback(await notes.call())

    llm.register_function(notes.name, read)
    tool = FunctionSchema(notes.name, notes.description, properties={}, required=[])
    return LLMContext(tools=ToolsSchema(standard_tools=[tool]))


def take_down(turns: LLMContextAggregatorPair, recorder: TurnRecorder, session_id: str) -> None:
    """Have every turn recorded as it was said, and an observer look after each one of the user's."""

    async def heard(aggregator: LLMUserAggregator, message: UserTurnMessageAddedMessage) -> None:
        recorder.record(session_id, turn("user", message.content, _time(message.timestamp)))

    async def said(aggregator: LLMAssistantAggregator, message: AssistantTurnStoppedMessage) -> None:
        # The aggregator is behind the output, so this is what was spoken: nothing, where the user broke in at once.
        if message.content:
            answer = turn("primary", message.content, _time(message.timestamp), interrupted=message.interrupted)
            recorder.record(session_id, answer, observe=False)

    turns.user().add_event_handler("on_user_turn_message_added", heard)
    turns.assistant().add_event_handler("on_assistant_turn_stopped", said)


def _time(timestamp: str) -> datetime:
    """Return when a turn began. Pipecat has no time for a message that is written outside of a turn."""
    return datetime.fromisoformat(timestamp) if timestamp else datetime.now(UTC)


async def talk(transport: BaseTransport, session_id: str) -> None:
    """One call, from its first word to its last."""
    key = os.environ["OPENAI_API_KEY"]
    llm = OpenAILLMService(api_key=key, settings=OpenAILLMService.Settings(system_instruction=INSTRUCTIONS))
    async with listening_in(session_id) as (notes, recorder):
        turns = LLMContextAggregatorPair(
            context_with_notes(llm, notes), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
        )
        take_down(turns, recorder, session_id)
        pipeline = Pipeline(
            [
                transport.input(),
                OpenAISTTService(api_key=key),
                turns.user(),
                llm,
                OpenAITTSService(api_key=key),
                transport.output(),
                turns.assistant(),
            ]
        )
        worker = PipelineWorker(pipeline)

        async def hung_up(transport: BaseTransport, client: object) -> None:
            await worker.cancel()

        transport.add_event_handler("on_client_disconnected", hung_up)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()


async def bot(arguments: RunnerArguments) -> None:
    """Called by Pipecat's runner for each caller."""
    await talk(await create_transport(arguments, TRANSPORTS), arguments.session_id or uuid.uuid4().hex)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
