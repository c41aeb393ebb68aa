"""Two AI processes in one: a primary in a framework, and an observer in the background, on the shared sidecar."""

import threading
from collections.abc import Iterator

import pytest
from session_notes import ActiveRun, BackgroundObserver, Notes, ObserverClient, PrimaryClient, Turn
from session_notes.integrations.recorder import TurnRecorder

from tests.clients.conftest import async_primary, nobody, observer, primary, silent
from tests.support import eventually

__all__ = ["async_primary", "nobody", "observer", "primary", "silent"]

NOTES = {"summary": "Wants a refund; order number still missing."}


def said(client: PrimaryClient, session_id: str) -> list[tuple[str, str]]:
    """The transcript as it is stored: who said what."""
    return [(turn.speaker, turn.text) for turn in client.get_session(session_id, include_turns=True).turns]


class Analysis:
    """Sums up how many turns it saw. Can be held up, as a slow model would."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.may_go.set()
        self.seen: list[tuple[Turn, ...]] = []

    def __call__(self, run: ActiveRun) -> Notes:
        self.seen.append(run.transcript)
        assert self.may_go.wait(60)
        return Notes(summary=f"{len(run.transcript)} turns")


@pytest.fixture
def analysis() -> Iterator[Analysis]:
    """What the observer in the background does."""
    analysis = Analysis()
    yield analysis
    analysis.may_go.set()


@pytest.fixture
def recorder(primary: PrimaryClient, observer: ObserverClient, analysis: Analysis) -> Iterator[TurnRecorder]:
    """Takes down what is said, and has the observer look at it."""
    with BackgroundObserver(analysis, client=observer) as background, TurnRecorder(primary, background) as recorder:
        yield recorder


def summary(client: PrimaryClient, session_id: str) -> str | None:
    """The current notes' summary, where there are notes."""
    notes = client.get_notes(session_id).notes
    return notes.summary if notes else None


def wait_for_summary(client: PrimaryClient, session_id: str, expected: str) -> None:
    """Returns once the observer's current notes say so."""
    eventually(lambda: summary(client, session_id) == expected, 20)
