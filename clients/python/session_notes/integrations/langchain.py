"""LangChain agents: a tool that reads the notes, and middleware that records each run and submits one of the observer.

    >>> agent = create_agent(
    ...     model,
    ...     tools=[notes_tool(primary, max_turns_behind=2)],
    ...     middleware=[ObserverMiddleware(recorder)],
    ... )
    >>> agent.invoke({"messages": [("user", "...")]}, {"configurable": {"thread_id": "session-1"}})

By default, the session is the agent's thread.

At the end of a run, the middleware records in order: the human messages at the end of its input, each message of the
model, and the results of tools with `return_direct`; a structured response as JSON. An interrupted run is recorded when
it has been resumed and ends. `session_notes.integrations.langgraph` lists what is not recorded.

By the end of a run, a summary may have replaced its messages (`SummarizationMiddleware`). The middleware therefore
keeps the run's turns in a private key of the agent's state. Callers never see this key, and a checkpointer preserves it
over an interrupt.
"""

from typing import Annotated, Any, NotRequired

from session_notes import Turn
from session_notes.integrations._extras import missing_extra
from session_notes.integrations._messages import after_last, field_of, output_text
from session_notes.integrations._recording import ErrorBoundary, Recorder, RecordingHook
from session_notes.integrations.langgraph import SessionId, notes_tool, thread_id

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
except ImportError as error:
    raise missing_extra(__name__, error) from error

__all__ = ["ObserverMiddleware", "SessionId", "notes_tool", "thread_id"]

_TURNS = "session_notes_turns"


class _State(AgentState[Any]):
    """The agent's state with the turns of the run so far: the id, speaker and text of each message."""

    session_notes_turns: NotRequired[Annotated[list[list[Any]], PrivateStateAttr]]


class ObserverMiddleware(AgentMiddleware[_State, Any]):
    """Middleware that records the turns of each run and submits a run of the observer.

    It never delays the agent, changes a message, or raises.

    Args:
        recorder: A `TurnRecorder` or an `AsyncTurnRecorder`.
        session_id: The session id, or a function that returns it for the run's config.

    Raises:
        InvalidArgument: If the recorder is of another kind.
    """

    state_schema = _State

    def __init__(self, recorder: Recorder, session_id: SessionId = thread_id) -> None:
        super().__init__()
        self._hook = RecordingHook(recorder, session_id)

    def before_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Keep the user's new messages. LangChain calls this at the start of a run."""
        with ErrorBoundary():
            messages = messages_in(field_of(state, "messages"))
            start = after_last(
                messages, lambda message: not (is_from_user(message) or isinstance(message, SystemMessage))
            )
            # The turns of a run that was interrupted and never resumed come first.
            entries = _entries(state)
            ids = [entry[0] for entry in entries]
            new = [message for message in messages[start:] if is_from_user(message) and message.id not in ids]
            return {_TURNS: entries + [_entry(message) for message in new]}
        return None

    def after_model(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Keep the model's message. LangChain calls this after each call of the model."""
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
                # This tool result only confirms that a response exists.
                exchange[-1:] = [(messages[-1].id, Turn("primary", output_text(structured)))]
            ids = [entry[0] for entry in entries]
            new = exchange[after_last(exchange, lambda message: message[0] in ids) :]
            # Prefer a message's present text: other middleware may have removed personal data from it.
            present = {message.id: turn_of(message) for message in messages if message.id}
            turns = [(key, present.get(key, Turn(speaker, text))) for key, speaker, text in entries]
            self._hook.record_once(get_config(), [*turns, *new])
            return {_TURNS: []}
        return None

    async def abefore_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Do the same in the event loop, so that an `AsyncTurnRecorder` can be used."""
        return self.before_agent(state, runtime)

    async def aafter_model(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Do the same in the event loop."""
        return self.after_model(state, runtime)

    async def aafter_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Do the same in the event loop."""
        return self.after_agent(state, runtime)


def _entries(state: _State) -> list[list[Any]]:
    return state.get("session_notes_turns") or []


def _entry(message: BaseMessage) -> list[Any]:
    turn = turn_of(message)
    return [message.id, turn.speaker, turn.text]
