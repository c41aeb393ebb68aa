"""The part of session-notes in a voice agent, in whichever framework: nothing here holds up the audio."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime, timedelta

from analysers import analyser_from_environment
from session_notes import ActiveRun, AsyncPrimaryClient, BackgroundObserver, Notes, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations.tools import AsyncNotesTool

NOTES_TIMEOUT = timedelta(milliseconds=150)
"""How long the tool may keep a caller waiting; then the model hears that there are no notes, and goes on."""

MAX_TURNS_BEHIND = 4
"""How far the conversation may have moved on since the notes before they are no longer called fresh."""

AFTER_THE_CALL = timedelta(seconds=2)
"""How long the last turns, and the last analysis, may each take when the caller has hung up."""

INSTRUCTIONS = (
    "You are on the phone with somebody who has a project in mind. Answer in a sentence or two, as one speaks. Before"
    " you bring up something new, read the notes of the colleague who listens in."
)


def turn(speaker: str, text: str, began: datetime, *, interrupted: bool = False) -> Turn:
    """Return a turn of a call, as an observer needs it.

    Transcripts are appended as they come, and a user's often comes late. By their `time`, turns can be put in order.

    Args:
        speaker: `user` or `primary`.
        text: The words that were spoken: of an answer that was broken into, those up to there.
        began: When the speaker began, with a time zone.
        interrupted: Whether the user broke in.
    """
    return Turn(speaker, text, time=began, extra={"interrupted": True} if interrupted else {})


@asynccontextmanager
async def listening_in(
    session_id: str, analyse: Callable[[ActiveRun], Notes] | None = None
) -> AsyncIterator[tuple[AsyncNotesTool, TurnRecorder]]:
    """For the time of a call: the tool for the model, and what takes down the turns and has an observer look at them.

    Args:
        session_id: The call's session. It is the application's to choose: the model never sees it.
        analyse: Makes notes; None: as the environment says.
    """
    with ExitStack() as threads:
        writer = threads.enter_context(PrimaryClient())
        observer = BackgroundObserver(analyse or analyser_from_environment(), max_workers=1)
        threads.callback(observer.close, AFTER_THE_CALL)
        recorder = TurnRecorder(writer, observer)
        threads.callback(recorder.close, AFTER_THE_CALL)
        async with AsyncPrimaryClient(timeout=NOTES_TIMEOUT) as primary:
            try:
                yield AsyncNotesTool(primary, session_id, max_turns_behind=MAX_TURNS_BEHIND), recorder
            finally:
                # In a thread, since the loop may be serving other calls: what is at work is finished first.
                await asyncio.to_thread(threads.close)
