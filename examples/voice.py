"""Code that the voice agents share: the client that reads notes, and the recorder.

Nothing in this module delays the audio.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta

from analysers import analyser_from_environment
from session_notes import ActiveRun, AsyncPrimaryClient, BackgroundObserver, Notes, PrimaryClient, TurnRecorder

NOTES_TIMEOUT = timedelta(milliseconds=150)
"""The time limit of a read. After it, the call continues with the last notes, or without any."""

MAX_TURNS_BEHIND = 4
"""The maximum drift of fresh notes, in turns."""

CLOSE_TIMEOUT = timedelta(seconds=2)
"""The time limit, after a call, for storing the last turns, and then again for the last analysis."""

INSTRUCTIONS = (
    "You are on the phone with a caller who is planning a project. Answer in one or two spoken sentences. A colleague"
    " who is listening in leaves you notes: follow their suggestions, one at a time."
)


@asynccontextmanager
async def observed_call(
    analyse: Callable[[ActiveRun], Notes] | None = None,
) -> AsyncIterator[tuple[AsyncPrimaryClient, TurnRecorder]]:
    """Observe a call. Yield the client that reads its notes, and the recorder for its turns.

    Args:
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
                yield primary, recorder
            finally:
                # In a thread, because closing waits for work in flight and the loop may be serving other calls.
                await asyncio.to_thread(threads.close)
