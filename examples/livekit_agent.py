"""A voice agent with LiveKit Agents, whose model can read what an observer noted about the call.

    pip install session-notes livekit-agents
    LIVEKIT_URL=... LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=... python examples/livekit_agent.py dev

The sidecar is that of SESSION_NOTES_TARGET. Without it the conversation goes on all the same, just without notes.
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
from voice import INSTRUCTIONS, listening_in, turn

server = AgentServer()


def agent_with_notes(notes: AsyncNotesTool) -> Agent:
    """The agent: its model has a tool that reads the notes."""

    async def read() -> dict[str, Any]:
        return await notes.call()

    tool = function_tool(read, name=notes.name, description=notes.description)
    return Agent(instructions=INSTRUCTIONS, tools=[tool])


def take_down(session: AgentSession[Any], recorder: TurnRecorder, session_id: str) -> None:
    """Have every turn recorded as it was said, and an observer look after each one of the user's."""

    @session.on("conversation_item_added")
    def added(event: ConversationItemAddedEvent) -> None:
        item = event.item
        if isinstance(item, ChatMessage) and item.role in ("user", "assistant") and item.text_content:
            by_user = item.role == "user"
            # A text is not spoken, and has no more than the time it came.
            began = datetime.fromtimestamp(item.metrics.get("started_speaking_at") or item.created_at, UTC)
            # Of an answer that the user broke into, LiveKit keeps what was played.
            said = turn("user" if by_user else "primary", item.text_content, began, interrupted=item.interrupted)
            recorder.record(session_id, said, observe=by_user)


@server.rtc_session()
async def answer(job: JobContext) -> None:
    """Called by LiveKit for each call, in a process of its own."""
    # Ids of jobs are new ones for each call. Names of rooms will do too, where they name nobody and hold no space.
    session_id = job.job.id
    call = AsyncExitStack()
    job.add_shutdown_callback(call.aclose)
    notes, recorder = await call.enter_async_context(listening_in(session_id))
    session: AgentSession[Any] = AgentSession(stt="deepgram/nova-3", llm="openai/gpt-4.1-mini", tts="cartesia/sonic-3")
    take_down(session, recorder, session_id)
    await session.start(agent_with_notes(notes), room=job.room)


if __name__ == "__main__":
    cli.run_app(server)
