"""Pydantic AI: the real package, with its own models for tests, which follow a script."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelRetry,
    RunContext,
    SystemPromptPart,
    TextContent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolOutput,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations.pydantic_ai import Observed, notes_tool

from tests.integrations.frameworks.conftest import Listener, promptly, said, wait_for_summary


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


SPOKEN = "Let me look that up."
EARLIER: list[ModelMessage] = [ModelRequest([UserPromptPart("Earlier")]), ModelResponse([TextPart("Yes?")])]


class Steps(FunctionModel):
    """Answers with these parts, one list after the other; an exception is raised."""

    def __init__(self, *steps: list[Any] | Exception) -> None:
        self.steps = list(steps)
        super().__init__(self._step, stream_function=self._streamed)

    def _step(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return ModelResponse([TextPart(part) if isinstance(part, str) else part for part in step])

    async def _streamed(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for number, part in enumerate(self.steps.pop(0)):  # type: ignore[arg-type]
            yield part if isinstance(part, str) else {number: DeltaToolCall(part.tool_name, "{}")}


def listening(heard: Listener, *steps: list[Any] | Exception, **options: Any) -> Agent[None, Any]:
    """An agent that is recorded."""
    agent: Agent[None, Any] = Agent(Steps(*steps), capabilities=[Observed(heard, "session-1")], **options)

    @agent.tool_plain
    def look_up() -> str:
        return "in store"

    return agent


@pytest.mark.parametrize(
    ("prompt", "history", "words"),
    [
        ("Hello", EARLIER, ["Hello"]),
        (["Hello", ImageUrl("https://example.com/x.png"), TextContent("Again")], None, ["Hello", "Again"]),
        ([ImageUrl("https://example.com/x.png")], None, []),
        (None, [ModelRequest([SystemPromptPart("x"), UserPromptPart("Hello")])], ["Hello"]),
        (None, [*EARLIER, ModelRequest([UserPromptPart(["Hello", TextContent("Again")])])], ["Hello", "Again"]),
        ("Again", [*EARLIER, ModelRequest([UserPromptPart("Hello")])], ["Hello", "Again"]),
        ("Hello", [*EARLIER, ModelRequest([UserPromptPart("Hello")])], ["Hello", "Hello"]),
    ],
)
async def test_the_words_of_a_run_whatever_it_begins_with(
    prompt: Any, history: list[ModelMessage] | None, words: list[str]
) -> None:
    """All that the user has said since the last answer, and nothing else."""
    heard = Listener()
    await listening(heard, ["Certainly."]).run(prompt, message_history=history)
    assert heard.turns == [*(("user", text) for text in words), ("primary", "Certainly.")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_model_says_before_a_tool_call(streamed: bool) -> None:
    """It is recorded, in order; neither the call nor its result is."""
    heard = Listener()
    agent = listening(heard, [SPOKEN, ToolCallPart("look_up")], ["Here."])
    if streamed:
        async with agent.run_stream_events("Hello") as events:
            async for _ in events:
                pass
    else:
        await agent.run("Hello")
    assert heard.turns == [("user", "Hello"), ("primary", SPOKEN), ("primary", "Here.")]


async def test_thinking_is_not_speech() -> None:
    """Parts of a text make one turn, and what the model thinks is in none."""
    heard = Listener()
    await listening(heard, [ThinkingPart("Hm."), "Here ", "it is."]).run("Hello")
    assert heard.turns == [("user", "Hello"), ("primary", "Here it is.")]


async def test_a_run_that_waits_for_an_approval() -> None:
    """The user hears no JSON; the words are recorded with the first run, the answer with the second."""
    heard = Listener()
    agent = listening(
        heard, [SPOKEN, ToolCallPart("refund", tool_call_id="1")], ["Done."], output_type=[str, DeferredToolRequests]
    )

    @agent.tool_plain(requires_approval=True)
    def refund() -> str:
        return "refunded"

    first = await agent.run("Hello")
    assert heard.turns == [("user", "Hello"), ("primary", SPOKEN)]
    results = DeferredToolResults(approvals={"1": True})
    await agent.run(message_history=first.all_messages(), deferred_tool_results=results)
    assert heard.turns == [("user", "Hello"), ("primary", SPOKEN), ("primary", "Done.")]


async def test_an_output_that_a_tool_or_a_validator_makes() -> None:
    """The user hears the output, not what it is made of, and no response that was refused."""

    def shout(text: str) -> str:
        return text.upper()

    heard = Listener()
    step = [SPOKEN, ToolCallPart("shout", {"text": "here"})]
    await listening(heard, step, output_type=ToolOutput(shout, name="shout")).run("Hello")
    assert heard.turns == [("user", "Hello"), ("primary", SPOKEN), ("primary", "HERE")]

    heard = Listener()
    agent = listening(heard, ["no"], ["here"])

    @agent.output_validator
    def check(ctx: RunContext[None], output: str) -> str:
        if output == "no":
            raise ModelRetry("Be kind.")
        return output.upper()

    await agent.run("Hello")
    assert heard.turns == [("user", "Hello"), ("primary", "HERE")]


async def test_a_history_that_is_summed_up() -> None:
    """The summary is not what the user said, and the words are not lost that it replaces."""

    def sum_up(messages: list[ModelMessage]) -> list[ModelMessage]:
        if len(messages) < 3:
            return messages
        return [ModelRequest([UserPromptPart("Much was said.")]), *messages[-2:]]

    heard = Listener()
    steps: list[Any] = [[f"{SPOKEN} {number}", ToolCallPart("look_up")] for number in range(2)]
    agent: Agent[None, str] = Agent(
        Steps(*steps, ["Here."]), capabilities=[ProcessHistory(sum_up), Observed(heard, "session-1")]
    )

    @agent.tool_plain
    def look_up() -> str:
        return "in store"

    await agent.run("Hello", message_history=EARLIER)
    assert ("user", "Much was said.") not in heard.turns
    assert heard.turns[0] == ("user", "Hello")
    assert heard.turns[-1] == ("primary", "Here.")


@pytest.mark.parametrize("history", [EARLIER, [*EARLIER, ModelRequest([UserPromptPart("Are you there?")])]])
async def test_a_summary_in_front_of_the_prompt(history: list[ModelMessage]) -> None:
    """A summary right before the prompt is not what the user said, and hides nothing that was said before."""

    def sum_up(messages: list[ModelMessage]) -> list[ModelMessage]:
        return [ModelRequest([UserPromptPart("Much was said.")]), messages[-1]]

    heard = Listener()
    agent: Agent[None, str] = Agent(
        Steps(["Here."]), capabilities=[ProcessHistory(sum_up), Observed(heard, "session-1")]
    )
    await agent.run("Hello", message_history=history)
    unanswered = [("user", "Are you there?")] if len(history) > len(EARLIER) else []
    assert heard.turns == [*unanswered, ("user", "Hello"), ("primary", "Here.")]


async def test_a_run_that_failed_and_its_retry() -> None:
    """The failed one leaves nothing; the words are recorded with the run that answers them, once."""
    heard = Listener()
    agent = listening(heard, [SPOKEN, ToolCallPart("look_up")], RuntimeError(), ["Here."])
    with pytest.raises(RuntimeError):
        await agent.run("Hello")
    assert heard.turns == []
    await agent.run("Hello")
    assert heard.turns == [("user", "Hello"), ("primary", "Here.")]


def no_session(_: Any) -> str:
    raise KeyError("my order 4711")


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda run: None])
async def test_a_hook_that_fails_leaves_the_run_alone(session_id: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a session that is not found, nor a broken recorder, nor a strange result reaches the run, nor the log."""
    observed = Observed(Listener(RuntimeError("my order 4711")), session_id)
    agent: Agent[None, str] = Agent(Steps(["Certainly."]), capabilities=[observed])
    assert (await agent.run("Hello")).output == "Certainly."
    strange: Any = object()
    assert await observed.after_run(strange, result=strange) is strange
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)


async def test_a_tool_that_takes_too_long_ends_no_run(silent: str) -> None:
    """Pydantic AI's own limit on tools cuts the reading short; the model hears so, and the run goes on."""
    async with AsyncPrimaryClient(silent, timeout=timedelta(seconds=30)) as hanging:
        agent: Agent[None, str] = Agent(
            Steps([ToolCallPart("get_session_notes")], ["Certainly."]),
            tools=[notes_tool(hanging, "session-1")],
            tool_timeout=0.2,
        )
        with promptly():
            assert (await agent.run("Hello")).output == "Certainly."
