"""Exchanges with voice agents, for tests: the real pipelines of LiveKit Agents and Pipecat, with scripted models."""

import asyncio
from typing import Any

import livekit_agent
from livekit.agents import Agent, AgentSession, RunResult
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    FunctionCallFromLLM,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from session_notes import AsyncPrimaryClient
from session_notes.integrations import livekit, pipecat
from session_notes.integrations._feeds import is_notes
from session_notes.integrations._recording import Recorder

from tests.integrations.frameworks.livekit_models import ANSWER, Microphone, ScriptedLLM, ScriptedSTT
from tests.integrations.frameworks.support import QUESTION
from tests.support import eventually


async def livekit_call(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run one exchange with a LiveKit agent, in text mode, and return the result of its tool."""
    async with ScriptedLLM() as model, AgentSession[Any](llm=model) as session:
        livekit.record_turns(session, recorder, session_id)
        tool = livekit.notes_tool(primary, session_id, max_turns_behind=4)
        await session.start(Agent(instructions="Help.", tools=[tool]))
        result: RunResult[None] = await session.run(user_input=QUESTION)
        result.expect.next_event().is_function_call(name="get_session_notes")
        tool_result = result.expect.next_event().is_function_call_output().event().item.output
        result.expect.next_event().is_message(role="assistant")
        return tool_result


async def livekit_turn(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> list[str]:
    """Run one spoken exchange with the example's LiveKit agent, and return the messages that its model got."""
    microphone, model = Microphone(), ScriptedLLM(calls=False)
    async with (
        model,
        AgentSession[Any](llm=model, stt=ScriptedSTT(), turn_handling={"turn_detection": "manual"}) as session,
    ):
        livekit.record_turns(session, recorder, session_id)
        session.input.audio = microphone
        await session.start(livekit_agent.NotedAgent(livekit.TurnNotes(primary, session_id)))
        microphone.speak()
        await asyncio.wait_for(session.commit_user_turn(transcript_timeout=20), 30)
        await asyncio.to_thread(
            eventually, lambda: ANSWER in [message.text_content for message in session.history.messages()], 20
        )
        assert not any(
            is_notes(message.text_content)
            for context in (session.history, session.current_agent.chat_ctx)
            for message in context.messages()
        )
    return model.inputs[-1]


class ScriptedService(LLMService[Any]):
    """A scripted language model for Pipecat: it calls the notes tool, if any, and answers once it has the result."""

    def __init__(self) -> None:
        super().__init__()
        self.tool_result: Any = None
        self.inputs: list[list[str]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Run the next step of the script for each context."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        messages: list[Any] = frame.context.get_messages()
        self.inputs.append([message.get("content") for message in messages])
        results = [message["content"] for message in messages if message["role"] == "tool"]
        if results or not frame.context.tools:
            self.tool_result = results[-1] if results else None
            await self.push_frame(LLMTextFrame(ANSWER))
        else:
            arguments = {"session_id": "other"}
            await self.run_function_calls([FunctionCallFromLLM("get_session_notes", "1", arguments, frame.context)])
        await self.push_frame(LLMFullResponseEndFrame())


async def pipecat_exchange(
    context: LLMContext, recorder: Recorder, session_id: str, *processors: FrameProcessor, turns: int = 1
) -> ScriptedService:
    """Run exchanges in a Pipecat pipeline, with processors before its model, and return the model."""
    model = ScriptedService()
    aggregators = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
    )
    pipecat.record_turns(aggregators, recorder, session_id)
    worker = PipelineWorker(
        Pipeline([aggregators.user(), *processors, model, aggregators.assistant()]), cancel_on_idle_timeout=False
    )
    started, answered = asyncio.Event(), asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
    aggregators.assistant().add_event_handler(
        "on_assistant_turn_stopped", lambda _, message: answered.set() if message.content else None
    )

    async def speak() -> None:
        await started.wait()
        for _ in range(turns):
            answered.clear()
            for frame in (
                UserStartedSpeakingFrame(),
                TranscriptionFrame(QUESTION, "caller", "2026-01-01T00:00:00Z"),
                UserStoppedSpeakingFrame(),
            ):
                await worker.queue_frame(frame)
            await asyncio.wait_for(answered.wait(), 20)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())
    return model


async def pipecat_call(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
    """Run one exchange in a Pipecat pipeline, and return the result of the model's tool."""
    context = LLMContext(tools=[pipecat.notes_tool(primary, session_id, max_turns_behind=4)])
    return (await pipecat_exchange(context, recorder, session_id)).tool_result


async def pipecat_turn(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> list[str]:
    """Run one exchange in a Pipecat pipeline with notes, and return the messages that its model got."""
    processor = pipecat.NotesProcessor(primary, session_id)
    return (await pipecat_exchange(LLMContext(), recorder, session_id, processor)).inputs[-1]
