"""LangChain's agents: a tool that reads the notes, and middleware that records each run and has an observer look.

    >>> agent = create_agent(
    ...     model,
    ...     tools=[notes_tool(primary, max_turns_behind=2)],
    ...     middleware=[ObserverMiddleware(recorder)],
    ... )
    >>> agent.invoke({"messages": [("user", "...")]}, {"configurable": {"thread_id": "session-1"}})

By default, the session is the agent's thread.

Recorded at the end of a run, in order: the human messages at the end of its input, each message of the model, and the
results of tools with `return_direct`; a structured response as JSON. A run that is interrupted is recorded when it has
been resumed and ends. Not recorded: what is not recorded by `session_notes.integrations.langgraph.ObserverNode`.

A run's messages may be gone at its end, replaced by a summary (`SummarizationMiddleware`). So the middleware keeps what
was said in a private key of the agent's state, which no caller sees, and which a checkpointer keeps over an interrupt.
"""

from typing import Annotated, Any, NotRequired

from session_notes import Turn
from session_notes.integrations._binding import Recorder, RecordingHook, get, guarded, text_of
from session_notes.integrations.langgraph import (
    SessionId,
    is_models,
    is_users,
    last_exchange,
    messages_in,
    notes_tool,
    thread_id,
    turn_of,
)

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import PrivateStateAttr
    from langchain_core.messages import BaseMessage, SystemMessage, ToolMessage
    from langgraph.config import get_config
    from langgraph.runtime import Runtime
except ImportError as error:
    raise ImportError("this needs langchain: pip install '.[langchain]' in its checkout") from error

__all__ = ["ObserverMiddleware", "SessionId", "notes_tool", "thread_id"]

_SAID = "session_notes_said"


class _State(AgentState[Any]):
    """The agent's state, with the run's words so far: id, speaker and text of each message."""

    session_notes_said: NotRequired[Annotated[list[list[Any]], PrivateStateAttr]]


class ObserverMiddleware(AgentMiddleware[_State, Any]):
    """Middleware that records what was said in each run, and has an observer look at it.

    It holds up no run, changes no message, and raises nothing.

    Args:
        recorder: A `TurnRecorder` or `AsyncTurnRecorder`: records, and submits.
        session_id: The session, or a function that finds it in the run's config.

    Raises:
        InvalidArgument: If the recorder is of another kind.
    """

    state_schema = _State

    def __init__(self, recorder: Recorder, session_id: SessionId = thread_id) -> None:
        super().__init__()
        self._hook = RecordingHook(recorder, session_id)

    def before_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Called by LangChain at the start of a run: keep the user's words."""
        with guarded():
            messages = messages_in(get(state, "messages"))
            start = len(messages)
            while start > 0 and (is_users(messages[start - 1]) or isinstance(messages[start - 1], SystemMessage)):
                start -= 1
            # What a run that was interrupted and never resumed has left comes first.
            said = _said(state)
            known = [entry[0] for entry in said]
            new = [message for message in messages[start:] if is_users(message) and message.id not in known]
            return {_SAID: said + [_entry(message) for message in new]}
        return None

    def after_model(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Called by LangChain after each call of the model: keep its message."""
        with guarded():
            messages = messages_in(get(state, "messages"))
            if (spoken := next((message for message in reversed(messages) if is_models(message)), None)) is not None:
                return {_SAID: [*_said(state), _entry(spoken)]}
        return None

    def after_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Called by LangChain when the agent has answered: record."""
        with guarded():
            said, messages = _said(state), messages_in(get(state, "messages"))
            exchange = last_exchange(messages)
            structured = get(state, "structured_response")
            if structured is not None and messages and isinstance(messages[-1], ToolMessage):
                # The result of the tool that stands for the response says no more than that there is one.
                exchange[-1:] = [(messages[-1].id, Turn("primary", text_of(structured)))]
            ids = [entry[0] for entry in said]
            later = next((n for n in range(len(exchange), 0, -1) if exchange[n - 1][0] in ids), 0)
            # As it is now, where it is there still: other middleware may have taken out personal data.
            current = {message.id: turn_of(message) for message in messages if message.id}
            kept = [(number, current.get(number, Turn(speaker, text))) for number, speaker, text in said]
            self._hook.record_once(get_config(), [*kept, *exchange[later:]])
            return {_SAID: []}
        return None

    async def abefore_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """The same in a loop, where an `AsyncTurnRecorder` is at home too."""
        return self.before_agent(state, runtime)

    async def aafter_model(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """The same in a loop."""
        return self.after_model(state, runtime)

    async def aafter_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """The same in a loop."""
        return self.after_agent(state, runtime)


def _said(state: _State) -> list[list[Any]]:
    return state.get("session_notes_said") or []


def _entry(message: BaseMessage) -> list[Any]:
    turn = turn_of(message)
    return [message.id, turn.speaker, turn.text]
