"""The integration with the Claude Agent SDK, with the real package, its Claude Code, and a scripted model."""

from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import HookMatcher, InMemorySessionStore, create_sdk_mcp_server, project_key_for_directory, tool
from session_notes import AsyncPrimaryClient, PrimaryClient, TurnRecorder
from session_notes.integrations.claude_agent_sdk import ObservedStore, notes_hook

from tests.integrations.frameworks.claude_models import ScriptedClaude, ask
from tests.integrations.frameworks.support import MemoryRecorder, stored_utterances, wait_for_summary
from tests.integrations.model_provider import running

KEY: Any = {"project_key": "p", "session_id": "s1"}


async def test_a_conversation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    async_primary: AsyncPrimaryClient,
    recorder: TurnRecorder,
    primary: PrimaryClient,
    noted_session: str,
) -> None:
    """The model gets notes when they have changed. The transcript has both sides' words, without notes, and once."""
    store = InMemorySessionStore()
    hook = notes_hook(async_primary, lambda _: noted_session)
    with running(ScriptedClaude("What did you order?", "Thank you.", "Bye.")) as model:
        options = model.options(
            tmp_path,
            monkeypatch,
            session_store=ObservedStore(store, recorder, lambda _: noted_session),
            hooks={"UserPromptSubmit": [HookMatcher(hooks=[hook])]},
        )
        assert await ask(options, "I want my money back.", "A lamp.") == ["What did you order?", "Thank you."]
        first, second = [str(request["messages"]) for request in model.requests]
    assert first.count("Wants a refund.") == second.count("Wants a refund.") == 1
    wait_for_summary(primary, noted_session, "5 turns")
    assert stored_utterances(primary, noted_session) == [
        ("user", "x"),
        ("user", "I want my money back."),
        ("primary", "What did you order?"),
        ("user", "A lamp."),
        ("primary", "Thank you."),
    ]
    assert store.size == 1


async def test_tool_calls_are_recorded_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call and its result are turns of the speaker `tool`, in the SDK's session, with their times."""

    @tool("look_up", "Look up an order.", {"order": str})
    async def look_up(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": f"{arguments['order']} is in store"}]}

    name = "mcp__shop__look_up"
    call = {"type": "tool_use", "id": "call-1", "name": name, "input": {"order": "4711"}}
    recorder, store = MemoryRecorder(), InMemorySessionStore()
    with running(ScriptedClaude([{"type": "text", "text": "One moment."}, call], "It is here.")) as model:
        options = model.options(
            tmp_path,
            monkeypatch,
            session_store=ObservedStore(store, recorder, tool_calls=True),
            mcp_servers={"shop": create_sdk_mcp_server("shop", tools=[look_up])},
            allowed_tools=[name],
        )
        assert await ask(options, "Where is my lamp?") == ["It is here."]
    assert [(turn.speaker, turn.text) for turn in recorder.turns if turn.speaker != "tool"] == [
        ("user", "Where is my lamp?"),
        ("primary", "One moment."),
        ("primary", "It is here."),
    ]
    call_turn, result_turn = (turn for turn in recorder.turns if turn.speaker == "tool")
    assert (call_turn.text, call_turn.extra) == (f'{name}({{"order":"4711"}})', {"call_id": "call-1"})
    assert "4711 is in store" in result_turn.text
    assert result_turn.extra == {"result_of": "call-1"}
    (session,) = await store.list_sessions(project_key_for_directory(tmp_path))
    assert recorder.sessions == {session["session_id"]}
    times = [turn.time for turn in recorder.turns]
    assert all(time is not None and time.tzinfo for time in times)


class FailingStore(InMemorySessionStore):
    """A store that fails once."""

    failed = False

    async def append(self, key: Any, entries: Any) -> None:
        """Store the entries at the second attempt."""
        if not self.failed:
            self.failed = True
            raise OSError("disk full")
        await super().append(key, entries)


async def test_the_wrapped_store_decides() -> None:
    """Its errors reach the SDK, which tries again. Exactly what it has stored is recorded, once."""
    recorder = MemoryRecorder()
    store = ObservedStore(FailingStore(), recorder)
    entries: Any = [{"type": "user", "uuid": "1", "message": {"role": "user", "content": "Hello"}}]
    with pytest.raises(OSError, match="disk full"):
        await store.append(KEY, entries)
    assert recorder.turns == []
    await store.append(KEY, entries)
    await store.append(KEY, entries)
    assert recorder.utterances == [("user", "Hello")]


@pytest.mark.parametrize(
    "entry",
    [
        {"isMeta": True},
        {"isSidechain": True},
        {"isCompactSummary": True},
        {"type": "attachment"},
        {"type": "summary", "message": None},
        {"origin": {"kind": "task-notification"}},
        {"origin": {"kind": "peer", "from": "agent"}},
        {"message": {"role": "user", "content": "<task-notification>\n<summary>Done</summary>\n</task-notification>"}},
        {"message": {"role": "user", "content": "<local-command-stdout>Compacted</local-command-stdout>"}},
        {"message": {"role": "user", "content": [{"type": "text", "text": "[Request interrupted by user]"}]}},
        {"type": "assistant", "message": {"model": "<synthetic>", "content": "No response requested."}},
        {"message": {"role": "user", "content": [{"type": "image"}, {"type": "thinking", "thinking": "x"}]}},
        {"message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]}},
    ],
)
async def test_only_speech_is_recorded(entry: dict[str, Any]) -> None:
    """What Claude Code adds to a conversation, subagents, and tools unless requested are not recorded."""
    recorder = MemoryRecorder()
    store = ObservedStore(InMemorySessionStore(), recorder)
    await store.append(KEY, [{"type": "user", "message": {"role": "user", "content": "x"}} | entry])  # type: ignore[list-item]
    await store.append(KEY | {"subpath": "subagents/agent-1"}, [_said("x")])
    assert recorder.turns == []
    await store.append(KEY, [_said("Hello"), _said("Hi") | {"origin": {"kind": "human"}}])
    assert recorder.utterances == [("user", "Hello"), ("user", "Hi")]


def _said(text: str) -> Any:
    return {"type": "user", "message": {"role": "user", "content": text}}
