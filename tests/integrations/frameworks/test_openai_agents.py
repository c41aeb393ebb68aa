"""The integration with the OpenAI Agents SDK, with the real package and a scripted model."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    Runner,
    RunState,
    SQLiteSession,
    Usage,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from pydantic import BaseModel
from session_notes import AsyncPrimaryClient, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations.openai_agents import ObserverHooks, notes_tool

from tests.integrations.frameworks.openai_agents_models import ScriptedModel, message, read_notes, tool_call
from tests.integrations.frameworks.support import (
    Caller,
    MemoryRecorder,
    no_session,
    promptly,
    stored_utterances,
    wait_for_summary,
)

# By default, the SDK sends traces to OpenAI.
set_tracing_disabled(True)


PREFACE = "Let me look that up."


async def test_tool_reads_the_applications_session(async_primary: AsyncPrimaryClient, noted_session: str) -> None:
    """The model gets the notes of the session in the run's context, whatever arguments it sends."""
    model = ScriptedModel(read_notes(), "Certainly.")
    tool = notes_tool(
        async_primary, lambda run: run.context.session_id, max_age=timedelta(minutes=5), max_turns_behind=1
    )
    agent = Agent[Caller](name="Support", model=model, tools=[tool])
    result = await Runner.run(agent, "Hello", context=Caller(noted_session))
    assert result.final_output == "Certainly."
    assert '"summary":"Wants a refund."' in model.tool_result
    assert '"fresh":true' in model.tool_result
    assert model.tools[0].params_json_schema["properties"] == {}


async def test_outage_is_a_tool_result(unreachable: str) -> None:
    """The model gets `unavailable`, and the run continues."""
    async with AsyncPrimaryClient(unreachable) as client:
        model = ScriptedModel(read_notes(), "Certainly.")
        agent = Agent(name="Support", model=model, tools=[notes_tool(client, "session-1")])
        assert (await Runner.run(agent, "Hello")).final_output == "Certainly."
    assert model.tool_result == '{"ready":false,"reason":"unavailable"}'


async def test_hooks_record_and_submit(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Each turn is in the transcript once, although the SDK's session repeats it, and the observer writes notes."""
    agent = Agent[Caller](name="Support", model=ScriptedModel("What did you order?", "Thank you."))
    hooks = ObserverHooks(recorder, lambda run: run.context.session_id)
    memory = SQLiteSession("of the SDK")
    options: Any = {"context": Caller(session_id), "hooks": hooks, "session": memory}
    await Runner.run(agent, "I want my money back.", **options)
    streamed = Runner.run_streamed(agent, "A lamp.", **options)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == "Thank you."
    memory.close()
    wait_for_summary(primary, session_id, "4 turns")
    assert stored_utterances(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "What did you order?"),
        ("user", "A lamp."),
        ("primary", "Thank you."),
    ]


async def test_structured_input_and_output(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Input in parts is recorded as text, structured output as JSON."""

    class Answer(BaseModel):
        text: str

    parts: Any = [{"type": "input_text", "text": "See"}, {"type": "input_image", "image_url": "x"}]
    agent = Agent(name="Support", model=ScriptedModel('{"text": "I see"}'), output_type=Answer)
    hooks = ObserverHooks(recorder, session_id)
    await Runner.run(agent, [{"role": "user", "content": parts}], hooks=hooks)
    wait_for_summary(primary, session_id, "2 turns")
    assert stored_utterances(primary, session_id) == [("user", "See"), ("primary", '{"text":"I see"}')]


async def test_outage_does_not_delay_the_run(hanging_recorder: TurnRecorder, session_id: str) -> None:
    """The run does not wait for a sidecar that hangs."""
    agent = Agent(name="Support", model=ScriptedModel("Certainly."))
    run = Runner.run(agent, "Hello", hooks=ObserverHooks(hanging_recorder, session_id))
    with promptly():
        assert (await run).final_output == "Certainly."


@function_tool
def look_up() -> str:
    """Look something up."""
    return "in store"


@function_tool(needs_approval=True)
def refund() -> str:
    """Refund the order."""
    return "refunded"


USER = {"role": "user", "content": "Hello"}
EARLIER: list[Any] = [{"role": "user", "content": "Earlier"}, message("Yes?")]


@pytest.mark.parametrize(
    ("input", "texts"),
    [
        ([*EARLIER, USER], ["Hello"]),
        ([USER, {"role": "developer", "content": "Be kind"}, {"role": "system", "content": "x"}], ["Hello"]),
        ([USER, {"role": "user", "content": "Again"}], ["Hello", "Again"]),
        ([USER, {"role": "developer", "content": "x"}, {"role": "user", "content": "Again"}], ["Hello", "Again"]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image"}]}, USER],
            ["a", "Hello"],
        ),
        ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}], ["a"]),
        ([USER, tool_call("f"), {"type": "function_call_output", "call_id": "call-1", "output": "o"}, USER], ["Hello"]),
        ([message("Hello, can I help?"), USER], ["Hello"]),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], []),
        (
            [{"role": "user", "content": None}, USER, {"role": "user"}, {"role": "user", "content": [None, 7]}],
            ["Hello"],
        ),
    ],
)
async def test_user_turns_of_any_input(input: Any, texts: list[str]) -> None:
    """The hooks record all messages of the user since the last answer, and nothing else."""
    recorder = MemoryRecorder()
    agent = Agent(name="Support", model=ScriptedModel([message("Certainly.")]))
    await Runner.run(agent, input, hooks=ObserverHooks(recorder, "session-1"))
    assert recorder.utterances == [*(("user", text) for text in texts), ("primary", "Certainly.")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_text_before_a_tool_call(streamed: bool) -> None:
    """The text is recorded in order, without the call and its result."""
    recorder = MemoryRecorder()
    model = ScriptedModel([message(PREFACE), tool_call("look_up")], [message("One more moment."), message("Here.")])
    agent = Agent(name="Support", model=model, tools=[look_up])
    hooks = ObserverHooks(recorder, "session-1")
    if streamed:
        async for _ in Runner.run_streamed(agent, "Hello", hooks=hooks).stream_events():
            pass
    else:
        await Runner.run(agent, "Hello", hooks=hooks)
    assert recorder.utterances == [
        ("user", "Hello"),
        ("primary", PREFACE),
        ("primary", "One more moment."),
        ("primary", "Here."),
    ]


async def test_tool_result_as_the_answer() -> None:
    """With `stop_on_first_tool`, the tool's result is recorded as the answer."""
    recorder = MemoryRecorder()
    model = ScriptedModel([message(PREFACE), tool_call("look_up")])
    agent = Agent(name="Support", model=model, tools=[look_up], tool_use_behavior="stop_on_first_tool")
    await Runner.run(agent, "Hello", hooks=ObserverHooks(recorder, "session-1"))
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE), ("primary", "in store")]


@pytest.mark.parametrize("nested", [False, True])
async def test_handoff(nested: bool) -> None:
    """The user's message is recorded once, and both agents' messages in order, without the nested history."""
    recorder = MemoryRecorder()
    sales = Agent(name="Sales", model=ScriptedModel([message("Sales here.")]))
    model = ScriptedModel([message("I will transfer you."), tool_call("transfer_to_sales")])
    desk = Agent(name="Desk", model=model, handoffs=[handoff(sales, nest_handoff_history=nested)])
    await Runner.run(desk, "Hello", hooks=ObserverHooks(recorder, "session-1"))
    assert recorder.utterances == [("user", "Hello"), ("primary", "I will transfer you."), ("primary", "Sales here.")]


async def test_agent_as_a_tool() -> None:
    """The answer of an agent that runs as a tool is not recorded, even if that agent has the same hooks."""
    recorder = MemoryRecorder()
    hooks = ObserverHooks(recorder, "session-1")
    clerk = Agent(name="Clerk", model=ScriptedModel([message("in store")], [message("in store")]))
    tool = clerk.as_tool("ask", "Ask the clerk.", hooks=hooks)
    calls = [tool_call("ask", '{"input": "x"}', f"call-{number}") for number in range(2)]
    agent = Agent(name="Support", model=ScriptedModel([message(PREFACE), *calls], [message("Here.")]), tools=[tool])
    await Runner.run(agent, "Hello", hooks=hooks)
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE), ("primary", "Here.")]


@pytest.mark.parametrize("other_process", [False, True])
async def test_run_with_an_approval(other_process: bool) -> None:
    """The run is recorded once, at its end, with the text from before the pause, even if another process resumes it."""
    recorder = MemoryRecorder()
    model = ScriptedModel([message("I can do that."), tool_call("refund")], [message("Done.")])
    agent = Agent(name="Support", model=model, tools=[refund])
    hooks = ObserverHooks(recorder, "session-1")
    state: Any = (await Runner.run(agent, "Hello", hooks=hooks)).to_state()
    assert recorder.utterances == []
    if other_process:
        state, hooks = await RunState.from_json(agent, state.to_json()), ObserverHooks(recorder, "session-1")
    state.approve(state.get_interruptions()[0])
    await Runner.run(agent, state, hooks=hooks)
    assert recorder.utterances == [("user", "Hello"), ("primary", "I can do that."), ("primary", "Done.")]


async def test_retry_of_a_failed_run() -> None:
    """A failed run records nothing; the retry records the user's message once, with the answer."""
    recorder = MemoryRecorder()
    model = ScriptedModel([message(PREFACE), tool_call("look_up")], RuntimeError(), [message("Here.")])
    agent = Agent(name="Support", model=model, tools=[look_up])
    hooks = ObserverHooks(recorder, "session-1")
    with pytest.raises(RuntimeError):
        await Runner.run(agent, "Hello", hooks=hooks)
    assert recorder.utterances == []
    await Runner.run(agent, "Hello", hooks=hooks)
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here.")]


async def test_input_guardrail() -> None:
    """A run that an input guardrail stops is not recorded."""
    recorder = MemoryRecorder()

    async def trip(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    guardrail = InputGuardrail[Any](guardrail_function=trip, run_in_parallel=False)
    agent = Agent(name="Support", model=ScriptedModel([message("Here.")]), input_guardrails=[guardrail])
    with pytest.raises(InputGuardrailTripwireTriggered):
        await Runner.run(agent, "Hello", hooks=ObserverHooks(recorder, "session-1"))
    assert recorder.utterances == []


async def test_concurrent_runs() -> None:
    """With one hooks object, each run is recorded completely and in its own session."""
    recorders: dict[str, MemoryRecorder] = {}

    class SessionRecorder:
        def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
            recorders.setdefault(session_id, MemoryRecorder()).record(session_id, *turns)

    hooks = ObserverHooks(SessionRecorder(), lambda run: run.context.session_id)

    async def talk(name: str) -> None:
        model = ScriptedModel([message(f"{name} 1"), tool_call("look_up")], [message(f"{name} 2")])
        agent = Agent[Caller](name="Support", model=model, tools=[look_up])
        await Runner.run(agent, f"from {name}", context=Caller(name), hooks=hooks)

    await asyncio.gather(*(talk(f"s{number}") for number in range(5)))
    assert {name: recorder.utterances for name, recorder in recorders.items()} == {
        name: [("user", f"from {name}"), ("primary", f"{name} 1"), ("primary", f"{name} 2")]
        for name in (f"s{number}" for number in range(5))
    }


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda run: None])
@pytest.mark.parametrize("output", ["Certainly.", None, object(), {"a": b"\xff"}])
async def test_hook_errors_do_not_reach_the_run(session_id: Any, output: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The run survives an unknown session, a failing recorder and an unusual output; the log has no user data."""
    agent = Agent(name="Support", model=ScriptedModel("Certainly."))
    hooks = ObserverHooks(MemoryRecorder(RuntimeError("my order 4711")), session_id)
    assert (await Runner.run(agent, "Hello", hooks=hooks)).final_output == "Certainly."
    context: Any = type("Context", (), {"usage": Usage(), "turn_input": [object(), None, 7]})()
    await hooks.on_agent_start(context, agent)
    await hooks.on_llm_start(context, agent, None, [object()])
    await hooks.on_llm_end(context, agent, object())  # type: ignore[arg-type]
    await hooks.on_agent_end(context, agent, output)
    await hooks.on_agent_end(object(), agent, output)  # type: ignore[arg-type]
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
