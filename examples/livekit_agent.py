"""A voice agent with LiveKit Agents. With each turn of the caller, its model gets an observer's notes on the call.

    pip install '.[livekit]'      # in a checkout
    LIVEKIT_URL=... LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=... python examples/livekit_agent.py dev

It uses the sidecar at SESSION_NOTES_TARGET. Without a sidecar, the call works as usual, but without notes.
"""

from contextlib import AsyncExitStack
from typing import Any

from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    ChatContext,
    ChatMessage,
    JobContext,
    TurnHandlingOptions,
    cli,
)
from session_notes.integrations.livekit import TurnNotes, record_turns
from voice import INSTRUCTIONS, MAX_TURNS_BEHIND, observed_call

server = AgentServer()


class NotedAgent(Agent):
    """An agent whose model gets the notes with each turn."""

    def __init__(self, notes: TurnNotes) -> None:
        super().__init__(instructions=INSTRUCTIONS)
        self._notes = notes

    async def on_user_turn_completed(self, turn_ctx: ChatContext, new_message: ChatMessage) -> None:
        """Add the notes to the context of this turn."""
        await self._notes.add_to(turn_ctx)


@server.rtc_session()
async def handle_call(job: JobContext) -> None:
    """Handle one call. LiveKit runs this in a new process per call."""
    # Job ids are unique per call. A room name would also work if it identifies no person and has no space.
    session_id = job.job.id
    call = AsyncExitStack()
    job.add_shutdown_callback(call.aclose)
    primary, recorder = await call.enter_async_context(observed_call())
    session: AgentSession[Any] = AgentSession(
        stt="deepgram/nova-3",
        llm="openai/gpt-4.1-mini",
        tts="cartesia/sonic-3",
        # An answer generated before the end of the turn would lack the notes, and be discarded.
        turn_handling=TurnHandlingOptions(preemptive_generation={"enabled": False}),
    )
    record_turns(session, recorder, session_id)
    notes = TurnNotes(primary, session_id, max_turns_behind=MAX_TURNS_BEHIND)
    await session.start(NotedAgent(notes), room=job.room)


if __name__ == "__main__":
    cli.run_app(server)
