"""A session of the OpenAI Agents SDK whose items are recorded, for `session_notes.integrations.openai_agents`."""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import wraps
from typing import Any

from agents import Session, SessionSettings, TResponseInputItem

from session_notes import Turn
from session_notes.integrations._messages import content_text, field_of
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations._tool_calls import call_turn, result_turn


def own_id(session: Session) -> str:
    """Return the id of an SDK session. It is the default session id."""
    return session.session_id


class ObservedSession:
    """An SDK session whose items are recorded as they are added, for `Runner.run(..., session=...)`.

    It records the user's messages, the messages of every agent, and on request tool calls and their results (speaker
    `tool`). After items that end with an agent's message, it submits an observer run. Use it instead of
    `ObserverHooks`: both would record each turn twice.

    The wrapped session remains the only one that the SDK reads. Recording never delays it, changes it, or raises. Items
    that it fails to add are not recorded. Items that the SDK removes and adds again, as in a retry, are recorded once.
    Wrap an `OpenAIResponsesCompactionSession` rather than the session in it, which gets its summaries.

    Args:
        session: The SDK session to wrap.
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the wrapped session to one.
        tool_calls: Whether to record tool calls. Each call and each result counts as a turn.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    session_id: str
    session_settings: SessionSettings | None
    get_items: Callable[..., Coroutine[Any, Any, list[TResponseInputItem]]]
    add_items: Callable[..., Coroutine[Any, Any, None]]
    pop_item: Callable[..., Coroutine[Any, Any, TResponseInputItem | None]]
    clear_session: Callable[..., Coroutine[Any, Any, None]]

    def __init__(
        self,
        session: Session,
        recorder: Recorder,
        session_id: str | Callable[[Session], str] = own_id,
        *,
        tool_calls: bool = False,
    ) -> None:
        self._session = session
        self._hook = RecordingHook(recorder, session_id)
        self._tool_calls = tool_calls
        self._removed: list[TResponseInputItem] = []

        # With the signatures of the wrapped session, since the SDK passes its `wrapper` to methods that accept it.
        @wraps(session.add_items)
        async def add_items(items: list[TResponseInputItem], **options: Any) -> None:
            await session.add_items(items, **options)
            self._record(items)

        @wraps(session.pop_item)
        async def pop_item(**options: Any) -> TResponseInputItem | None:
            item = await session.pop_item(**options)
            self._removed += [item] if item is not None else []
            return item

        self.add_items, self.pop_item = add_items, pop_item

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the wrapped session, since the SDK treats some sessions differently (`isinstance`)."""
        return self._session.__class__

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped session."""
        if name == "_session":  # Not yet set, as in a copy.
            raise AttributeError(name)
        return getattr(self._session, name)

    def _record(self, items: list[TResponseInputItem]) -> None:
        with ErrorBoundary():
            turns = list(_turns([item for item in items if not self._is_back(item)], self._tool_calls))
            self._hook.record(self._session, turns, observe=bool(turns) and turns[-1].speaker == "primary")

    def _is_back(self, item: TResponseInputItem) -> bool:
        """Return whether an item is the next one to come back of those removed, newest first."""
        if self._removed and self._removed[-1] == item:
            self._removed.pop()
            return True
        self._removed.clear()
        return False


def _turns(items: Iterable[Any], tool_calls: bool) -> Iterator[Turn]:
    for item in items:
        role, kind = field_of(item, "role"), str(field_of(item, "type"))
        if role in ("user", "assistant"):
            if (text := content_text(field_of(item, "content"), "\n" if role == "user" else "")).strip():
                yield Turn("user" if role == "user" else "primary", text)
        elif tool_calls and kind.endswith("_call"):
            arguments = next((value for name in _ARGUMENTS if (value := field_of(item, name)) is not None), "")
            yield call_turn(field_of(item, "name") or kind, arguments, _call_id(item))
        elif tool_calls and kind.endswith("_call_output"):
            yield result_turn(field_of(item, "output"), _call_id(item))


_ARGUMENTS = ("arguments", "input", "action", "queries", "code")
"""Where the items of function calls, custom tools and hosted tools have their arguments."""


def _call_id(item: Any) -> Any:
    return field_of(item, "call_id") or field_of(item, "id")
