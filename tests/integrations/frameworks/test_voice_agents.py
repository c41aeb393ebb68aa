"""The integrations with Pipecat and LiveKit Agents, and their examples: real pipelines with scripted models."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pipecat_agent
import pytest
import voice
from livekit.agents import AgentSession, ConversationItemAddedEvent, llm
from pipecat.frames.frames import (
    Frame,
    StartFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
    UserTurnMessageAddedMessage,
)
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations import livekit, pipecat

from tests.integrations.frameworks.livekit_models import ANSWER, ScriptedLLM
from tests.integrations.frameworks.support import (
    QUESTION,
    Analysis,
    MemoryRecorder,
    promptly,
    stored_utterances,
    summary,
)
from tests.integrations.frameworks.voice_exchanges import (
    livekit_call,
    livekit_turn,
    pipecat_call,
    pipecat_exchange,
    pipecat_turn,
)
from tests.peers import Proxy
from tests.support import Sidecar, eventually


@pytest.fixture
async def call_parts(
    sidecar: Sidecar, session_id: str, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[AsyncPrimaryClient, TurnRecorder]]:
    """The client and the recorder of a call, on the shared sidecar."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    async with voice.observed_call(analysis) as parts:
        yield parts


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
    call_parts: tuple[AsyncPrimaryClient, TurnRecorder],
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
    async with voice.observed_call(analysis) as (client, recorder):
        recorder.record(session_id, Turn("user", "Hello."))
        eventually(lambda: summary(primary, session_id) == "1 turns", 20)
        assert (await client.get_notes(session_id)).ready
        proxy.drop_replies()
        with promptly():
            assert "unavailable" in await call(client, recorder, session_id)


@pytest.mark.parametrize("turn", [livekit_turn, pipecat_turn])
async def test_notes_come_with_the_users_turn(
    turn: Any,
    call_parts: tuple[AsyncPrimaryClient, TurnRecorder],
    analysis: Analysis,
    observer: ObserverClient,
    primary: PrimaryClient,
    session_id: str,
) -> None:
    """The model gets the notes at the end of its input, once, and they are not recorded as speech."""
    with observer.run(session_id) as run:
        run.write(Notes(summary="Called before."))
    analysis.released.clear()
    *_, question, notes = await turn(*call_parts, session_id)
    assert question == QUESTION
    assert "Called before." in notes
    eventually(lambda: stored_utterances(primary, session_id) == [("user", QUESTION), ("primary", ANSWER)], 20)


async def test_pipecat_replaces_changed_notes(
    call_parts: tuple[AsyncPrimaryClient, TurnRecorder], analysis: Analysis, observer: ObserverClient, session_id: str
) -> None:
    """Unchanged notes stay where they are, so that the prompt cache holds. Newer ones replace them at the end."""
    analysis.released.clear()
    client, recorder = call_parts
    with observer.run(session_id) as run:
        run.write(Notes(summary="First."))
    context = LLMContext()
    model = await pipecat_exchange(context, recorder, session_id, pipecat.NotesProcessor(client, session_id), turns=2)
    assert model.inputs[1][:2] == model.inputs[0]
    assert "First." in model.inputs[1][1]
    assert model.inputs[1][2:] == [ANSWER, QUESTION]
    with observer.run(session_id) as run:
        run.write(Notes(summary="Second."))
    model = await pipecat_exchange(context, recorder, session_id, pipecat.NotesProcessor(client, session_id))
    *before, last = model.inputs[0]
    assert before == [QUESTION, ANSWER, QUESTION, ANSWER, QUESTION]
    assert "Second." in last


async def test_livekit_notes_in_a_reused_context(
    async_primary: AsyncPrimaryClient, noted_session: str, observer: ObserverClient
) -> None:
    """In `llm_node`, which LiveKit calls again after a tool, newer notes replace those in the context."""
    notes = livekit.TurnNotes(async_primary, noted_session)
    context = llm.ChatContext()
    context.add_message(role="user", content=QUESTION)
    await notes.add_to(context)
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Wants an exchange."))
    await notes.add_to(context)
    question, text = [message.text_content or "" for message in context.messages()]
    assert question == QUESTION
    assert "Wants an exchange." in text


async def test_pipecat_turn_times_and_interruptions(
    call_parts: tuple[AsyncPrimaryClient, TurnRecorder], session_id: str
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
    pipecat.record_turns(aggregators, recorder, session_id)
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
        livekit.record_turns(session, recorder, "session-1")
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


async def test_livekit_repeats_an_event() -> None:
    """A message is recorded once, although a realtime model reports it again. An equal one is another message."""
    recorder = MemoryRecorder()
    async with AgentSession[None](llm=ScriptedLLM()) as session:
        livekit.record_turns(session, recorder, "session-1")
        for message in [llm.ChatMessage(role="user", content=["Yes."]) for _ in range(2)]:
            for _ in range(2):
                session.emit("conversation_item_added", ConversationItemAddedEvent(item=message))
    assert recorder.utterances == [("user", "Yes."), ("user", "Yes.")]
