"""A voice agent with Pipecat. With each turn of the caller, its model gets an observer's notes on the call.

    pip install '.[pipecat]' 'pipecat-ai[runner,webrtc]'     # in a checkout
    OPENAI_API_KEY=... python examples/pipecat_agent.py      # then open http://localhost:7860/client

It uses the sidecar at SESSION_NOTES_TARGET. Without a sidecar, the call works as usual, but without notes.
"""

import os
import uuid

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner
from session_notes.integrations.pipecat import NotesProcessor, record_turns
from voice import INSTRUCTIONS, MAX_TURNS_BEHIND, observed_call

TRANSPORTS = {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}


async def run_call(transport: BaseTransport, session_id: str) -> None:
    """Run the pipeline of one call until the caller disconnects."""
    key = os.environ["OPENAI_API_KEY"]
    llm = OpenAILLMService(api_key=key, settings=OpenAILLMService.Settings(system_instruction=INSTRUCTIONS))
    async with observed_call() as (primary, recorder):
        aggregators = LLMContextAggregatorPair(
            LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
        )
        record_turns(aggregators, recorder, session_id)
        pipeline = Pipeline(
            [
                transport.input(),
                OpenAISTTService(api_key=key),
                aggregators.user(),
                NotesProcessor(primary, session_id, max_turns_behind=MAX_TURNS_BEHIND),
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
