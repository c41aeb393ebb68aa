"""The OpenAI Agents SDK: the real package, with a model that follows a script."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from agents import (
    Agent,
    Model,
    ModelResponse,
    Runner,
    SQLiteSession,
    TResponseInputItem,
    Usage,
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
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Turn
from session_notes.integrations.openai_agents import ObserverHooks, notes_tool
from session_notes.integrations.recorder import TurnRecorder

from tests.integrations.frameworks.conftest import promptly, said, wait_for_summary

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
