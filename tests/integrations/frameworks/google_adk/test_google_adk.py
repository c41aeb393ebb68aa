"""The integration with Google ADK, with the real package and scripted models."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from google.adk.agents import Agent, ParallelAgent
from google.adk.agents.live_request_queue import LiveRequestQueue
from google.adk.agents.run_config import RunConfig
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.sessions.in_memory_session_service import InMemorySessionService
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.long_running_tool import LongRunningFunctionTool
from google.adk.workflow import START, Workflow
from google.genai.types import Blob, Content, Part, Transcription
from pydantic import BaseModel
from session_notes import AsyncPrimaryClient, AsyncTurnRecorder, Notes, ObserverClient, PrimaryClient, TurnRecorder
from session_notes.integrations.google_adk import NotesPlugin, ObserverPlugin, notes_tool

from tests.integrations.frameworks.google_adk.models import Conversation, ScriptedModel, call, read_notes, result
from tests.integrations.frameworks.support import (
    MemoryRecorder,
    no_session,
    promptly,
    stored_utterances,
    wait_for_summary,
)

PREFACE = "Let me look that up."
STREAMING = RunConfig.model_validate({"streaming_mode": "sse"})


def look_up() -> dict[str, str]:
    """Look up a lamp."""
    return {"lamp": "in store"}


def support(model: ScriptedModel, **options: Any) -> Agent:
    """Return an agent with this model."""
    return Agent(name="support", model=model, **options)


async def test_tool_reads_the_applications_session(async_primary: AsyncPrimaryClient, noted_session: str) -> None:
    """The model gets the notes of the ADK session, whatever arguments it sends."""
    model = ScriptedModel(read_notes(), "Certainly.")
    tool = notes_tool(async_primary, max_age=timedelta(minutes=5), max_turns_behind=1)
    conversation = Conversation(support(model, tools=[tool]), session_id=noted_session)
    assert await conversation.say("Hello") == "Certainly."
    assert (model.tool_result["ready"], model.tool_result["fresh"]) == (True, True)
    assert model.tool_result["notes"] == {"summary": "Wants a refund."}


async def test_outage_is_a_tool_result(unreachable: str) -> None:
    """The model gets `unavailable`, and the run continues."""
    model = ScriptedModel(read_notes(), "Certainly.")
    async with AsyncPrimaryClient(unreachable) as client:
        assert await Conversation(support(model, tools=[notes_tool(client)])).say("Hello") == "Certainly."
    assert model.tool_result == {"ready": False, "reason": "unavailable"}


async def test_plugin_records_and_submits(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Each turn is in the transcript once, with its time, and the observer writes notes."""
    before = datetime.now(UTC)
    model = ScriptedModel("Tell me more.", "I see.")
    conversation = Conversation(support(model), ObserverPlugin(recorder), session_id=session_id)
    await conversation.say("I want my money back.")
    wait_for_summary(primary, session_id, "2 turns")
    await conversation.say("A lamp.")
    wait_for_summary(primary, session_id, "4 turns")
    assert stored_utterances(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "Tell me more."),
        ("user", "A lamp."),
        ("primary", "I see."),
    ]
    times = [turn.time for turn in primary.get_session(session_id, include_turns=True).turns]
    assert all(time and before <= time <= datetime.now(UTC) for time in times)


async def test_async_recorder(async_primary: AsyncPrimaryClient, primary: PrimaryClient, session_id: str) -> None:
    """The plugin accepts an `AsyncTurnRecorder` in the event loop in which it was opened."""
    async with AsyncTurnRecorder(async_primary) as recorder:
        plugin = ObserverPlugin(recorder, lambda context: context.session.id)
        await Conversation(support(ScriptedModel("Certainly.")), plugin, session_id=session_id).say("Hello")
    assert stored_utterances(primary, session_id) == [("user", "Hello"), ("primary", "Certainly.")]


async def test_notes_in_each_request(
    async_primary: AsyncPrimaryClient, observer: ObserverClient, noted_session: str
) -> None:
    """Each request ends with the current notes, also after a tool call. They never enter the ADK session."""
    model = ScriptedModel([call("look_up")], "In store.", "Tomorrow.")
    agent, plugin = support(model, tools=[look_up]), NotesPlugin(async_primary)
    conversation = Conversation(agent, plugin, session_id=noted_session)
    await conversation.say("Is it in store?")
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Wants a lamp."))
    await conversation.say("When can I have it?")
    for request, summary in zip(model.requests, ["refund", "refund", "lamp"], strict=True):
        assert f"Wants a {summary}." in request[-1]
        assert not any("session-notes" in text for text in request[:-1])
    assert await conversation.stored() == ["Is it in store?", "In store.", "When can I have it?", "Tomorrow."]


async def test_notes_in_a_stored_conversation(
    async_primary: AsyncPrimaryClient, observer: ObserverClient, noted_session: str
) -> None:
    """In a conversation that Google stores, a request has the notes only if no answered one of its agent had them."""

    class Stored(BasePlugin):
        """Numbers the answers of each agent, as Google does."""

        answers: ClassVar[Counter[str]] = Counter()

        async def before_model_callback(self, *, callback_context: Any, llm_request: LlmRequest) -> None:
            if number := self.answers[callback_context.agent_name]:
                llm_request.previous_interaction_id = f"{callback_context.agent_name}-{number}"

        async def after_model_callback(self, *, callback_context: Any, llm_response: LlmResponse) -> None:
            self.answers[callback_context.agent_name] += 1

    def transfer(agent: str) -> list[Part]:
        return [call("transfer_to_agent", agent_name=agent)]

    model = ScriptedModel("What did you order?", "I see.", RuntimeError(), transfer("billing"), "Certainly.")
    billing = ScriptedModel("Paid.", transfer("support"))
    agent = support(model, sub_agents=[Agent(name="billing", model=billing)])
    plugins = [Stored("stored"), NotesPlugin(async_primary)]
    conversation = Conversation(agent, *plugins, session_id=noted_session)
    await conversation.say("Hello")
    await conversation.say("A lamp.")
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Wants a lamp."))
    with pytest.raises(RuntimeError):
        await conversation.say("Is it paid?")
    await conversation.say("Is it paid?")
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Wants a lid."))
    await conversation.say("Thanks")
    assert ["Wants a" in request[-1] for request in model.requests] == [True, False, True, True, True]
    assert ["Wants a" in request[-1] for request in billing.requests] == [True, True]


@pytest.mark.parametrize("config", [None, STREAMING])
async def test_text_before_a_tool_call(config: RunConfig | None) -> None:
    """The text is recorded once and in order, without thoughts, images, the call and its result."""
    recorder = MemoryRecorder()
    steps: list[Any] = [[Part(text="Hm.", thought=True), Part(text=PREFACE), call("look_up")], "Here it is."]
    agent = support(ScriptedModel(*steps), tools=[look_up])
    question = Content(parts=[Part(text="This one?"), Part(inline_data=Blob(data=b"x", mime_type="image/png"))])
    await Conversation(agent, ObserverPlugin(recorder)).say(question, config)
    assert recorder.utterances == [("user", "This one?"), ("primary", PREFACE), ("primary", "Here it is.")]
    assert recorder.observed == [True]


async def test_tool_calls() -> None:
    """On request, calls and their results are turns of their own, recorded once."""
    recorder = MemoryRecorder()
    model = ScriptedModel([Part(text=PREFACE), call("look_up"), call("look_up")], "Here it is.", "Bye.")
    conversation = Conversation(support(model, tools=[look_up]), ObserverPlugin(recorder, tool_calls=True))
    await conversation.say("Hello")
    await conversation.say("Thanks")
    assert recorder.utterances == [
        ("user", "Hello"),
        ("primary", PREFACE),
        ("tool", "look_up({})"),
        ("tool", "look_up({})"),
        ("tool", '{"lamp":"in store"}'),
        ("tool", '{"lamp":"in store"}'),
        ("primary", "Here it is."),
        ("user", "Thanks"),
        ("primary", "Bye."),
    ]
    calls, results = recorder.turns[2:4], recorder.turns[4:6]
    assert [turn.extra["call_id"] for turn in calls] == [turn.extra["result_of"] for turn in results]


async def test_structured_output() -> None:
    """Structured output is recorded as JSON."""

    class Answer(BaseModel):
        text: str

    recorder = MemoryRecorder()
    model = ScriptedModel([call("set_model_response", text="I see")])
    agent = support(model, tools=[look_up], output_schema=Answer)
    await Conversation(agent, ObserverPlugin(recorder)).say("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", '{"text": "I see"}')]


async def test_transfer() -> None:
    """The messages of every agent are recorded, also when the conversation resumes with another agent."""
    recorder = MemoryRecorder()
    expert = Agent(name="expert", model=ScriptedModel("I am the expert.", "Still here."))
    model = ScriptedModel([Part(text="One moment."), call("transfer_to_agent", agent_name="expert")])
    conversation = Conversation(support(model, sub_agents=[expert]), ObserverPlugin(recorder))
    await conversation.say("Hello")
    await conversation.say("And now?")
    assert recorder.utterances == [
        ("user", "Hello"),
        ("primary", "One moment."),
        ("primary", "I am the expert."),
        ("user", "And now?"),
        ("primary", "Still here."),
    ]


async def test_task() -> None:
    """The user's conversation with an agent that has a task is recorded, even if another process finishes the task."""
    expert = Agent(
        name="expert", mode="task", model=ScriptedModel("Which lamp?", [call("finish_task", result="the red one")])
    )
    agent = support(ScriptedModel([call("expert", request="Find out.")], "Done."), sub_agents=[expert])
    first, second = MemoryRecorder(), MemoryRecorder()
    conversation = Conversation(agent, ObserverPlugin(first))
    await conversation.say("Hello")
    assert first.utterances == [("user", "Hello"), ("primary", "Which lamp?")]
    await Conversation(agent, ObserverPlugin(second), service=conversation.service).say("The red one.")
    assert second.utterances == [("user", "The red one."), ("primary", "Done.")]


def as_agent_tool(model: ScriptedModel) -> dict[str, Any]:
    """Return the options of an agent that has another one as a tool."""
    return {"tools": [AgentTool(Agent(name="expert", model=model))]}


def as_single_turn(model: ScriptedModel) -> dict[str, Any]:
    """Return the options of an agent that has another one as a sub-agent that runs like a tool."""
    return {"sub_agents": [Agent(name="expert", mode="single_turn", model=model)]}


@pytest.mark.filterwarnings("ignore:The `plugins` argument is deprecated:DeprecationWarning")
@pytest.mark.parametrize("options", [as_agent_tool, as_single_turn])
async def test_agent_as_a_tool(
    options: Callable[[ScriptedModel], dict[str, Any]], async_primary: AsyncPrimaryClient, noted_session: str
) -> None:
    """An agent that runs as a tool is not recorded and gets no notes."""
    recorder = MemoryRecorder()
    expert = ScriptedModel("Forty-two.")
    model = ScriptedModel([call("expert", request="What is it?")], "It is forty-two.")
    plugins = [ObserverPlugin(recorder, noted_session), NotesPlugin(async_primary, noted_session)]
    await Conversation(support(model, **options(expert)), *plugins).say("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "It is forty-two.")]
    assert recorder.observed == [True]
    assert expert.requests == [["What is it?"]]
    assert all("Wants a refund." in request[-1] for request in model.requests)


@pytest.mark.filterwarnings("ignore:ParallelAgent is deprecated:DeprecationWarning")
async def test_agents_in_a_workflow() -> None:
    """All agents of a workflow and of a composite agent are recorded, without what they pass to each other."""
    recorder = MemoryRecorder()
    names = ["first", "second"]
    first, second = (Agent(name=name, model=ScriptedModel(name)) for name in names)
    workflow = Workflow(name="workflow", edges=[(START, first), (first, second)])
    await Conversation(workflow, ObserverPlugin(recorder)).say("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "first"), ("primary", "second")]
    recorder = MemoryRecorder()
    agents: list[Any] = [Agent(name=name, mode="single_turn", model=ScriptedModel(name)) for name in names]
    await Conversation(ParallelAgent(name="both", sub_agents=agents), ObserverPlugin(recorder)).say("Hello")
    assert sorted(recorder.utterances) == [("primary", "first"), ("primary", "second"), ("user", "Hello")]


async def test_resumed_session() -> None:
    """A new process records only the new exchange of a session that it resumes."""
    recorder = MemoryRecorder()
    agent = support(ScriptedModel("Yes?", "Certainly."))
    first = Conversation(agent)
    await first.say("Earlier")
    await Conversation(agent, ObserverPlugin(recorder), service=first.service).say("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "Certainly.")]


@pytest.mark.parametrize("same_process", [True, False])
async def test_pause_for_a_long_tool(same_process: bool) -> None:
    """The user's message is recorded when the run pauses, and the answer when it resumes."""
    recorder = MemoryRecorder()
    tool = LongRunningFunctionTool(func=ask_manager)
    agent = support(ScriptedModel([call("ask_manager", call_id="1")], "Refunded."), tools=[tool])
    conversation = Conversation(agent, ObserverPlugin(recorder))
    await conversation.say("Hello")
    assert recorder.utterances == [("user", "Hello")]
    if not same_process:
        recorder = MemoryRecorder()
        conversation = Conversation(agent, ObserverPlugin(recorder), service=conversation.service)
    await conversation.say(result("ask_manager", "1", approved=True))
    assert recorder.utterances == [*([("user", "Hello")] if same_process else []), ("primary", "Refunded.")]


def ask_manager() -> None:
    """Ask the manager."""


async def test_live_session(unreachable: str, caplog: pytest.LogCaptureFixture) -> None:
    """Speech is recorded from its transcriptions at the end of each of the model's turns. Nothing reads notes."""
    recorder = MemoryRecorder()
    first = [
        LlmResponse(output_transcription=Transcription(text="Here "), partial=True),
        LlmResponse(output_transcription=Transcription(text="Here it is."), partial=False),
        LlmResponse(turn_complete=True),
    ]
    second = [
        LlmResponse(input_transcription=Transcription(text="And a shade?"), partial=False),
        LlmResponse(output_transcription=Transcription(text="A sha"), partial=False),
        LlmResponse(interrupted=True),
    ]
    messages = LiveRequestQueue()
    messages.send_content(Content(role="user", parts=[Part(text="A lamp.")]))
    notes = NotesPlugin(AsyncPrimaryClient(unreachable))  # A client that is not open raises an error.
    runner = Conversation(support(ScriptedModel(first, second)), ObserverPlugin(recorder), notes).runner
    async for event in runner.run_live(user_id="user", session_id="session-1", live_request_queue=messages):
        if event.turn_complete:
            assert recorder.utterances == [("user", "A lamp."), ("primary", "Here it is.")]
            messages.send_content(Content(role="user", parts=[Part(text=" ")]))
        elif event.interrupted:
            assert recorder.utterances[2:] == [("user", "And a shade?"), ("primary", "A sha")]
            messages.close()
    assert recorder.observed == [True, True]
    assert "no notes" not in caplog.text


async def test_failed_run() -> None:
    """A failed run records nothing; the next run records what ADK kept of it."""
    recorder = MemoryRecorder()
    steps: list[Any] = [[Part(text=PREFACE), call("look_up")], RuntimeError()]
    model = ScriptedModel(RuntimeError(), "Here.", *steps, "It is in store.")
    conversation = Conversation(support(model, tools=[look_up]), ObserverPlugin(recorder))
    with pytest.raises(RuntimeError):
        await conversation.say("Hello")
    assert recorder.utterances == []
    await conversation.say("Are you there?")
    first = [("user", "Hello"), ("user", "Are you there?"), ("primary", "Here.")]
    assert recorder.utterances == first
    with pytest.raises(RuntimeError):
        await conversation.say("A lamp.")
    assert recorder.utterances == first
    await conversation.say("And?")
    assert recorder.utterances == [
        *first,
        ("user", "A lamp."),
        ("primary", PREFACE),
        ("user", "And?"),
        ("primary", "It is in store."),
    ]


async def test_abandoned_run() -> None:
    """A run that the application stops to read is recorded as far as it got."""
    recorder = MemoryRecorder()
    conversation = Conversation(
        support(ScriptedModel([Part(text=PREFACE), call("look_up")]), tools=[look_up]), ObserverPlugin(recorder)
    )
    message = Content(role="user", parts=[Part(text="Hello")])
    events = conversation.runner.run_async(user_id="user", session_id="session-1", new_message=message)
    await anext(events)
    await events.aclose()
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE)]


async def test_concurrent_runs(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """One plugin records concurrent runs, each in its own session."""
    agent, service = support(ScriptedModel(*["Certainly."] * 8)), InMemorySessionService()
    plugin = ObserverPlugin(recorder)
    ids = [f"{session_id}-{number}" for number in range(8)]
    conversations = [Conversation(agent, plugin, session_id=session, service=service) for session in ids]
    await asyncio.gather(*(conversation.say(f"I am {conversation.session_id}") for conversation in conversations))
    for session in ids:
        wait_for_summary(primary, session, "2 turns")
        assert stored_utterances(primary, session) == [("user", f"I am {session}"), ("primary", "Certainly.")]


async def test_outage_does_not_delay_the_run(hanging_recorder: TurnRecorder, session_id: str) -> None:
    """The run does not wait for a sidecar that hangs."""
    conversation = Conversation(support(ScriptedModel("Certainly.")), ObserverPlugin(hanging_recorder, session_id))
    with promptly():
        assert await conversation.say("Hello") == "Certainly."


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda context: None])
async def test_plugin_errors_do_not_reach_the_run(
    session_id: Any, async_primary: AsyncPrimaryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The run survives an unknown session and a failing recorder; the log has no user data."""
    observer = ObserverPlugin(MemoryRecorder(RuntimeError("my order 4711")), session_id)
    conversation = Conversation(support(ScriptedModel("Certainly.")), observer, NotesPlugin(async_primary, session_id))
    assert await conversation.say("Hello") == "Certainly."
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
