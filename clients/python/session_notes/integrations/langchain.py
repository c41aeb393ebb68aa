"""For LangChain's agents: a tool that reads the notes, and middleware that has an observer look after each turn.

    >>> agent = create_agent(
    ...     model,
    ...     tools=[notes_tool(primary, max_turns_behind=2)],
    ...     middleware=[ObserverMiddleware(recorder)],
    ... )
    >>> agent.invoke({"messages": [("user", "...")]}, {"configurable": {"thread_id": "session-1"}})

The session is the agent's thread, unless told otherwise.
"""

from typing import Any

from session_notes.integrations._binding import session_of
from session_notes.integrations.langgraph import SessionId, last_exchange, notes_tool, thread_id
from session_notes.integrations.recorder import TurnRecorder

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langgraph.config import get_config
    from langgraph.runtime import Runtime
except ImportError as error:
    raise ImportError("this needs langchain: pip install '.[langchain]' in its checkout") from error

__all__ = ["ObserverMiddleware", "SessionId", "notes_tool", "thread_id"]


class ObserverMiddleware(AgentMiddleware[AgentState[Any], Any]):
    """Takes down the last exchange of each run, and has an observer look at it.

    It holds up no run, changes nothing, and an outage raises nothing.

    Args:
        recorder: Takes down, and submits.
        session_id: The session, or a function that finds it in the run's config.
    """

    def __init__(self, recorder: TurnRecorder, session_id: SessionId = thread_id) -> None:
        super().__init__()
        self._recorder = recorder
        self._session_id = session_id

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """Called by LangChain when the agent has answered."""
        self._recorder.record(session_of(self._session_id, get_config()), *last_exchange(state["messages"]))
