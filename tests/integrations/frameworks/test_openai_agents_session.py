"""Sessions and input filters of the OpenAI Agents SDK, with the real package and a scripted model."""

from collections.abc import Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    OpenAIConversationsSession,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from agents.memory import Session, is_openai_responses_compaction_aware_session
from agents.run import CallModelData
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, TurnRecorder
from session_notes.integrations.openai_agents import ObservedSession, notes_filter

from tests.integrations.frameworks.openai_agents_models import ScriptedModel, message, tool_call
from tests.integrations.frameworks.support import (
    Caller,
    MemoryRecorder,
    stored_utterances,
    wait_for_summary,
)

# By default, the SDK sends traces to OpenAI.
set_tracing_disabled(True)


@function_tool
def look_up(order: str) -> str:
    """Look up an order."""
    return f"{order} is in store"


STEPS: tuple[Any, ...] = ([message("One moment."), tool_call("look_up", '{"order": "4711"}')], "It is here.")


def session_of(data: CallModelData[Caller]) -> str:
    """Return the session of a model call."""
    assert data.context is not None
    return data.context.session_id


@pytest.fixture
def memory() -> Iterator[SQLiteSession]:
    """A session of the SDK, in memory."""
    memory = SQLiteSession("of the SDK")
    yield memory
    memory.close()


async def test_items_are_recorded_as_they_are_added(
    recorder: TurnRecorder, primary: PrimaryClient, memory: SQLiteSession, session_id: str
) -> None:
    """The transcript has the messages of both sides in order and once, and the SDK's session has every item."""
    agent = Agent(name="Support", model=ScriptedModel(*STEPS, "Bye."), tools=[look_up])
    session = ObservedSession(memory, recorder, session_id)
    await Runner.run(agent, "Where is my lamp?", session=session)
    await Runner.run(agent, "Thanks.", session=session)
    wait_for_summary(primary, session_id, "5 turns")
    assert stored_utterances(primary, session_id) == [
        ("user", "Where is my lamp?"),
        ("primary", "One moment."),
        ("primary", "It is here."),
        ("user", "Thanks."),
        ("primary", "Bye."),
    ]
    assert len(await memory.get_items()) == 7


async def test_tool_calls_are_recorded_on_request(memory: SQLiteSession) -> None:
    """A call and its result are turns of the speaker `tool`, in the SDK's session by default."""
    recorder = MemoryRecorder()
    agent = Agent(name="Support", model=ScriptedModel(*STEPS), tools=[look_up])
    await Runner.run(agent, "Where?", session=ObservedSession(memory, recorder, tool_calls=True))
    assert recorder.utterances == [
        ("user", "Where?"),
        ("primary", "One moment."),
        ("tool", 'look_up({"order": "4711"})'),
        ("tool", "4711 is in store"),
        ("primary", "It is here."),
    ]
    assert [turn.extra for turn in recorder.turns[2:4]] == [{"call_id": "call-1"}, {"result_of": "call-1"}]
    assert recorder.sessions == {"of the SDK"}
    assert recorder.observed == [False, False, True]


async def test_items_that_come_back_are_recorded_once(memory: SQLiteSession) -> None:
    """The SDK removes the items of an attempt that it repeats. What it adds then is new only if it differs."""
    recorder = MemoryRecorder()
    session: Session = ObservedSession(memory, recorder)
    items: Any = [{"role": "user", "content": text} for text in ("a", "b", "c")]
    await session.add_items(items)
    await session.pop_item()
    await session.pop_item()
    await session.add_items([items[1], {"role": "user", "content": "d"}, items[2]])
    assert [turn.text for turn in recorder.turns] == ["a", "b", "c", "d", "c"]
    assert await session.get_items() == [*items[:2], {"role": "user", "content": "d"}, items[2]]


class FailingSession(SQLiteSession):
    """A session that stores nothing, and needs the run's context for it."""

    wrapper: Any = None

    async def get_items(self, limit: Any = None, wrapper: Any = None) -> list[Any]:
        """Return nothing."""
        return []

    async def add_items(self, items: list[Any], wrapper: Any = None) -> None:
        """Raise an error."""
        self.wrapper = wrapper
        raise OSError("disk full")

    async def pop_item(self, wrapper: Any = None) -> Any:
        """Remove nothing."""
        return None

    async def clear_session(self, wrapper: Any = None) -> None:
        """Do nothing."""


async def test_the_wrapped_session_decides() -> None:
    """Its errors reach the SDK, and it gets what the SDK passes to sessions of its kind. Then nothing is recorded."""
    recorder, failing = MemoryRecorder(), FailingSession("s1")
    agent = Agent[Caller](name="Support", model=ScriptedModel("Hello."))
    with pytest.raises(OSError, match="disk full"):
        await Runner.run(agent, "Hi", session=ObservedSession(failing, recorder), context=Caller("c1"))
    assert failing.wrapper.context == Caller("c1")
    assert recorder.turns == []
    failing.close()


async def test_special_sessions_stay_special(memory: SQLiteSession) -> None:
    """The SDK recognizes the class and the methods of a wrapped session."""
    client: Any = object()
    wrapped = ObservedSession(OpenAIConversationsSession(conversation_id="c1", openai_client=client), MemoryRecorder())
    assert isinstance(wrapped, OpenAIConversationsSession)
    assert wrapped.session_id == "c1"
    assert not is_openai_responses_compaction_aware_session(ObservedSession(memory, MemoryRecorder()))


async def test_notes_come_with_every_input(
    async_primary: AsyncPrimaryClient, observer: ObserverClient, noted_session: str, memory: SQLiteSession
) -> None:
    """The notes are the last message of each input, current each time, and never in the SDK's session."""
    model = ScriptedModel(*STEPS, "Bye.")
    agent = Agent[Caller](name="Support", model=model, tools=[look_up])
    config = RunConfig(call_model_input_filter=notes_filter(async_primary, session_of))
    options: Any = {"session": memory, "run_config": config, "context": Caller(noted_session)}
    await Runner.run(agent, "Where is my lamp?", **options)
    with observer.run(noted_session) as run:
        run.write(Notes(summary="Wants a lamp."))
    await Runner.run(agent, "Thanks.", **options)
    inputs: list[list[Any]] = model.inputs
    assert all("Wants a refund." in input[-1]["content"] for input in inputs[:2])
    assert "Wants a lamp." in inputs[2][-1]["content"]
    assert "session-notes" not in str([input[:-1] for input in inputs])
    assert "session-notes" not in str(await memory.get_items())
