"""Pydantic AI: the real package, with its own models for tests, which follow a script."""

from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel
from pydantic_ai import Agent, ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Turn
from session_notes.integrations.pydantic_ai import Observed, notes_tool
from session_notes.integrations.recorder import TurnRecorder

from tests.integrations.frameworks.conftest import promptly, said, wait_for_summary


@dataclass
class Caller:
    """What the application knows of a conversation; the model knows nothing of it."""

    session_id: str


class Script:
    """Calls the tool, and then says what is in its script."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.told: object = None
        self.offered: dict[str, object] = {}

    def step(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        """One step of the script."""
        self.offered = info.function_tools[0].parameters_json_schema
        for part in messages[-1].parts:
            if isinstance(part, ToolReturnPart):
                self.told = part.content
                return ModelResponse([TextPart(self.answer)])
        return ModelResponse([ToolCallPart("get_session_notes", {"session_id": "other"})])


async def test_the_model_reads_the_notes_of_the_applications_session(
    async_primary: AsyncPrimaryClient, primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """The session comes from the run's deps, whatever the model asks for; its notes reach the model."""
    primary.append_turns(session_id, [Turn("user", "x")])
    with observer.run(session_id) as run:
        run.write(Notes(summary="Wants a refund."))
    script = Script("Certainly.")
    tool = notes_tool(async_primary, lambda run: run.deps.session_id, max_age=timedelta(minutes=5), max_turns_behind=1)
    agent = Agent(FunctionModel(script.step), deps_type=Caller, tools=[tool])
    assert (await agent.run("Hello", deps=Caller(session_id))).output == "Certainly."
    assert isinstance(script.told, dict)
    assert (script.told["ready"], script.told["fresh"]) == (True, True)
    assert script.told["notes"] == {"summary": "Wants a refund."}
    assert script.offered["properties"] == {}


async def test_an_outage_is_an_answer(nobody: str) -> None:
    """The model hears that there are no notes to be had, and the run goes on."""
    script = Script("Certainly.")
    async with AsyncPrimaryClient(nobody) as gone:
        agent = Agent(FunctionModel(script.step), tools=[notes_tool(gone, "session-1")])
        assert (await agent.run("Hello")).output == "Certainly."
    assert script.told == {"ready": False, "reason": "unavailable"}


async def test_an_observer_looks_after_each_run(
    recorder: TurnRecorder, primary: PrimaryClient, session_id: str
) -> None:
    """What was said is in the transcript once, though messages are handed on; then there are notes on it."""
    agent = Agent(
        TestModel(custom_output_text="Tell me more."),
        deps_type=Caller,
        capabilities=[Observed(recorder, lambda run: run.deps.session_id)],
    )
    first = await agent.run("I want my money back.", deps=Caller(session_id))
    async with agent.run_stream("A lamp.", deps=Caller(session_id), message_history=first.all_messages()) as second:
        assert await second.get_output() == "Tell me more."
    wait_for_summary(primary, session_id, "4 turns")
    assert said(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "Tell me more."),
        ("user", "A lamp."),
        ("primary", "Tell me more."),
    ]


async def test_input_and_output_of_other_kinds(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Of input in parts the text is recorded, structured output as JSON."""

    class Answer(BaseModel):
        text: str

    model = TestModel(custom_output_args={"text": "I see"})
    agent = Agent(model, output_type=Answer, capabilities=[Observed(recorder, session_id)])
    await agent.run(["See", "this"])
    wait_for_summary(primary, session_id, "3 turns")
    assert said(primary, session_id)[2] == ("primary", '{"text":"I see"}')


async def test_an_outage_holds_up_no_run(hung: TurnRecorder, session_id: str) -> None:
    """A sidecar that says nothing costs the run nothing."""
    agent = Agent(TestModel(custom_output_text="Certainly."), capabilities=[Observed(hung, session_id)])
    with promptly():
        assert (await agent.run("Hello")).output == "Certainly."
