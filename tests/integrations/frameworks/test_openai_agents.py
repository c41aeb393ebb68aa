"""The OpenAI Agents SDK: the real package, with a model that follows a script."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    Model,
    ModelResponse,
    Runner,
    RunState,
    SQLiteSession,
    TResponseInputItem,
    Usage,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from agents.items import TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from pydantic import BaseModel
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations.openai_agents import ObserverHooks, notes_tool

from tests.integrations.frameworks.conftest import Listener, promptly, said, wait_for_summary

# The SDK would send traces to OpenAI.
set_tracing_disabled(True)


@dataclass
class Caller:
    """What the application knows of a conversation; the model knows nothing of it."""

    session_id: str


class Scripted(Model):
    """Calls the tool first if told to, and then says what is in its script."""

    def __init__(self, *answers: str, reads: bool = False) -> None:
        self.answers = list(answers)
        self.inputs: list[list[TResponseInputItem]] = []
        self.tools: list[Any] = []
        self._reads = reads

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        """One step of the script."""
        self.inputs.append(input)
        self.tools = args[1] if len(args) > 1 else kwargs["tools"]
        output: Any
        if self._reads:
            self._reads = False
            output = ResponseFunctionToolCall(
                type="function_call", call_id="call-1", name="get_session_notes", arguments='{"session_id": "other"}'
            )
        else:
            text = ResponseOutputText(type="output_text", text=self.answers.pop(0), annotations=[])
            output = ResponseOutputMessage(
                id="message", type="message", role="assistant", status="completed", content=[text]
            )
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[TResponseStreamEvent]:
        """The same, all in one piece."""
        output = (await self.get_response(*args, **kwargs)).output
        response = Response(
            id="response",
            created_at=0,
            model="scripted",
            object="response",
            output=output,
            parallel_tool_calls=False,
            tool_choice="auto",
            tools=[],
        )
        yield ResponseCompletedEvent(type="response.completed", sequence_number=0, response=response)

    @property
    def heard(self) -> Any:
        """What the tool answered to the model."""
        return next(item for item in self.inputs[-1] if item.get("type") == "function_call_output").get("output")


async def test_the_model_reads_the_notes_of_the_applications_session(
    async_primary: AsyncPrimaryClient, primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """The session comes from the run's context, whatever the model asks for; its notes reach the model."""
    primary.append_turns(session_id, [Turn("user", "x")])
    with observer.run(session_id) as run:
        run.write(Notes(summary="Wants a refund."))
    model = Scripted("Certainly.", reads=True)
    tool = notes_tool(
        async_primary, lambda run: run.context.session_id, max_age=timedelta(minutes=5), max_turns_behind=1
    )
    agent = Agent[Caller](name="Support", model=model, tools=[tool])
    result = await Runner.run(agent, "Hello", context=Caller(session_id))
    assert result.final_output == "Certainly."
    assert '"summary":"Wants a refund."' in model.heard
    assert '"fresh":true' in model.heard
    assert model.tools[0].params_json_schema["properties"] == {}


async def test_an_outage_is_an_answer(nobody: str) -> None:
    """The model hears that there are no notes to be had, and the run goes on."""
    async with AsyncPrimaryClient(nobody) as gone:
        model = Scripted("Certainly.", reads=True)
        agent = Agent(name="Support", model=model, tools=[notes_tool(gone, "session-1")])
        assert (await Runner.run(agent, "Hello")).final_output == "Certainly."
    assert model.heard == '{"ready":false,"reason":"unavailable"}'


async def test_an_observer_looks_after_each_run(
    recorder: TurnRecorder, primary: PrimaryClient, session_id: str
) -> None:
    """What was said is in the transcript once, though the SDK's own session repeats it; then there are notes on it."""
    agent = Agent[Caller](name="Support", model=Scripted("What did you order?", "Thank you."))
    hooks = ObserverHooks(recorder, lambda run: run.context.session_id)
    memory = SQLiteSession("of the SDK")
    asking: Any = {"context": Caller(session_id), "hooks": hooks, "session": memory}
    await Runner.run(agent, "I want my money back.", **asking)
    streamed = Runner.run_streamed(agent, "A lamp.", **asking)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == "Thank you."
    memory.close()
    wait_for_summary(primary, session_id, "4 turns")
    assert said(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "What did you order?"),
        ("user", "A lamp."),
        ("primary", "Thank you."),
    ]


async def test_input_and_output_of_other_kinds(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Input in parts is recorded as its text, structured output as JSON."""

    class Answer(BaseModel):
        text: str

    parts: Any = [{"type": "input_text", "text": "See"}, {"type": "input_image", "image_url": "x"}]
    agent = Agent(name="Support", model=Scripted('{"text": "I see"}'), output_type=Answer)
    hooks = ObserverHooks(recorder, session_id)
    await Runner.run(agent, [{"role": "user", "content": parts}], hooks=hooks)
    wait_for_summary(primary, session_id, "2 turns")
    assert said(primary, session_id) == [("user", "See"), ("primary", '{"text":"I see"}')]


async def test_an_outage_holds_up_no_run(hung: TurnRecorder, session_id: str) -> None:
    """A sidecar that says nothing costs the run nothing."""
    agent = Agent(name="Support", model=Scripted("Certainly."))
    run = Runner.run(agent, "Hello", hooks=ObserverHooks(hung, session_id))
    with promptly():
        assert (await run).final_output == "Certainly."


SPOKEN = "Let me look that up."


def message(text: str) -> ResponseOutputMessage:
    """A message of the model."""
    content: list[Any] = [ResponseOutputText(type="output_text", text=text, annotations=[])]
    return ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=content)


def calling(name: str, arguments: str = "{}", call_id: str = "call-1") -> ResponseFunctionToolCall:
    """A call of a function."""
    return ResponseFunctionToolCall(type="function_call", call_id=call_id, name=name, arguments=arguments)


class Steps(Scripted):
    """Answers with these outputs, one after the other; an exception is raised."""

    def __init__(self, *steps: list[Any] | Exception) -> None:
        super().__init__()
        self.steps = list(steps)

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        """The next step."""
        await asyncio.sleep(0)
        self.inputs.append(input)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return ModelResponse(output=step, usage=Usage(), response_id=None)


@function_tool
def look_up() -> str:
    """Looks something up."""
    return "in store"


@function_tool(needs_approval=True)
def refund() -> str:
    """Gives money back."""
    return "refunded"


USER = {"role": "user", "content": "Hello"}
EARLIER: list[Any] = [{"role": "user", "content": "Earlier"}, message("Yes?")]


@pytest.mark.parametrize(
    ("input", "words"),
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
        ([USER, calling("f"), {"type": "function_call_output", "call_id": "call-1", "output": "o"}, USER], ["Hello"]),
        ([message("Hello, can I help?"), USER], ["Hello"]),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], []),
        (
            [{"role": "user", "content": None}, USER, {"role": "user"}, {"role": "user", "content": [None, 7]}],
            ["Hello"],
        ),
    ],
)
async def test_the_words_of_a_run_whatever_its_input_holds(input: Any, words: list[str]) -> None:
    """All that the user has said since the last answer, and nothing else."""
    heard = Listener()
    agent = Agent(name="Support", model=Steps([message("Certainly.")]))
    await Runner.run(agent, input, hooks=ObserverHooks(heard, "session-1"))
    assert heard.turns == [*(("user", text) for text in words), ("primary", "Certainly.")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_model_says_before_a_tool_call(streamed: bool) -> None:
    """It is recorded, in order; neither the call nor its result is."""
    heard = Listener()
    model = Steps([message(SPOKEN), calling("look_up")], [message("One more moment."), message("Here.")])
    agent = Agent(name="Support", model=model, tools=[look_up])
    hooks = ObserverHooks(heard, "session-1")
    if streamed:
        async for _ in Runner.run_streamed(agent, "Hello", hooks=hooks).stream_events():
            pass
    else:
        await Runner.run(agent, "Hello", hooks=hooks)
    assert heard.turns == [
        ("user", "Hello"),
        ("primary", SPOKEN),
        ("primary", "One more moment."),
        ("primary", "Here."),
    ]


async def test_a_tool_whose_result_is_the_answer() -> None:
    """With `stop_on_first_tool` the user hears the tool's result."""
    heard = Listener()
    model = Steps([message(SPOKEN), calling("look_up")])
    agent = Agent(name="Support", model=model, tools=[look_up], tool_use_behavior="stop_on_first_tool")
    await Runner.run(agent, "Hello", hooks=ObserverHooks(heard, "session-1"))
    assert heard.turns == [("user", "Hello"), ("primary", SPOKEN), ("primary", "in store")]


@pytest.mark.parametrize("nested", [False, True])
async def test_a_handoff_loses_no_words_and_says_none(nested: bool) -> None:
    """The words are recorded once, both agents' messages in order, and no history that the handoff makes of them."""
    heard = Listener()
    sales = Agent(name="Sales", model=Steps([message("Sales here.")]))
    model = Steps([message("I put you through."), calling("transfer_to_sales")])
    desk = Agent(name="Desk", model=model, handoffs=[handoff(sales, nest_handoff_history=nested)])
    await Runner.run(desk, "Hello", hooks=ObserverHooks(heard, "session-1"))
    assert heard.turns == [("user", "Hello"), ("primary", "I put you through."), ("primary", "Sales here.")]


async def test_an_agent_as_a_tool_says_nothing_to_the_user() -> None:
    """What it answers is the tool's result, though it has the same hooks."""
    heard = Listener()
    hooks = ObserverHooks(heard, "session-1")
    clerk = Agent(name="Clerk", model=Steps([message("in store")], [message("in store")]))
    tool = clerk.as_tool("ask", "Asks.", hooks=hooks)
    asking = [calling("ask", '{"input": "x"}', f"call-{number}") for number in range(2)]
    agent = Agent(name="Support", model=Steps([message(SPOKEN), *asking], [message("Here.")]), tools=[tool])
    await Runner.run(agent, "Hello", hooks=hooks)
    assert heard.turns == [("user", "Hello"), ("primary", SPOKEN), ("primary", "Here.")]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_run_that_waited_for_an_approval(elsewhere: bool) -> None:
    """It is recorded once, when it ends, also by another process, with what was said before the pause."""
    heard = Listener()
    model = Steps([message("I can do that."), calling("refund")], [message("Done.")])
    agent = Agent(name="Support", model=model, tools=[refund])
    hooks = ObserverHooks(heard, "session-1")
    state: Any = (await Runner.run(agent, "Hello", hooks=hooks)).to_state()
    assert heard.turns == []
    if elsewhere:
        state, hooks = await RunState.from_json(agent, state.to_json()), ObserverHooks(heard, "session-1")
    state.approve(state.get_interruptions()[0])
    await Runner.run(agent, state, hooks=hooks)
    assert heard.turns == [("user", "Hello"), ("primary", "I can do that."), ("primary", "Done.")]


async def test_a_run_that_failed_and_its_retry() -> None:
    """The failed one leaves nothing; the words are recorded with the run that answers them, once."""
    heard = Listener()
    model = Steps([message(SPOKEN), calling("look_up")], RuntimeError(), [message("Here.")])
    agent = Agent(name="Support", model=model, tools=[look_up])
    hooks = ObserverHooks(heard, "session-1")
    with pytest.raises(RuntimeError):
        await Runner.run(agent, "Hello", hooks=hooks)
    assert heard.turns == []
    await Runner.run(agent, "Hello", hooks=hooks)
    assert heard.turns == [("user", "Hello"), ("primary", "Here.")]


async def test_an_input_that_a_guardrail_refuses() -> None:
    """No answer is recorded that the user has not heard."""
    heard = Listener()

    async def trip(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    guardrail = InputGuardrail[Any](guardrail_function=trip, run_in_parallel=False)
    agent = Agent(name="Support", model=Steps([message("Here.")]), input_guardrails=[guardrail])
    with pytest.raises(InputGuardrailTripwireTriggered):
        await Runner.run(agent, "Hello", hooks=ObserverHooks(heard, "session-1"))
    assert heard.turns == []


async def test_runs_at_the_same_time_on_one_object() -> None:
    """Each exchange goes to its own session, whole."""
    heard: dict[str, Listener] = {}

    class Sorting:
        def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
            heard.setdefault(session_id, Listener()).record(session_id, *turns)

    hooks = ObserverHooks(Sorting(), lambda run: run.context.session_id)

    async def talk(name: str) -> None:
        model = Steps([message(f"{name} 1"), calling("look_up")], [message(f"{name} 2")])
        agent = Agent[Caller](name="Support", model=model, tools=[look_up])
        await Runner.run(agent, f"from {name}", context=Caller(name), hooks=hooks)

    await asyncio.gather(*(talk(f"s{number}") for number in range(5)))
    assert {name: one.turns for name, one in heard.items()} == {
        name: [("user", f"from {name}"), ("primary", f"{name} 1"), ("primary", f"{name} 2")]
        for name in (f"s{number}" for number in range(5))
    }


def no_session(_: Any) -> str:
    raise KeyError("my order 4711")


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda run: None])
@pytest.mark.parametrize("output", ["Certainly.", None, object(), {"a": b"\xff"}])
async def test_a_hook_that_fails_leaves_the_run_alone(
    session_id: Any, output: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a session that is not found, nor a broken recorder, nor a strange output reaches run or log."""
    agent = Agent(name="Support", model=Scripted("Certainly."))
    hooks = ObserverHooks(Listener(RuntimeError("my order 4711")), session_id)
    assert (await Runner.run(agent, "Hello", hooks=hooks)).final_output == "Certainly."
    strange: Any = type("Strange", (), {"usage": Usage(), "turn_input": [object(), None, 7]})()
    await hooks.on_agent_start(strange, agent)
    await hooks.on_llm_start(strange, agent, None, [object()])
    await hooks.on_llm_end(strange, agent, object())  # type: ignore[arg-type]
    await hooks.on_agent_end(strange, agent, output)
    await hooks.on_agent_end(object(), agent, output)  # type: ignore[arg-type]
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
