"""The integration with Microsoft Agent Framework, with the real package and scripted chat clients."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from agent_framework import (
    Agent,
    AgentLoopMiddleware,
    AgentSession,
    Content,
    InMemoryHistoryProvider,
    Message,
    WorkflowBuilder,
    tool,
)
from pydantic import BaseModel
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, TurnRecorder
from session_notes.integrations.agent_framework import NotesProvider, ObserverProvider, notes_tool

from tests.integrations.frameworks.agent_framework_models import ScriptedClient, read_notes, tool_call
from tests.integrations.frameworks.support import (
    MemoryRecorder,
    no_session,
    promptly,
    stored_utterances,
    wait_for_summary,
)

PREFACE = "Let me look that up."
EARLIER = [Message("user", ["Earlier"]), Message("assistant", ["Yes?"])]


def own_id(session: AgentSession) -> str:
    """Return the session id in a session's state."""
    return str(session.state["id"])


@tool
def look_up() -> str:
    """Look up the order."""
    return "in store"


@tool(approval_mode="always_require")
def refund() -> str:
    """Refund the order."""
    return "refunded"


def agent_with(client: ScriptedClient, *providers: Any, **options: Any) -> Agent[Any]:
    """Return an agent with tools."""
    return Agent(client, context_providers=providers, **{"tools": [look_up, refund], **options})


def recorded_agent(recorder: MemoryRecorder, *steps: Any, **options: Any) -> Agent[Any]:
    """Return an agent that records its runs and has tools."""
    return agent_with(ScriptedClient(*steps), ObserverProvider(recorder), **options)


@pytest.mark.parametrize("own", [False, True])
async def test_tool_reads_the_applications_session(
    async_primary: AsyncPrimaryClient, noted_session: str, own: bool
) -> None:
    """The model gets the notes of the run's session, whatever arguments it sends."""
    client = ScriptedClient(read_notes(), "Certainly.")
    session = AgentSession(session_id="other" if own else noted_session)
    session.state["id"] = noted_session
    read = notes_tool(async_primary, own_id, max_turns_behind=1) if own else notes_tool(async_primary)
    assert (await agent_with(client, tools=[read]).run("Hello", session=session)).text == "Certainly."
    answer = json.loads(client.tool_result)
    assert (answer["ready"], answer["fresh"], answer["notes"]) == (True, True, {"summary": "Wants a refund."})
    assert client.tools[0].parameters()["properties"] == {}


async def test_outage_is_a_tool_result(unreachable: str) -> None:
    """The model gets `unavailable`, and the run continues."""
    client = ScriptedClient(read_notes(), "Certainly.")
    async with AsyncPrimaryClient(unreachable) as primary:
        agent = agent_with(client, tools=[notes_tool(primary, "session-1")])
        assert (await agent.run("Hello")).text == "Certainly."
    assert json.loads(client.tool_result) == {"ready": False, "reason": "unavailable"}


@pytest.mark.parametrize("per_call", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_notes_in_the_input(
    async_primary: AsyncPrimaryClient, noted_session: str, per_call: bool, streamed: bool
) -> None:
    """Each model call has the notes once, at its end unless history is stored per call, and the history has none."""
    client = ScriptedClient([PREFACE, tool_call("look_up")], "Certainly.", "You are welcome.")
    history = [InMemoryHistoryProvider()] if per_call else []
    agent = agent_with(
        client, NotesProvider(async_primary), *history, require_per_service_call_history_persistence=per_call
    )
    session = AgentSession(session_id=noted_session)
    for prompt in ("Hello", "Thanks"):
        if streamed:
            await agent.run(prompt, stream=True, session=session).get_final_response()
        else:
            await agent.run(prompt, session=session)
    assert len(client.texts) == 3
    for texts in client.texts:
        assert ["Wants a refund." in text for text in texts].count(True) == 1
        assert per_call or "Wants a refund." in texts[-1]
    assert "Thanks" in client.texts[-1]
    assert "Hello" in client.texts[-1]
    assert "session-notes observer" not in json.dumps(session.to_dict())


async def test_notes_in_a_conversation_that_the_service_stores(
    async_primary: AsyncPrimaryClient, observer: ObserverClient, noted_session: str
) -> None:
    """The notes are sent once, and again when they have changed."""
    client = ScriptedClient([tool_call("look_up")], "Yes?", "Yes?", "Yes?", conversation_id="c1")
    agent = agent_with(client, NotesProvider(async_primary))
    session = AgentSession(session_id=noted_session, service_session_id="c1")
    for prompt in ("First", "Second"):
        await agent.run(prompt, session=session)
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Has a receipt."))
    await agent.run("Third", session=session)
    sent = ["".join(texts) for texts in client.texts]
    assert ["Wants a refund." in text for text in sent] == [True, False, False, False]
    assert ["Has a receipt." in text for text in sent] == [False, False, False, True]


@pytest.mark.parametrize("streamed", [False, True])
async def test_stored_notes_are_those_of_answered_calls(
    async_primary: AsyncPrimaryClient, observer: ObserverClient, noted_session: str, streamed: bool
) -> None:
    """The notes are sent once, also in the tool loop of the first run, and again if the call failed."""
    client = ScriptedClient([tool_call("look_up")], "Yes?", RuntimeError(), *["Yes?"] * 3, conversation_id="c1")
    agent = agent_with(client, NotesProvider(async_primary))
    session = AgentSession(session_id=noted_session)

    async def say(prompt: str) -> None:
        if streamed:
            await agent.run(prompt, stream=True, session=session).get_final_response()
        else:
            await agent.run(prompt, session=session)

    await say("First")
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Has a receipt."))
    with pytest.raises(RuntimeError):
        await say("Second")
    await say("Second")
    session = AgentSession.from_dict(session.to_dict())  # As in a new process.
    agent = agent_with(client, NotesProvider(async_primary))
    await say("Third")
    session.service_session_id = "c2"  # The application begins another conversation.
    await say("Fourth")
    notes = ["".join(text for text in texts if "session-notes" in text) for texts in client.texts]
    assert ["Wants a refund." in text for text in notes] == [True, False, False, False, False, False]
    assert ["Has a receipt." in text for text in notes] == [False, False, True, True, False, True]


async def test_concurrent_sessions(async_primary: AsyncPrimaryClient, noted_session: str) -> None:
    """Concurrent runs of one agent each have the notes and the turns of their session."""
    recorder = MemoryRecorder()
    client = ScriptedClient("Certainly.", "Certainly.")
    agent = agent_with(client, NotesProvider(async_primary), ObserverProvider(recorder))
    sessions = [noted_session, f"{noted_session}-2"]
    await asyncio.gather(*(agent.run(name, session=AgentSession(session_id=name)) for name in sessions))
    assert {texts[0]: "Wants a refund." in texts[-1] for texts in client.texts} == dict(
        zip(sessions, [True, False], strict=True)
    )
    assert recorder.sessions == set(sessions)
    assert len(recorder.turns) == 4


async def test_provider_records_and_submits(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """Each turn is in the transcript once, although the history repeats it, and the observer writes notes."""
    agent = agent_with(ScriptedClient("Tell me more.", "I see."), ObserverProvider(recorder))
    session = AgentSession(session_id=session_id)
    await agent.run("I want my money back.", session=session)
    restored = AgentSession.from_dict(session.to_dict())
    await agent.run("A lamp.", session=restored)
    wait_for_summary(primary, session_id, "4 turns")
    assert stored_utterances(primary, session_id) == [
        ("user", "I want my money back."),
        ("primary", "Tell me more."),
        ("user", "A lamp."),
        ("primary", "I see."),
    ]


async def test_outage_does_not_delay_the_run(hanging_recorder: TurnRecorder, session_id: str) -> None:
    """The run does not wait for a sidecar that hangs."""
    with promptly():
        await agent_with(ScriptedClient("Certainly."), ObserverProvider(hanging_recorder, session_id)).run("Hello")


@pytest.mark.parametrize(
    ("messages", "texts"),
    [
        ("Hello", ["Hello"]),
        (["Hello", "Again"], ["Hello", "Again"]),
        ([*EARLIER, Message("user", ["Hello"])], ["Hello"]),
        ([Message("system", ["x"]), Message("user", ["Hello"]), Message("system", ["y"])], ["Hello"]),
        (Message("user", ["See", Content.from_uri("https://example.com/x.png", media_type="image/png")]), ["See"]),
        (Message("user", ["See", "this"]), ["See\nthis"]),
        (Content.from_uri("https://example.com/x.png", media_type="image/png"), []),
    ],
)
async def test_user_turns_of_any_input(messages: Any, texts: list[str]) -> None:
    """The provider records all messages of the user since the last answer, and nothing else."""
    recorder = MemoryRecorder()
    await recorded_agent(recorder, "Certainly.").run(messages)
    assert recorder.utterances == [*(("user", text) for text in texts), ("primary", "Certainly.")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_text_before_a_tool_call(streamed: bool) -> None:
    """The text is recorded in order, without reasoning, the call and its result."""
    recorder = MemoryRecorder()
    reasoning = Content.from_text_reasoning(text="Hm.")
    agent = recorded_agent(recorder, [reasoning, PREFACE, tool_call("look_up")], ["Here ", "it is."])
    if streamed:
        async for _ in agent.run("Hello", stream=True):
            pass
    else:
        await agent.run("Hello")
    assert recorder.utterances == [("user", "Hello"), ("primary", PREFACE), ("primary", "Here it is.")]
    assert recorder.observed == [True]


async def test_structured_output() -> None:
    """The output is recorded as JSON."""

    class Refund(BaseModel):
        amount: int

    recorder = MemoryRecorder()
    response = await recorded_agent(recorder, '{"amount":7}').run("How much?", options={"response_format": Refund})
    assert response.value == Refund(amount=7)
    assert recorder.utterances == [("user", "How much?"), ("primary", '{"amount":7}')]


async def test_run_with_an_approval() -> None:
    """The user's message is recorded with the first run and the answer with the second, without the request."""
    recorder = MemoryRecorder()
    agent, session = recorded_agent(recorder, [PREFACE, tool_call("refund")], "Done."), AgentSession()
    first = await agent.run("Hello", session=session)
    before = [("user", "Hello"), ("primary", PREFACE)]
    assert recorder.utterances == before
    approvals = [request.to_function_approval_response(True) for request in first.user_input_requests]
    assert (await agent.run(Message("user", approvals), session=session)).text == "Done."
    assert recorder.utterances == [*before, ("primary", "Done.")]


async def test_failed_run() -> None:
    """A failed run records nothing; the retry records the user's message once, with the answer."""
    recorder = MemoryRecorder()
    agent, session = recorded_agent(recorder, [PREFACE, tool_call("look_up")], RuntimeError(), "Here."), AgentSession()
    with pytest.raises(RuntimeError):
        await agent.run("Hello", session=session)
    assert recorder.utterances == []
    await agent.run("Hello", session=session)
    assert recorder.utterances == [("user", "Hello"), ("primary", "Here.")]


@pytest.mark.filterwarnings("ignore:.*AgentLoopMiddleware is experimental")
@pytest.mark.parametrize(("streamed", "combined"), [(False, False), (False, True), (True, False)])
async def test_loop(streamed: bool, combined: bool) -> None:
    """Of a loop, the user's message and the response are recorded once, without the loop's own messages."""
    recorder = MemoryRecorder()
    loop = AgentLoopMiddleware(lambda iteration, **_: iteration < 2, return_final_only=not combined)
    agent = recorded_agent(recorder, "No.", "Certainly.", middleware=[loop])
    if streamed:
        await agent.run("Hello", stream=True, session=AgentSession()).get_final_response()
    else:
        await agent.run("Hello", session=AgentSession())
    answers = ["No.", "Certainly."] if combined else ["Certainly."]
    assert recorder.utterances == [("user", "Hello"), *(("primary", text) for text in answers)]
    assert recorder.observed == [True]


async def test_notes_in_a_workflow(async_primary: AsyncPrimaryClient, noted_session: str) -> None:
    """The agents of a workflow get the notes of a fixed session id, since they have sessions of their own."""
    clients = ScriptedClient("Draft."), ScriptedClient("Certainly.")
    first, second = (
        Agent(client, name=f"agent-{number}", context_providers=[NotesProvider(async_primary, noted_session)])
        for number, client in enumerate(clients)
    )
    workflow = WorkflowBuilder(start_executor=first).add_edge(first, second).build()
    await workflow.as_agent("Support").run("Hello", session=AgentSession(session_id="other"))
    assert ["Wants a refund." in client.texts[0][-1] for client in clients] == [True, True]


async def test_workflow() -> None:
    """A workflow as an agent records the user's message and the answer, whatever its agents tell each other."""
    recorder = MemoryRecorder()
    first, second = (Agent(ScriptedClient(text), name=text) for text in ("Draft.", "Certainly."))
    workflow = WorkflowBuilder(start_executor=first, output_from=[second]).add_edge(first, second).build()
    agent = workflow.as_agent("Support", context_providers=[ObserverProvider(recorder, "session-1")])
    assert (await agent.run("Hello")).text == "Certainly."
    assert recorder.utterances == [("user", "Hello"), ("primary", "Certainly.")]


@pytest.mark.parametrize("session_id", ["session-1", no_session, lambda session: None])
async def test_hook_errors_do_not_reach_the_run(session_id: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The run survives an unknown session and a failing recorder; the log has no user data."""
    recorder = MemoryRecorder(RuntimeError("my order 4711"))
    async with AsyncPrimaryClient("127.0.0.1:1", timeout=timedelta(seconds=1)) as primary:
        providers = [NotesProvider(primary, session_id), ObserverProvider(recorder, session_id)]
        assert (await agent_with(ScriptedClient("Certainly."), *providers).run("Hello")).text == "Certainly."
    assert "did not record" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
