"""A voice agent with LiveKit Agents. Its model can read an observer's notes on the call.

    pip install . livekit-agents      # in a checkout
    LIVEKIT_URL=... LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=... python examples/livekit_agent.py dev

It uses the sidecar at SESSION_NOTES_TARGET. Without a sidecar, the call works as usual, but without notes.
"""

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    ChatMessage,
    ConversationItemAddedEvent,
    JobContext,
    cli,
    function_tool,
)
from session_notes import TurnRecorder
from session_notes.integrations.tools import AsyncNotesTool
from voice import INSTRUCTIONS, observed_call, spoken_turn

server = AgentServer()


def agent_with_notes(notes: AsyncNotesTool) -> Agent:
    """Return an agent whose model has the notes tool."""

    async def read() -> dict[str, Any]:
        return await notes.call()

    tool = function_tool(read, name=notes.name, description=notes.description)
    return Agent(instructions=INSTRUCTIONS, tools=[tool])


def record_turns(session: AgentSession[Any], recorder: TurnRecorder, session_id: str) -> None:
    """Record every turn of a session, and submit a run after each user turn."""

    @session.on("conversation_item_added")
    def record(event: ConversationItemAddedEvent) -> None:
        item = event.item
        if isinstance(item, ChatMessage) and item.role in ("user", "assistant") and item.text_content:
            by_user = item.role == "user"
            # A text message was not spoken, so it has only its time of arrival.
            began = datetime.fromtimestamp(item.metrics.get("started_speaking_at") or item.created_at, UTC)
            # For an interrupted answer, LiveKit keeps only the part that was played.
            turn = spoken_turn("user" if by_user else "primary", item.text_content, began, interrupted=item.interrupted)
            recorder.record(session_id, turn, observe=by_user)


@server.rtc_session()
async def handle_call(job: JobContext) -> None:
    """Handle one call. LiveKit runs this in a new process per call."""
    # Job ids are unique per call. A room name would also work if it identifies no person and has no space.
    session_id = job.job.id
    call = AsyncExitStack()
    job.add_shutdown_callback(call.aclose)
    notes, recorder = await call.enter_async_context(observed_call(session_id))
    session: AgentSession[Any] = AgentSession(stt="deepgram/nova-3", llm="openai/gpt-4.1-mini", tts="cartesia/sonic-3")
    record_turns(session, recorder, session_id)
    await session.start(agent_with_notes(notes), room=job.room)


if __name__ == "__main__":
    cli.run_app(server)
