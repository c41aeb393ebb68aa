"""The examples with Pipecat and LiveKit Agents: the real pipelines, in text mode with scripted models."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import livekit_agent
import pipecat_agent
import pytest
import voice
from livekit.agents import AgentSession, ConversationItemAddedEvent, RunResult, llm
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    FunctionCallFromLLM,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    StartFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
    UserTurnMessageAddedMessage,
)
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from session_notes import Notes, ObserverClient, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations.tools import AsyncNotesTool

from tests.integrations.frameworks.livekit_models import ANSWER, ScriptedLLM
from tests.integrations.frameworks.support import Analysis, MemoryRecorder, promptly, stored_utterances, summary
from tests.peers import Proxy
from tests.support import Sidecar, eventually

QUESTION = "I want my money back."


@pytest.fixture
async def call_parts(
    sidecar: Sidecar, session_id: str, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[AsyncNotesTool, TurnRecorder]]:
    """The tool and the recorder of a call, on the shared sidecar."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    async with voice.observed_call(session_id, analysis) as parts:
        yield parts


async def livekit_call(notes: AsyncNotesTool, recorder: TurnRecorder, session_id: str) -> Any:
    """Run one exchange with LiveKit's agent and return the result of its tool."""
    async with ScriptedLLM() as model, AgentSession[Any](llm=model) as session:
        livekit_agent.record_turns(session, recorder, session_id)
        await session.start(livekit_agent.agent_with_notes(notes))
        result: RunResult[None] = await session.run(user_input=QUESTION)
        result.expect.next_event().is_function_call(name="get_session_notes")
        tool_result = result.expect.next_event().is_function_call_output().event().item.output
        result.expect.next_event().is_message(role="assistant")
        return tool_result


class ScriptedService(LLMService[Any]):
    """A scripted language model for Pipecat: it calls the notes tool, and answers once it has the result."""

    def __init__(self) -> None:
        super().__init__()
        self.tool_result: Any = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Run the next step of the script for each context."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        messages: list[Any] = frame.context.get_messages()
        results = [message["content"] for message in messages if message["role"] == "tool"]
        if results:
            self.tool_result = results[-1]
            await self.push_frame(LLMTextFrame(ANSWER))
        else:
            arguments = {"session_id": "other"}
            await self.run_function_calls([FunctionCallFromLLM("get_session_notes", "1", arguments, frame.context)])
        await self.push_frame(LLMFullResponseEndFrame())


async def pipecat_call(notes: AsyncNotesTool, recorder: TurnRecorder, session_id: str) -> Any:
    """Run one exchange with Pipecat's agent and return the result of its tool."""
    model = ScriptedService()
    aggregators = LLMContextAggregatorPair(
        pipecat_agent.context_with_notes(model, notes),
        user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
    )
    pipecat_agent.record_turns(aggregators, recorder, session_id)
    worker = PipelineWorker(
        Pipeline([aggregators.user(), model, aggregators.assistant()]), cancel_on_idle_timeout=False
    )
    started, answered = asyncio.Event(), asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
    aggregators.assistant().add_event_handler(
        "on_assistant_turn_stopped", lambda _, message: answered.set() if message.content else None
    )

    async def speak() -> None:
        await started.wait()
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
    return model.tool_result


class SilentTransport(BaseTransport):
    """A silent connection that the caller closes as soon as the pipeline has started."""

    def __init__(self) -> None:
        super().__init__()
        self._register_event_handler("on_client_disconnected")

    def input(self) -> FrameProcessor:
        """Return the processor on the caller's side."""
        return IdentityFilter()  # type: ignore[no-untyped-call]

    def output(self) -> FrameProcessor:
        """Return the processor on the agent's side, which starts last."""
        transport = self

        class Disconnect(IdentityFilter):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, StartFrame):
                    await transport._call_event_handler("on_client_disconnected", None)

        return Disconnect()  # type: ignore[no-untyped-call]


async def test_pipecat_call(sidecar: Sidecar, session_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example runs unchanged, with its speech services, from the first frame to the end of the call."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    await asyncio.wait_for(pipecat_agent.run_call(SilentTransport(), session_id), 30)


CALLS = pytest.mark.parametrize("call", [livekit_call, pipecat_call])


@CALLS
async def test_call_reads_notes_and_records_turns(
    call: Any,
    call_parts: tuple[AsyncNotesTool, TurnRecorder],
    analysis: Analysis,
    observer: ObserverClient,
    primary: PrimaryClient,
    session_id: str,
) -> None:
    """The model reads the notes of the application's session, and the turns of both sides lead to new notes."""
    with observer.run(session_id) as run:
        run.write(Notes(summary="Called before."))
    analysis.released.clear()
    assert "Called before." in await call(*call_parts, session_id)
    assert summary(primary, session_id) == "Called before."
    analysis.released.set()
    eventually(lambda: summary(primary, session_id) in ("1 turns", "2 turns"), 20)
    eventually(lambda: stored_utterances(primary, session_id) == [("user", QUESTION), ("primary", ANSWER)], 20)


@CALLS
async def test_outage_does_not_delay_a_call(
    call: Any,
    proxy: Proxy,
    primary: PrimaryClient,
    session_id: str,
    analysis: Analysis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the sidecar hangs, the model gets `unavailable` after 150 ms, and the call continues."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", proxy.target)
    async with voice.observed_call(session_id, analysis) as (notes, recorder):
        recorder.record(session_id, Turn("user", "Hello."))
        eventually(lambda: summary(primary, session_id) == "1 turns", 20)
        assert (await notes.call())["ready"]
        proxy.drop_replies()
        with promptly():
            assert "unavailable" in await call(notes, recorder, session_id)


async def test_pipecat_turn_times_and_interruptions(
    call_parts: tuple[AsyncNotesTool, TurnRecorder], session_id: str
) -> None:
    """Each turn has its start time; an interrupted answer has the words before the interruption."""
    began = datetime.now(UTC)
    recorder: Any = MemoryRecorder()
    await pipecat_call(call_parts[0], recorder, session_id)
    user, answer = recorder.turns
    assert (user.text, user.extra, answer.text, answer.extra) == (QUESTION, {}, ANSWER, {})
    assert user.time is not None
    assert answer.time is not None
    assert began - timedelta(milliseconds=1) <= user.time <= answer.time <= datetime.now(UTC)

    aggregators = LLMContextAggregatorPair(LLMContext())
    pipecat_agent.record_turns(aggregators, recorder, session_id)
    for content in ("What did", ""):
        interrupted_answer = AssistantTurnStoppedMessage(
            content, interrupted=True, timestamp="2026-01-01T00:00:01.500+00:00"
        )
        await aggregators.assistant()._call_event_handler("on_assistant_turn_stopped", interrupted_answer)
    await aggregators.user()._call_event_handler("on_user_turn_message_added", UserTurnMessageAddedMessage("So?", ""))
    await recorder.wait_for_turns(4)
    cut, late = sorted(recorder.turns[2:], key=lambda turn: turn.text, reverse=True)
    assert (cut.text, cut.extra, cut.time) == (
        "What did",
        {"interrupted": True},
        datetime(2026, 1, 1, 0, 0, 1, 500_000, UTC),
    )
    assert late.time is not None


@pytest.mark.parametrize("interrupted", [False, True])
async def test_livekit_turn_times_and_interruptions(interrupted: bool) -> None:
    """Each turn has its start time, so that a late transcript of the user can be sorted before the answer."""
    recorder: Any = MemoryRecorder()
    async with ScriptedLLM() as model, AgentSession[Any](llm=model) as session:
        livekit_agent.record_turns(session, recorder, "session-1")
        metrics: Any = {"started_speaking_at": 1000.5}
        for message in (
            llm.ChatMessage(role="assistant", content=["What did"], interrupted=interrupted, created_at=1010),
            llm.ChatMessage(role="user", content=[QUESTION], created_at=1011, metrics=metrics),
        ):
            session.emit("conversation_item_added", ConversationItemAddedEvent(item=message))
    answer, user = recorder.turns
    assert (answer.text, answer.extra) == ("What did", {"interrupted": True} if interrupted else {})
    assert answer.time == datetime.fromtimestamp(1010, UTC)
    assert (user.text, user.extra, user.time) == (QUESTION, {}, datetime.fromtimestamp(1000.5, UTC))
