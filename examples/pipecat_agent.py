"""A voice agent with Pipecat. Its model can read an observer's notes on the call.

    pip install . 'pipecat-ai[runner,webrtc]'                # in a checkout
    OPENAI_API_KEY=... python examples/pipecat_agent.py      # then open http://localhost:7860/client

It uses the sidecar at SESSION_NOTES_TARGET. Without a sidecar, the call works as usual, but without notes.
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
from voice import INSTRUCTIONS, observed_call, spoken_turn

TRANSPORTS = {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}


def context_with_notes(llm: LLMService[Any], notes: AsyncNotesTool) -> LLMContext:
    """Return a context whose model has the notes tool."""

    async def read(call: FunctionCallParams) -> None:
        await call.result_callback(await notes.call())

    llm.register_function(notes.name, read)
    tool = FunctionSchema(notes.name, notes.description, properties={}, required=[])
    return LLMContext(tools=ToolsSchema(standard_tools=[tool]))


def record_turns(aggregators: LLMContextAggregatorPair, recorder: TurnRecorder, session_id: str) -> None:
    """Record every turn of a pipeline, and submit a run after each user turn."""

    async def record_user(aggregator: LLMUserAggregator, message: UserTurnMessageAddedMessage) -> None:
        recorder.record(session_id, spoken_turn("user", message.content, _time(message.timestamp)))

    async def record_answer(aggregator: LLMAssistantAggregator, message: AssistantTurnStoppedMessage) -> None:
        # The aggregator follows the output, so this is the spoken part. An immediate interruption leaves it empty.
        if message.content:
            turn = spoken_turn("primary", message.content, _time(message.timestamp), interrupted=message.interrupted)
            recorder.record(session_id, turn, observe=False)

    aggregators.user().add_event_handler("on_user_turn_message_added", record_user)
    aggregators.assistant().add_event_handler("on_assistant_turn_stopped", record_answer)


def _time(timestamp: str) -> datetime:
    """Return when a turn began, or now for a message added outside a turn, for which Pipecat has no time."""
    return datetime.fromisoformat(timestamp) if timestamp else datetime.now(UTC)


async def run_call(transport: BaseTransport, session_id: str) -> None:
    """Run the pipeline of one call until the caller disconnects."""
    key = os.environ["OPENAI_API_KEY"]
    llm = OpenAILLMService(api_key=key, settings=OpenAILLMService.Settings(system_instruction=INSTRUCTIONS))
    async with observed_call(session_id) as (notes, recorder):
        aggregators = LLMContextAggregatorPair(
            context_with_notes(llm, notes), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
        )
        record_turns(aggregators, recorder, session_id)
        pipeline = Pipeline(
            [
                transport.input(),
                OpenAISTTService(api_key=key),
                aggregators.user(),
                llm,
                OpenAITTSService(api_key=key),
                transport.output(),
                aggregators.assistant(),
            ]
        )
        worker = PipelineWorker(pipeline)

        async def end_call(transport: BaseTransport, client: object) -> None:
            await worker.cancel()

        transport.add_event_handler("on_client_disconnected", end_call)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()


async def bot(arguments: RunnerArguments) -> None:
    """Handle one call. Pipecat's runner calls this function by its name."""
    await run_call(await create_transport(arguments, TRANSPORTS), arguments.session_id or uuid.uuid4().hex)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
