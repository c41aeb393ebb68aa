"""The examples for Pipecat and LiveKit Agents: their own pipelines and sessions, in text, with models on a script."""

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

from tests.clients.conftest import Proxy
from tests.integrations.frameworks.conftest import Analysis, promptly, said, summary
from tests.support import Sidecar, eventually

ANSWER = "What did you order?"
ASKED = "I want my money back."


@pytest.fixture
async def listening(
    sidecar: Sidecar, session_id: str, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[AsyncNotesTool, TurnRecorder]]:
    """What the examples give a call, on the shared sidecar."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    async with voice.listening_in(session_id, analysis) as both:
        yield both


class ScriptedStream(llm.LLMStream):
    """Calls the tool, and says something once it has an answer."""

    async def _run(self) -> None:
        told = [item for item in self.chat_ctx.items if item.type == "function_call_output"]
        call = llm.FunctionToolCall(name="get_session_notes", arguments='{"session_id": "other"}', call_id="1")
        delta = llm.ChoiceDelta(role="assistant", content=ANSWER if told else None, tool_calls=[] if told else [call])
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))


class ScriptedLLM(llm.LLM[Any]):
    """A language model for LiveKit."""

    def chat(
        self, *, chat_ctx: llm.ChatContext, tools: Any = None, conn_options: Any = None, **_: Any
    ) -> llm.LLMStream:
        """Streams the next step of the script."""
        return ScriptedStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


async def livekit_call(notes: AsyncNotesTool, recorder: TurnRecorder, session_id: str) -> Any:
    """One turn of a call with LiveKit's agent; what the tool told the model."""
    async with ScriptedLLM() as model, AgentSession[Any](llm=model) as session:
        livekit_agent.take_down(session, recorder, session_id)
        await session.start(livekit_agent.agent_with_notes(notes))
        result: RunResult[None] = await session.run(user_input=ASKED)
        result.expect.next_event().is_function_call(name="get_session_notes")
        told = result.expect.next_event().is_function_call_output().event().item.output
        result.expect.next_event().is_message(role="assistant")
        return told


class ScriptedService(LLMService[Any]):
    """A language model for Pipecat: calls the tool, and says something once it has an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.told: Any = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """One step of the script for each context that comes along."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        messages: list[Any] = frame.context.get_messages()
        told = [message["content"] for message in messages if message["role"] == "tool"]
        if told:
            self.told = told[-1]
            await self.push_frame(LLMTextFrame(ANSWER))
        else:
            arguments = {"session_id": "other"}
            await self.run_function_calls([FunctionCallFromLLM("get_session_notes", "1", arguments, frame.context)])
        await self.push_frame(LLMFullResponseEndFrame())


async def pipecat_call(notes: AsyncNotesTool, recorder: TurnRecorder, session_id: str) -> Any:
    """One turn of a call with Pipecat's agent; what the tool told the model."""
    model = ScriptedService()
    turns = LLMContextAggregatorPair(
        pipecat_agent.context_with_notes(model, notes),
        user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
    )
    pipecat_agent.take_down(turns, recorder, session_id)
    worker = PipelineWorker(Pipeline([turns.user(), model, turns.assistant()]), cancel_on_idle_timeout=False)
    started, answered = asyncio.Event(), asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
    turns.assistant().add_event_handler(
        "on_assistant_turn_stopped", lambda _, message: answered.set() if message.content else None
    )

    async def speak() -> None:
        await started.wait()
        for frame in (
            UserStartedSpeakingFrame(),
            TranscriptionFrame(ASKED, "caller", "2026-01-01T00:00:00Z"),
            UserStoppedSpeakingFrame(),
        ):
            await worker.queue_frame(frame)
        await asyncio.wait_for(answered.wait(), 20)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())
    return model.told


class Line(BaseTransport):
    """A telephone line on which nobody says a word, and the caller hangs up as soon as it stands."""

    def __init__(self) -> None:
        super().__init__()
        self._register_event_handler("on_client_disconnected")

    def input(self) -> FrameProcessor:
        """The caller's side."""
        return IdentityFilter()  # type: ignore[no-untyped-call]

    def output(self) -> FrameProcessor:
        """The agent's side, which a call reaches when all before it has started."""
        line = self

        class HangsUp(IdentityFilter):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, StartFrame):
                    await line._call_event_handler("on_client_disconnected", None)

        return HangsUp()  # type: ignore[no-untyped-call]


async def test_pipecats_pipeline_starts_and_ends(
    sidecar: Sidecar, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example as it stands, speech services included, from the first frame to the end of the call."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    monkeypatch.setenv("OPENAI_API_KEY", "none: nothing is said")
    await asyncio.wait_for(pipecat_agent.talk(Line(), session_id), 30)


CALLS = pytest.mark.parametrize("call", [livekit_call, pipecat_call])


@CALLS
async def test_a_call_reads_notes_and_leaves_turns(
    call: Any,
    listening: tuple[AsyncNotesTool, TurnRecorder],
    analysis: Analysis,
    observer: ObserverClient,
    primary: PrimaryClient,
    session_id: str,
) -> None:
    """The model reads the notes of the application's session at once, and what both sides said leads to new ones."""
    with observer.run(session_id) as run:
        run.write(Notes(summary="Called before."))
    analysis.may_go.clear()
    assert "Called before." in await call(*listening, session_id)
    assert summary(primary, session_id) == "Called before."
    analysis.may_go.set()
    eventually(lambda: summary(primary, session_id) in ("1 turns", "2 turns"), 20)
    eventually(lambda: said(primary, session_id) == [("user", ASKED), ("primary", ANSWER)], 20)


@CALLS
async def test_an_outage_does_not_slow_a_call(
    call: Any,
    proxy: Proxy,
    primary: PrimaryClient,
    session_id: str,
    analysis: Analysis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sidecar that has stopped to answer: the model hears so after 150 ms, and the call goes on."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", proxy.target)
    async with voice.listening_in(session_id, analysis) as (notes, recorder):
        recorder.record(session_id, Turn("user", "Hello."))
        eventually(lambda: summary(primary, session_id) == "1 turns", 20)
        assert (await notes.call())["ready"]
        proxy.swallow_replies()
        with promptly():
            assert "unavailable" in await call(notes, recorder, session_id)


class Kept:
    """A recorder that keeps its turns."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """As `TurnRecorder.record`."""
        self.turns += turns

    async def waited(self, number: int) -> None:
        """Returns once there are so many."""
        await asyncio.to_thread(eventually, lambda: len(self.turns) >= number, 10)


async def test_pipecats_turns_say_when_they_began_and_where_they_were_broken_off(
    listening: tuple[AsyncNotesTool, TurnRecorder], session_id: str
) -> None:
    """Each has the time its speaker began; an answer that the user broke into has the words up to there."""
    began = datetime.now(UTC)
    kept: Any = Kept()
    await pipecat_call(listening[0], kept, session_id)
    user, answer = kept.turns
    assert (user.text, user.extra, answer.text, answer.extra) == (ASKED, {}, ANSWER, {})
    assert user.time is not None
    assert answer.time is not None
    assert began - timedelta(milliseconds=1) <= user.time <= answer.time <= datetime.now(UTC)

    turns = LLMContextAggregatorPair(LLMContext())
    pipecat_agent.take_down(turns, kept, session_id)
    for content in ("What did", ""):
        broken_off = AssistantTurnStoppedMessage(content, interrupted=True, timestamp="2026-01-01T00:00:01.500+00:00")
        await turns.assistant()._call_event_handler("on_assistant_turn_stopped", broken_off)
    await turns.user()._call_event_handler("on_user_turn_message_added", UserTurnMessageAddedMessage("So?", ""))
    await kept.waited(4)
    cut, late = sorted(kept.turns[2:], key=lambda turn: turn.text, reverse=True)
    assert (cut.text, cut.extra, cut.time) == (
        "What did",
        {"interrupted": True},
        datetime(2026, 1, 1, 0, 0, 1, 500_000, UTC),
    )
    assert late.time is not None


@pytest.mark.parametrize("interrupted", [False, True])
async def test_livekits_turns_say_when_they_began_and_where_they_were_broken_off(interrupted: bool) -> None:
    """The user's transcript comes after the answer has begun: by their times, they can be put in order."""
    kept: Any = Kept()
    async with ScriptedLLM() as model, AgentSession[Any](llm=model) as session:
        livekit_agent.take_down(session, kept, "session-1")
        metrics: Any = {"started_speaking_at": 1000.5}
        for message in (
            llm.ChatMessage(role="assistant", content=["What did"], interrupted=interrupted, created_at=1010),
            llm.ChatMessage(role="user", content=[ASKED], created_at=1011, metrics=metrics),
        ):
            session.emit("conversation_item_added", ConversationItemAddedEvent(item=message))
    answer, user = kept.turns
    assert (answer.text, answer.extra) == ("What did", {"interrupted": True} if interrupted else {})
    assert answer.time == datetime.fromtimestamp(1010, UTC)
    assert (user.text, user.extra, user.time) == (ASKED, {}, datetime.fromtimestamp(1000.5, UTC))
