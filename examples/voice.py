"""Code that the voice agents share: the notes tool, the recorder, and turns with their times.

Nothing in this module delays the audio.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime, timedelta

from analysers import analyser_from_environment
from session_notes import ActiveRun, AsyncPrimaryClient, BackgroundObserver, Notes, PrimaryClient, Turn, TurnRecorder
from session_notes.integrations.tools import AsyncNotesTool

NOTES_TIMEOUT = timedelta(milliseconds=150)
"""The time limit of a tool call. After it, the model gets `unavailable` and continues without notes."""

MAX_TURNS_BEHIND = 4
"""The maximum drift of fresh notes, in turns."""

CLOSE_TIMEOUT = timedelta(seconds=2)
"""The time limit, after a call, for storing the last turns, and then again for the last analysis."""

INSTRUCTIONS = (
    "You are on the phone with a caller who is planning a project. Answer in one or two spoken sentences. Before you"
    " bring up something new, read the notes of the colleague who is listening in."
)


def spoken_turn(speaker: str, text: str, began: datetime, *, interrupted: bool = False) -> Turn:
    """Return a turn of a call.

    Turns are appended in the order in which their transcripts arrive, and a user's transcript is often late. Observers
    can sort turns by `time`.

    Args:
        speaker: `user` or `primary`.
        text: The spoken words. For an interrupted answer, those before the interruption.
        began: When the speaker began, with a time zone.
        interrupted: Whether the user interrupted this answer.
    """
    return Turn(speaker, text, time=began, extra={"interrupted": True} if interrupted else {})


@asynccontextmanager
async def observed_call(
    session_id: str, analyse: Callable[[ActiveRun], Notes] | None = None
) -> AsyncIterator[tuple[AsyncNotesTool, TurnRecorder]]:
    """Observe a call. Yield the model's notes tool, and the recorder for the call's turns.

    Args:
        session_id: The call's session. The application chooses it; the model never sees it.
        analyse: Makes notes. None: the analyser that the environment selects.
    """
    with ExitStack() as threads:
        writer = threads.enter_context(PrimaryClient())
        observer = BackgroundObserver(analyse or analyser_from_environment(), transcript="new", max_workers=1)
        threads.callback(observer.close, CLOSE_TIMEOUT)
        recorder = TurnRecorder(writer, observer)
        threads.callback(recorder.close, CLOSE_TIMEOUT)
        async with AsyncPrimaryClient(timeout=NOTES_TIMEOUT) as primary:
            try:
                yield AsyncNotesTool(primary, session_id, max_turns_behind=MAX_TURNS_BEHIND), recorder
            finally:
                # In a thread, because closing waits for work in flight and the loop may be serving other calls.
                await asyncio.to_thread(threads.close)
