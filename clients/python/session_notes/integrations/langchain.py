"""LangChain agents: a tool that reads notes, and middleware that records turns and submits observer runs.

    >>> agent = create_agent(
    ...     model,
    ...     tools=[notes_tool(primary, max_turns_behind=2)],
    ...     middleware=[ObserverMiddleware(recorder)],
    ... )
    >>> agent.invoke({"messages": [("user", "...")]}, {"configurable": {"thread_id": "session-1"}})

By default, the thread id is the session id.

At the end of a run, the middleware records, in order: the human messages at the end of the input, each model message,
and the results of tools with `return_direct`. A structured response is recorded as JSON. An interrupted run is recorded
once it has been resumed and ends. With a checkpointer, a run that fails, or whose stream is not read to its end, is
recorded with the next run. See `session_notes.integrations.langgraph` for the content that is not recorded.

`SummarizationMiddleware` may replace messages with a summary before the run ends. The middleware therefore stores the
run's turns under a private key of the agent's state. Callers never see this key, and a checkpointer preserves it across
interrupts.
"""

from typing import Annotated, Any, NotRequired

from session_notes import Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._messages import after_last, field_of, output_text
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import PrivateStateAttr
    from langchain_core.messages import BaseMessage, SystemMessage, ToolMessage
    from langgraph.config import get_config
    from langgraph.runtime import Runtime

    from session_notes.integrations._langchain_messages import (
        is_from_model,
        is_from_user,
        last_exchange,
        messages_in,
        turn_of,
    )
    from session_notes.integrations.langgraph import SessionId, notes_tool, thread_id
except ImportError as error:
    raise missing_extra(__name__, error) from error

__all__ = ["ObserverMiddleware", "SessionId", "notes_tool", "thread_id"]

_TURNS = "session_notes_turns"


class _State(AgentState[Any]):
    """The agent's state, with the turns of the run so far: message id, speaker and text."""

    session_notes_turns: NotRequired[Annotated[list[list[Any]], PrivateStateAttr]]


class ObserverMiddleware(AgentMiddleware[_State, Any]):
    """Middleware that records the turns of each run, then submits an observer run.

    It never delays the agent, changes a message, or raises.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that maps the run's config to one.

    Raises:
        InvalidArgument: If the recorder or the session id has the wrong type.
    """

    state_schema = _State

    def __init__(self, recorder: Recorder, session_id: SessionId = thread_id) -> None:
        super().__init__()
        self._hook = RecordingHook(recorder, session_id)

    def before_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Store the user's new messages in the state. LangChain calls this at the start of a run."""
        with ErrorBoundary():
            messages = messages_in(field_of(state, "messages"))
            # The turns of a run that did not end come first: it was interrupted, or its caller stopped reading.
            entries = _entries(state)
            ids = [entry[0] for entry in entries]
            start = after_last(messages, lambda message: message.id in ids) or after_last(
                messages, lambda message: not (is_from_user(message) or isinstance(message, SystemMessage))
            )
            # Its last answer is not in the state if the caller stopped right after it.
            spoken = [message for message in messages[start:] if is_from_user(message) or is_from_model(message)]
            new = [message for message in spoken if message.id not in ids]
            return {_TURNS: entries + [_entry(message) for message in new]}
        return None

    def after_model(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Store the model's message in the state. LangChain calls this after each model call."""
        with ErrorBoundary():
            messages = messages_in(field_of(state, "messages"))
            if (last := next((message for message in reversed(messages) if is_from_model(message)), None)) is not None:
                return {_TURNS: [*_entries(state), _entry(last)]}
        return None

    def after_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Record the run. LangChain calls this when the agent has answered."""
        with ErrorBoundary():
            entries, messages = _entries(state), messages_in(field_of(state, "messages"))
            exchange = last_exchange(messages)
            structured = field_of(state, "structured_response")
            if structured is not None and messages and isinstance(messages[-1], ToolMessage):
                # The tool result is only a confirmation. The structured response is the answer.
                exchange[-1:] = [(messages[-1].id, Turn("primary", output_text(structured)))]
            ids = [entry[0] for entry in entries]
            new = exchange[after_last(exchange, lambda message: message[0] in ids) :]
            # Record the current text of a message: other middleware may have redacted personal data.
            current = {message.id: turn_of(message) for message in messages if message.id}
            turns = [
                (message_id, current.get(message_id, Turn(speaker, text))) for message_id, speaker, text in entries
            ]
            self._hook.record_once(get_config(), [*turns, *new])
            return {_TURNS: []}
        return None

    async def abefore_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Run `before_agent` in the event loop, as an `AsyncTurnRecorder` requires."""
        return self.before_agent(state, runtime)

    async def aafter_model(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Run `after_model` in the event loop."""
        return self.after_model(state, runtime)

    async def aafter_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Run `after_agent` in the event loop."""
        return self.after_agent(state, runtime)


def _entries(state: _State) -> list[list[Any]]:
    return state.get("session_notes_turns") or []


def _entry(message: BaseMessage) -> list[Any]:
    turn = turn_of(message)
    return [message.id, turn.speaker, turn.text]
