"""Helpers for the tests of all frameworks: an analysis, an in-memory recorder, and waiting for notes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from session_notes import ActiveRun, Notes, PrimaryClient, Turn

from tests.support import eventually

QUESTION = "I want my money back."
"""The user's message in an exchange that several frameworks have."""


@dataclass
class Caller:
    """An application's context for a conversation, which the model does not see."""

    session_id: str


class MemoryRecorder:
    """A recorder that keeps its turns in memory, or raises an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.turns: list[Turn] = []
        self.sessions: set[str] = set()
        self.observed: list[bool] = []
        self._error = error

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """Store the turns, or raise the error."""
        if self._error:
            raise self._error
        self.turns += turns
        self.sessions.add(session_id)
        self.observed.append(observe)

    @property
    def utterances(self) -> list[tuple[str, str]]:
        """The speaker and text of each turn."""
        return utterances(self.turns)

    async def wait_for_turns(self, count: int) -> None:
        """Return once the recorder has this many turns."""
        await asyncio.to_thread(eventually, lambda: len(self.turns) >= count, 10)


class Analysis:
    """An analysis that counts the turns of the transcript. Tests can block it, as a slow model would."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.released.set()

    def __call__(self, run: ActiveRun) -> Notes:
        assert self.released.wait(60)
        return Notes(summary=f"{len(run.transcript)} turns")


def no_session(_: object) -> str:
    """Raise an error whose message is user data, as an application's function may."""
    raise KeyError("my order 4711")


def utterances(turns: list[Turn] | tuple[Turn, ...]) -> list[tuple[str, str]]:
    """Return the speaker and text of each turn."""
    return [(turn.speaker, turn.text) for turn in turns]


def stored_utterances(client: PrimaryClient, session_id: str) -> list[tuple[str, str]]:
    """Return the speaker and text of each turn in the stored transcript."""
    return utterances(tuple(client.get_session(session_id, include_turns=True).turns))


def summary(client: PrimaryClient, session_id: str) -> str | None:
    """Return the summary of the current notes; None if there are none."""
    notes = client.get_notes(session_id).notes
    return notes.summary if notes else None


def wait_for_summary(client: PrimaryClient, session_id: str, expected: str) -> None:
    """Return once the current notes have this summary."""
    eventually(lambda: summary(client, session_id) == expected, 20)


@contextmanager
def promptly() -> Iterator[None]:
    """Fail if the block takes 5 s. A busy machine needs less time, and waiting for a hanging sidecar takes more."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 5
