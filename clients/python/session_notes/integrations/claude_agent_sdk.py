"""Claude Agent SDK: a session store that also records turns, and a hook that adds notes to the user's prompts.

>>> options = ClaudeAgentOptions(
...     session_store=ObservedStore(store, recorder),
...     hooks={"UserPromptSubmit": [HookMatcher(hooks=[notes_hook(primary, max_turns_behind=4)])]},
... )
>>> async with ClaudeSDKClient(options) as client:
...     await client.query("I want my money back.")

By default, the SDK's session id is the session id.
"""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Unpack

from session_notes import AsyncPrimaryClient, Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._feeds import FeedOptions, Feeds
from session_notes.integrations._messages import field_of
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_calls import call_turn, result_turn

try:
    from claude_agent_sdk import HookCallback, HookContext, HookInput, HookJSONOutput, SessionStore
    from claude_agent_sdk.types import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
    )
except ImportError as error:
    raise missing_extra(__name__, error) from error


def own_id(context: Any) -> str:
    """Return the SDK's session id from a store's key or a hook's input. It is the default session id."""
    return str(context["session_id"])


class ObservedStore:
    """A session store whose entries are also recorded, for `ClaudeAgentOptions(session_store=...)`.

    It records the user's prompts, the text of the agent's messages and, on request, tool calls and their results
    (speaker `tool`), with their times. It does not record thinking, images, subagents, and what Claude Code adds to a
    conversation: reminders, notifications of background tasks and interruptions, the notes themselves, and summaries of
    a compaction. After entries that end with the agent's text, it submits an observer run. By default, the SDK stores
    the entries of a turn when it ends; with `session_store_flush="eager"`, during the turn.

    The wrapped store has the only copy that the SDK reads. Recording never delays it, changes it, or raises. Entries
    that it fails to store are not recorded, and those that the SDK stores again are recorded once. Deleting a session
    in the store does not delete its turns here: call `delete_session` too.

    Args:
        store: The store to wrap, such as `InMemorySessionStore()`.
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps a `SessionKey` to one.
        tool_calls: Whether to record tool calls. Each call and each result counts as a turn.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    list_sessions: Callable[[str], Coroutine[Any, Any, list[SessionStoreListEntry]]]
    list_session_summaries: Callable[[str], Coroutine[Any, Any, list[SessionSummaryEntry]]]
    delete: Callable[[SessionKey], Coroutine[Any, Any, None]]
    list_subkeys: Callable[[SessionListSubkeysKey], Coroutine[Any, Any, list[str]]]

    def __init__(
        self,
        store: SessionStore,
        recorder: Recorder,
        session_id: str | Callable[[SessionKey], str] = own_id,
        *,
        tool_calls: bool = False,
    ) -> None:
        self._store = store
        self._hook = RecordingHook(recorder, session_id)
        self._tool_calls = tool_calls

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Store entries, then record them. Raises what the wrapped store raises."""
        await self._store.append(key, entries)
        if "subpath" not in key:  # Otherwise, it is the transcript of a subagent.
            with ErrorBoundary():
                turns = list(_turns(entries, self._tool_calls))
                observe = bool(turns) and turns[-1][1].speaker == "primary"
                self._hook.record_once(key, turns, observe=observe)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Load the entries of a session from the wrapped store."""
        return await self._store.load(key)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped store, unless it is an optional method that it does not implement."""
        if name == "_store" or getattr(type(self._store), name, None) is getattr(SessionStore, name, self):
            raise AttributeError(name)
        return getattr(self._store, name)


def notes_hook(
    client: AsyncPrimaryClient,
    session_id: str | Callable[[HookInput], str] = own_id,
    **options: Unpack[FeedOptions],
) -> HookCallback:
    """Make a hook for `UserPromptSubmit` that adds a session's notes to the user's prompt when they have changed.

    The notes remain in the conversation, so later ones follow earlier ones. The hook takes at most the client's
    timeout, and never raises or blocks a prompt.

    Args:
        client: Reads the notes. Open it in the event loop in which the SDK runs.
        session_id: The session id, or a function that maps the hook's input to one.
        **options: Options of `NotesFeed`: `observers`, `min_severity`, `max_chars`, `max_age`, `max_snapshot_age`,
            `max_turns_behind`.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`, or another argument is invalid.
    """
    feeds = Feeds(client, session_id, options)

    async def add_notes(data: HookInput, tool_use_id: str | None, context: HookContext) -> HookJSONOutput:
        if text := await feeds.news(data):
            return {"hookSpecificOutput": {"hookEventName": "UserPromptSubmit", "additionalContext": text}}
        return {}

    return add_notes


_NOT_SPEECH = ("isMeta", "isSidechain", "isCompactSummary", "isApiErrorMessage", "teamName")
"""Marks of entries that neither the user nor the agent wrote in this conversation."""

_NOT_TYPED = ("[Request interrupted by user", "<task-notification>", "<local-command-stdout>")
"""Beginnings of texts that Claude Code writes in the user's role, without a mark."""


def _is_speech(entry: Any) -> bool:
    origin = field_of(entry.get("origin"), "kind") or "human"
    written = field_of(entry.get("message"), "model") == "<synthetic>"  # By Claude Code, in the agent's role.
    return origin == "human" and not written and not any(entry.get(mark) for mark in _NOT_SPEECH)


def _turns(entries: Iterable[Any], tool_calls: bool) -> Iterator[tuple[str, Turn]]:
    """Yield the turns of entries, each with an id that stays the same if it is stored again."""
    for entry in entries:
        if entry["type"] in ("user", "assistant") and _is_speech(entry):
            content = field_of(entry.get("message"), "content") or ()
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for number, block in enumerate(blocks):
                if turn := _turn(entry, block, tool_calls):
                    yield f"{entry['uuid']} {number}" if "uuid" in entry else "", turn


def _turn(entry: Any, block: Any, tool_calls: bool) -> Turn | None:
    kind, time = field_of(block, "type"), _time(entry.get("timestamp"))
    if kind == "text":
        speaker = "user" if entry["type"] == "user" else "primary"
        is_typed = speaker == "primary" or not block["text"].startswith(_NOT_TYPED)
        return Turn(speaker, block["text"], time=time) if is_typed else None
    if tool_calls and kind == "tool_use":
        turn = call_turn(block["name"], block["input"], block["id"])
    elif tool_calls and kind == "tool_result":
        turn = result_turn(block.get("content"), block["tool_use_id"])
    else:
        return None
    return replace(turn, time=time)


def _time(timestamp: object) -> datetime | None:
    return datetime.fromisoformat(timestamp) if isinstance(timestamp, str) else None
