"""The integration with Strands Agents, with the real package and scripted models."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, TurnRecorder
from session_notes.integrations.strands import ObserverHooks, notes_injector, notes_tool
from strands import Agent, tool
from strands.agent import AgentResult
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolsEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
    MessageAddedEvent,
)
from strands.interrupt import Interrupt, InterruptException
from strands.session.file_session_manager import FileSessionManager
from strands.types.exceptions import EventLoopException

from tests.integrations.frameworks.strands_models import ScriptedModel, StatefulModel, read_notes, tool_call
from tests.integrations.frameworks.support import (
    MemoryRecorder,
    no_session,
    promptly,
    stored_utterances,
    wait_for_summary,
)

PREFACE = {"text": "Let me look that up."}
EARLIER: list[Any] = [
    {"role": "user", "content": [{"text": "Earlier"}]},
    {"role": "assistant", "content": [{"text": "Yes?"}]},
]


def own_id(agent: Agent) -> str:
    """Return the session id in an agent's state."""
    return str(agent.state.get("session_id"))


@tool
def look_up() -> str:
    """Look up the order."""
    return "in store"


def agent_with(model: ScriptedModel, *hooks: Any, **options: Any) -> Agent:
    """Return a silent agent that never waits before it retries a model call."""
    return Agent(model, hooks=list(hooks), **{"callback_handler": None, "retry_strategy": None, **options})


def recorded_agent(recorder: MemoryRecorder, *steps: Any, **options: Any) -> Agent:
    """Return an agent that records its runs and has a tool."""
    return agent_with(ScriptedModel(*steps), ObserverHooks(recorder, "session-1"), tools=[look_up], **options)


@pytest.mark.parametrize("synchronous", [False, True])
async def test_tool_reads_the_applications_session(
    async_primary: AsyncPrimaryClient, primary: PrimaryClient, noted_session: str, synchronous: bool
) -> None:
    """The model gets the notes of the session in the agent's state, whatever arguments it sends."""
    model = ScriptedModel(read_notes(), "Certainly.")
    tools = [notes_tool(primary if synchronous else async_primary, own_id, max_turns_behind=1)]
    agent = agent_with(model, tools=tools, state={"session_id": noted_session})
    result = agent("Hello") if synchronous else await agent.invoke_async("Hello")
    assert str(result) == "Certainly.\n"
    answer = json.loads(model.tool_result)
    assert (answer["ready"], answer["fresh"], answer["notes"]) == (True, True, {"summary": "Wants a refund."})
    assert model.tools[0]["inputSchema"]["json"]["properties"] == {}


async def test_outage_is_a_tool_result(unreachable: str) -> None:
    """The model gets `unavailable`, and the run continues."""
    model = ScriptedModel(read_notes(), "Certainly.")
    async with AsyncPrimaryClient(unreachable) as client:
        agent = agent_with(model, tools=[notes_tool(client, "session-1")])
        assert (await agent.invoke_async("Hello")).stop_reason == "end_turn"
    assert json.loads(model.tool_result) == {"ready": False, "reason": "unavailable"}


@pytest.mark.parametrize("synchronous", [False, True])
async def test_notes_in_the_input(
    async_primary: AsyncPrimaryClient, primary: PrimaryClient, noted_session: str, synchronous: bool
) -> None:
    """Each input ends with the notes, and the agent's messages never have them."""
    model = ScriptedModel([PREFACE, tool_call("look_up")], "Certainly.", "You are welcome.")
    plugin = notes_injector(primary if synchronous else async_primary, own_id)
    agent = agent_with(model, plugins=[plugin], tools=[look_up], state={"session_id": noted_session})
    for prompt in ("Hello", "Thanks"):
        if synchronous:
            agent(prompt)
        else:
            await agent.invoke_async(prompt)
    assert len(model.texts) == 3
    assert all("Wants a refund." in text for text in model.texts)
    assert [text.partition("<")[0].strip() for text in model.texts] == ["Hello", "", "Thanks"]
    assert "session-notes" not in str(agent.messages)


async def test_notes_in_a_conversation_that_the_provider_stores(
    async_primary: AsyncPrimaryClient, observer: ObserverClient, noted_session: str
) -> None:
    """The notes are sent once, and again when they have changed or if the call failed. Turns are recorded once."""
    recorder = MemoryRecorder()
    model = StatefulModel([tool_call("look_up")], "Yes?", RuntimeError(), "Yes?", "Yes?")
    plugin = notes_injector(async_primary, noted_session)
    agent = agent_with(model, ObserverHooks(recorder, "session-1"), plugins=[plugin], tools=[look_up])
    await agent.invoke_async("First")
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Has a receipt."))
    with pytest.raises(RuntimeError):
        await agent.invoke_async("Second")
    await agent.invoke_async("Second")
    await agent.invoke_async("Third")
    assert ["Wants a refund." in text for text in model.texts] == [True, False, False, False, False]
    assert ["Has a receipt." in text for text in model.texts] == [False, False, True, True, False]
    assert recorder.utterances == [
        message for text in ("First", "Second", "Third") for message in (("user", text), ("primary", "Yes?"))
    ]


async def test_notes_are_those_of_each_agents_session(async_primary: AsyncPrimaryClient, noted_session: str) -> None:
    """Concurrent agents with the same plugin and hooks each have their own session."""
    recorder = MemoryRecorder()
    plugin, hooks = notes_injector(async_primary, own_id), ObserverHooks(recorder, own_id)
    models = [ScriptedModel("Certainly."), ScriptedModel("Certainly.")]
    sessions = [noted_session, f"{noted_session}-2"]
    agents = [
        agent_with(model, hooks, plugins=[plugin], state={"session_id": session_id})
        for model, session_id in zip(models, sessions, strict=True)
    ]
    await asyncio.gather(*(agent.invoke_async("Hello") for agent in agents))
    assert ["Wants a refund." in model.texts[0] for model in models] == [True, False]
    assert recorder.sessions == set(sessions)
    assert len(recorder.turns) == 4


def test_hooks_record_and_submit(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Each turn is in the transcript once, and the observer writes notes."""
    agent = agent_with(ScriptedModel("Tell me more.", "I see."), ObserverHooks(recorder, own_id))
    agent.state.set("session_id", session_id)
    agent("I want my money back.")
    agent("A lamp.")
    wait_for_summary(primary, session_id, "4 turns")
    assert stored_utterances(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "Tell me more."),
        ("user", "A lamp."),
        ("primary", "I see."),
    ]


def test_outage_does_not_delay_the_run(hanging_recorder: TurnRecorder, session_id: str) -> None:
    """The run does not wait for a sidecar that hangs."""
    with promptly():
        agent_with(ScriptedModel("Certainly."), ObserverHooks(hanging_recorder, session_id))("Hello")


@pytest.mark.parametrize(
    ("messages", "prompt", "texts"),
    [
        (EARLIER, "Hello", ["Hello"]),
        ([*EARLIER, {"role": "user", "content": [{"text": "Hello"}]}], None, ["Hello"]),
        ([*EARLIER, {"role": "user", "content": [{"text": "Hello"}]}], "Again", ["Hello", "Again"]),
        ([], [*EARLIER, {"role": "user", "content": [{"text": "Hello"}]}], ["Hello"]),
        ([], [{"text": "See"}, {"document": {"name": "x", "format": "txt", "source": {"bytes": b"x"}}}], ["See"]),
        ([], [{"text": "See"}, {"text": "this"}], ["See\nthis"]),
    ],
)
async def test_user_turns_of_any_input(messages: list[Any], prompt: Any, texts: list[str]) -> None:
    """The hooks record all messages of the user since the last answer, and nothing else."""
    recorder = MemoryRecorder()
    await recorded_agent(recorder, "Certainly.", messages=list(messages)).invoke_async(prompt)
    assert recorder.utterances == [*(("user", text) for text in texts), ("primary", "Certainly.")]


async def test_text_before_a_tool_call() -> None:
    """The text is recorded in order, without reasoning, the call and its result, also of a streamed run."""
    recorder = MemoryRecorder()
    reasoning = {"reasoningContent": {"text": "Hm."}}
    agent = recorded_agent(
        recorder, [reasoning, PREFACE, tool_call("look_up")], [{"text": "Here "}, {"text": "it is."}]
    )
    async for _ in agent.stream_async("Hello"):
        pass
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE["text"]), ("primary", "Here it is.")]
    assert recorder.observed == [True]


async def test_restored_session(tmp_path: Path) -> None:
    """Messages that a session manager restores are not recorded again."""
    recorder = MemoryRecorder()
    for prompt in ("Hello", "Again"):
        manager = FileSessionManager("s1", storage_dir=str(tmp_path))
        agent = recorded_agent(MemoryRecorder() if prompt == "Hello" else recorder, prompt, session_manager=manager)
        await agent.invoke_async(prompt)
    assert len(agent.messages) == 4
    assert recorder.utterances == [("user", "Again"), ("primary", "Again")]


class Refund(BaseModel):
    """A refund."""

    amount: int


@pytest.mark.parametrize("step", [[tool_call("Refund", '{"amount":7}')], '{"amount":7}'])
async def test_structured_output(step: Any) -> None:
    """The output is recorded as JSON, without the prompt that Strands adds to force it."""
    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, "Seven.", step)
    result = await agent.invoke_async("How much?", structured_output_model=Refund)
    assert result.structured_output == Refund(amount=7)
    assert recorder.utterances == [("user", "How much?"), ("primary", "Seven."), ("primary", '{"amount":7}')]


def approvals(result: AgentResult) -> Any:
    """Return the input that resumes an interrupted run."""
    assert result.stop_reason == "interrupt"
    return [{"interruptResponse": {"interruptId": item.id, "response": "y"}} for item in result.interrupts or ()]


@pytest.mark.parametrize("ended_by_hook", [False, True])
async def test_interrupted_run(ended_by_hook: bool) -> None:
    """The message before an approval is recorded with the interrupt, and the answer after it."""
    recorder = MemoryRecorder()

    def ask(event: BeforeToolCallEvent) -> None:
        event.interrupt("approval", reason="Refund?")

    def end(event: AfterToolsEvent) -> None:
        event.end_turn = "Done." if ended_by_hook else False

    model = ScriptedModel([PREFACE, tool_call("look_up")], "Done.")
    agent = agent_with(model, ObserverHooks(recorder, "session-1"), ask, end, tools=[look_up])
    responses = approvals(await agent.invoke_async("Hello"))
    before = [("user", "Hello"), ("primary", PREFACE["text"])]
    assert recorder.utterances == before
    await agent.invoke_async(responses)
    assert recorder.utterances == [*before, ("primary", "Done.")]


async def test_interrupt_before_the_model() -> None:
    """The user's message is recorded once, although the resumed run begins with it again."""
    recorder = MemoryRecorder()

    def ask(event: BeforeModelCallEvent) -> None:
        if not recorder.turns:
            raise InterruptException(Interrupt("1", "approval"))

    agent = agent_with(ScriptedModel("Done."), ObserverHooks(recorder, "session-1"), ask)
    await agent.invoke_async(approvals(await agent.invoke_async("Hello")))
    assert recorder.utterances == [("user", "Hello"), ("primary", "Done.")]


async def test_retried_model_call() -> None:
    """A response that a hook discards is not recorded, and neither is a failed call."""
    recorder = MemoryRecorder()

    def retry(event: AfterModelCallEvent) -> None:
        event.retry = len(model.inputs) < 3

    agent = recorded_agent(recorder, "Rejected.", RuntimeError(), "Here.")
    model: Any = agent.model
    agent.add_hook(retry, AfterModelCallEvent)
    await agent.invoke_async("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here.")]


async def test_run_that_a_hook_resumes() -> None:
    """The answers are recorded once, and the input of the hook is not."""
    recorder = MemoryRecorder()

    def resume(event: AfterInvocationEvent) -> None:
        if len(event.agent.messages) == 2:
            event.resume = "Be kind."

    model = ScriptedModel("No.", "Certainly.", "You are welcome.")
    agent = agent_with(model, resume, ObserverHooks(recorder, "session-1"))
    await agent.invoke_async("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "No."), ("primary", "Certainly.")]
    await agent.invoke_async("Thanks")
    assert recorder.utterances[3:] == [("user", "Thanks"), ("primary", "You are welcome.")]


async def test_summary_before_the_prompt() -> None:
    """A summary that a hook puts in place of the history is not recorded."""

    def summarize(event: BeforeModelCallEvent) -> None:
        event.agent.messages[:-1] = [{"role": "user", "content": [{"text": "A summary."}]}]

    recorder = MemoryRecorder()
    hooks = [summarize, ObserverHooks(recorder, "session-1")]
    await agent_with(ScriptedModel("Here."), *hooks, messages=list(EARLIER)).invoke_async("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here.")]


@pytest.mark.parametrize("redacted", [False, True])
async def test_memories_in_the_prompt(redacted: bool) -> None:
    """A memory that a hook adds to the prompt is not the user's. A prompt that is redacted stays redacted."""
    recorder = MemoryRecorder()

    def remember(event: MessageAddedEvent) -> None:
        if event.message["role"] == "user":
            event.message["content"].insert(0, {"text": "<user_context>Likes tea.</user_context>"})

    def redact(event: AfterModelCallEvent) -> None:
        if redacted:  # As Strands does it for a guardrail.
            event.agent.messages[-1]["content"] = [{"text": "[redacted]"}]

    model = ScriptedModel(RuntimeError("overloaded"), "Hi.")
    agent = agent_with(model, remember, redact, ObserverHooks(recorder, "session-1"))
    with pytest.raises(RuntimeError):
        await agent.invoke_async("Hello")
    await agent.invoke_async("Are you there?")
    prompts = ["[redacted]", "[redacted]"] if redacted else ["Hello", "Are you there?"]
    assert recorder.utterances == [*(("user", prompt) for prompt in prompts), ("primary", "Hi.")]


async def test_failed_run() -> None:
    """The user's message is recorded with the run that answers it, and once."""
    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, RuntimeError(), "Here.")
    with pytest.raises(RuntimeError):
        await agent.invoke_async("Hello")
    assert recorder.utterances == []
    await agent.invoke_async()
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here.")]


async def test_run_that_fails_after_a_tool_call() -> None:
    """The messages that Strands keeps are recorded, without an observer run."""
    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, [PREFACE, tool_call("look_up")], RuntimeError(), "Here.")
    with pytest.raises(EventLoopException):
        await agent.invoke_async("Hello")
    before = [("user", "Hello"), ("primary", PREFACE["text"])]
    assert (recorder.utterances, recorder.observed) == (before, [False])
    await agent.invoke_async("Are you there?")
    assert recorder.utterances == [*before, ("user", "Are you there?"), ("primary", "Here.")]


async def test_cancelled_run() -> None:
    """The message that Strands puts in place of a cancelled answer is marked, and the next answer is not."""
    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, "No.", "Here.")
    agent.cancel()
    assert (await agent.invoke_async("Hello")).stop_reason == "cancelled"
    await agent.invoke_async("Again")
    assert [(turn.text, turn.extra) for turn in recorder.turns] == [
        ("Hello", {}),
        ("Cancelled by user", {"interrupted": True}),
        ("Again", {}),
        ("Here.", {}),
    ]


async def test_cancelled_stream() -> None:
    """A run whose stream the application closes is not recorded, and the next one is complete."""
    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, "No.", "Here.")
    stream: Any = agent.stream_async("Hello")
    async for event in stream:
        if "data" in event:
            break
    await stream.aclose()
    assert recorder.utterances == []
    await agent.invoke_async("Again")
    assert recorder.utterances == [("user", "Hello"), ("user", "Again"), ("primary", "Here.")]


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda agent: None])
async def test_hook_errors_do_not_reach_the_run(session_id: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The run survives an unknown session and a failing recorder; the log has no user data."""
    recorder = MemoryRecorder(RuntimeError("my order 4711"))
    async with AsyncPrimaryClient("127.0.0.1:1", timeout=timedelta(seconds=1)) as client:
        plugins = [notes_injector(client, session_id)]
        agent = agent_with(ScriptedModel("Certainly."), ObserverHooks(recorder, session_id), plugins=plugins)
        assert str(await agent.invoke_async("Hello")) == "Certainly.\n"
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
