"""The integration with Pydantic AI, with the real package and scripted models."""

from collections.abc import AsyncIterator
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
from session_notes import AsyncPrimaryClient, PrimaryClient, TurnRecorder
from session_notes.integrations.pydantic_ai import Observed, notes_tool

from tests.integrations.frameworks.support import (
    Caller,
    MemoryRecorder,
    no_session,
    promptly,
    stored_utterances,
    wait_for_summary,
)

PREFACE = "Let me look that up."
EARLIER: list[ModelMessage] = [ModelRequest([UserPromptPart("Earlier")]), ModelResponse([TextPart("Yes?")])]


class ScriptedModel(FunctionModel):
    """A model that returns its steps in order. A step is a list of parts, or an exception to raise."""

    def __init__(self, *steps: list[Any] | Exception) -> None:
        self.tool_result: Any = None
        self.offered: dict[str, object] = {}
        self._steps = list(steps)
        super().__init__(self._step, stream_function=self._stream)

    def _step(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        for tool in info.function_tools:
            self.offered = tool.parameters_json_schema
        for part in messages[-1].parts:
            if isinstance(part, ToolReturnPart):
                self.tool_result = part.content
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return ModelResponse([TextPart(part) if isinstance(part, str) else part for part in step])

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for number, part in enumerate(self._steps.pop(0)):  # type: ignore[arg-type]
            yield part if isinstance(part, str) else {number: DeltaToolCall(part.tool_name, "{}")}


def read_notes() -> list[Any]:
    """Return a step that calls the notes tool and tries to name another session."""
    return [ToolCallPart("get_session_notes", {"session_id": "other"})]


async def test_tool_reads_the_applications_session(async_primary: AsyncPrimaryClient, noted_session: str) -> None:
    """The model gets the notes of the session in the run's deps, whatever arguments it sends."""
    model = ScriptedModel(read_notes(), ["Certainly."])
    tool = notes_tool(async_primary, lambda run: run.deps.session_id, max_age=timedelta(minutes=5), max_turns_behind=1)
    agent = Agent(model, deps_type=Caller, tools=[tool])
    assert (await agent.run("Hello", deps=Caller(noted_session))).output == "Certainly."
    assert isinstance(model.tool_result, dict)
    assert (model.tool_result["ready"], model.tool_result["fresh"]) == (True, True)
    assert model.tool_result["notes"] == {"summary": "Wants a refund."}
    assert model.offered["properties"] == {}


async def test_outage_is_a_tool_result(unreachable: str) -> None:
    """The model gets `unavailable`, and the run continues."""
    model = ScriptedModel(read_notes(), ["Certainly."])
    async with AsyncPrimaryClient(unreachable) as client:
        agent = Agent(model, tools=[notes_tool(client, "session-1")])
        assert (await agent.run("Hello")).output == "Certainly."
    assert model.tool_result == {"ready": False, "reason": "unavailable"}


async def test_capability_records_and_submits(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Each turn is in the transcript once, although the history repeats it, and the observer writes notes."""
    agent = Agent(
        TestModel(custom_output_text="Tell me more."),
        deps_type=Caller,
        capabilities=[Observed(recorder, lambda run: run.deps.session_id)],
    )
    first = await agent.run("I want my money back.", deps=Caller(session_id))
    async with agent.run_stream("A lamp.", deps=Caller(session_id), message_history=first.all_messages()) as second:
        assert await second.get_output() == "Tell me more."
    wait_for_summary(primary, session_id, "4 turns")
    assert stored_utterances(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "Tell me more."),
        ("user", "A lamp."),
        ("primary", "Tell me more."),
    ]


async def test_structured_input_and_output(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Input in parts is recorded as text, structured output as JSON."""

    class Answer(BaseModel):
        text: str

    model = TestModel(custom_output_args={"text": "I see"})
    agent = Agent(model, output_type=Answer, capabilities=[Observed(recorder, session_id)])
    await agent.run(["See", "this"])
    wait_for_summary(primary, session_id, "3 turns")
    assert stored_utterances(primary, session_id)[2] == ("primary", '{"text":"I see"}')


async def test_outage_does_not_delay_the_run(hanging_recorder: TurnRecorder, session_id: str) -> None:
    """The run does not wait for a sidecar that hangs."""
    agent = Agent(TestModel(custom_output_text="Certainly."), capabilities=[Observed(hanging_recorder, session_id)])
    with promptly():
        assert (await agent.run("Hello")).output == "Certainly."


def recorded_agent(recorder: MemoryRecorder, *steps: list[Any] | Exception, **options: Any) -> Agent[None, Any]:
    """Return an agent that records its runs and has a tool."""
    agent: Agent[None, Any] = Agent(ScriptedModel(*steps), capabilities=[Observed(recorder, "session-1")], **options)

    @agent.tool_plain
    def look_up() -> str:
        return "in store"

    return agent


@pytest.mark.parametrize(
    ("prompt", "history", "texts"),
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
async def test_user_turns_of_any_input(prompt: Any, history: list[ModelMessage] | None, texts: list[str]) -> None:
    """The capability records all messages of the user since the last answer, and nothing else."""
    recorder = MemoryRecorder()
    await recorded_agent(recorder, ["Certainly."]).run(prompt, message_history=history)
    assert recorder.utterances == [*(("user", text) for text in texts), ("primary", "Certainly.")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_text_before_a_tool_call(streamed: bool) -> None:
    """The text is recorded in order, without the call and its result."""
    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, [PREFACE, ToolCallPart("look_up")], ["Here."])
    if streamed:
        async with agent.run_stream_events("Hello") as events:
            async for _ in events:
                pass
    else:
        await agent.run("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE), ("primary", "Here.")]


async def test_thinking_is_not_recorded() -> None:
    """The text parts of a response form one turn, without the thinking."""
    recorder = MemoryRecorder()
    await recorded_agent(recorder, [ThinkingPart("Hm."), "Here ", "it is."]).run("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here it is.")]


async def test_run_with_an_approval() -> None:
    """The user's message is recorded with the first run and the answer with the second, without the request."""
    recorder = MemoryRecorder()
    agent = recorded_agent(
        recorder,
        [PREFACE, ToolCallPart("refund", tool_call_id="1")],
        ["Done."],
        output_type=[str, DeferredToolRequests],
    )

    @agent.tool_plain(requires_approval=True)
    def refund() -> str:
        return "refunded"

    first = await agent.run("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE)]
    results = DeferredToolResults(approvals={"1": True})
    await agent.run(message_history=first.all_messages(), deferred_tool_results=results)
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE), ("primary", "Done.")]


async def test_output_of_a_tool_or_a_validator() -> None:
    """The output is recorded, without the text from which it was made and without rejected responses."""

    def shout(text: str) -> str:
        return text.upper()

    recorder = MemoryRecorder()
    step = [PREFACE, ToolCallPart("shout", {"text": "here"})]
    await recorded_agent(recorder, step, output_type=ToolOutput(shout, name="shout")).run("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE), ("primary", "HERE")]

    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, ["no"], ["here"])

    @agent.output_validator
    def check(ctx: RunContext[None], output: str) -> str:
        if output == "no":
            raise ModelRetry("Be kind.")
        return output.upper()

    await agent.run("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "HERE")]


async def test_summary_of_the_history() -> None:
    """The summary is not recorded, and the turns that it replaces are still recorded."""

    def summarize(messages: list[ModelMessage]) -> list[ModelMessage]:
        if len(messages) < 3:
            return messages
        return [ModelRequest([UserPromptPart("A summary.")]), *messages[-2:]]

    recorder = MemoryRecorder()
    steps: list[Any] = [[f"{PREFACE} {number}", ToolCallPart("look_up")] for number in range(2)]
    agent: Agent[None, str] = Agent(
        ScriptedModel(*steps, ["Here."]), capabilities=[ProcessHistory(summarize), Observed(recorder, "session-1")]
    )

    @agent.tool_plain
    def look_up() -> str:
        return "in store"

    await agent.run("Hello", message_history=EARLIER)
    assert ("user", "A summary.") not in recorder.utterances
    assert recorder.utterances[0] == ("user", "Hello")
    assert recorder.utterances[-1] == ("primary", "Here.")


@pytest.mark.parametrize("history", [EARLIER, [*EARLIER, ModelRequest([UserPromptPart("Are you there?")])]])
async def test_summary_before_the_prompt(history: list[ModelMessage]) -> None:
    """A summary directly before the prompt is not recorded and does not hide unanswered messages."""

    def summarize(messages: list[ModelMessage]) -> list[ModelMessage]:
        return [ModelRequest([UserPromptPart("A summary.")]), messages[-1]]

    recorder = MemoryRecorder()
    agent: Agent[None, str] = Agent(
        ScriptedModel(["Here."]), capabilities=[ProcessHistory(summarize), Observed(recorder, "session-1")]
    )
    await agent.run("Hello", message_history=history)
    unanswered = [("user", "Are you there?")] if len(history) > len(EARLIER) else []
    assert recorder.utterances == [*unanswered, ("user", "Hello"), ("primary", "Here.")]


async def test_retry_of_a_failed_run() -> None:
    """A failed run records nothing; the retry records the user's message once, with the answer."""
    recorder = MemoryRecorder()
    agent = recorded_agent(recorder, [PREFACE, ToolCallPart("look_up")], RuntimeError(), ["Here."])
    with pytest.raises(RuntimeError):
        await agent.run("Hello")
    assert recorder.utterances == []
    await agent.run("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here.")]


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda run: None])
async def test_hook_errors_do_not_reach_the_run(session_id: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The run survives an unknown session, a failing recorder and an unusual result; the log has no user data."""
    observed = Observed(MemoryRecorder(RuntimeError("my order 4711")), session_id)
    agent: Agent[None, str] = Agent(ScriptedModel(["Certainly."]), capabilities=[observed])
    assert (await agent.run("Hello")).output == "Certainly."
    result: Any = object()
    assert await observed.after_run(result, result=result) is result
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)


async def test_tool_timeout(silent: str) -> None:
    """Pydantic AI's own timeout ends a tool call, and the run continues."""
    async with AsyncPrimaryClient(silent, timeout=timedelta(seconds=30)) as client:
        agent: Agent[None, str] = Agent(
            ScriptedModel([ToolCallPart("get_session_notes")], ["Certainly."]),
            tools=[notes_tool(client, "session-1")],
            tool_timeout=0.2,
        )
        with promptly():
            assert (await agent.run("Hello")).output == "Certainly."
