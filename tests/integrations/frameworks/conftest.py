"""Two AI processes in one: a primary in a framework, and an observer in the background, on the shared sidecar."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from session_notes import ActiveRun, BackgroundObserver, Notes, ObserverClient, PrimaryClient, Turn, TurnRecorder

from tests.clients.conftest import Proxy, async_primary, nobody, observer, primary, proxy, silent
from tests.examples.programs import EXAMPLES  # With it, the examples can be imported.
from tests.support import eventually

__all__ = ["EXAMPLES", "async_primary", "nobody", "observer", "primary", "proxy", "silent"]


def said(client: PrimaryClient, session_id: str) -> list[tuple[str, str]]:
    """The transcript as it is stored: who said what."""
    return [(turn.speaker, turn.text) for turn in client.get_session(session_id, include_turns=True).turns]


@contextmanager
def promptly() -> Iterator[None]:
    """Fails where the block takes long: longer than a busy machine explains, shorter than a wait for the sidecar."""
    before = time.monotonic()
    yield
    assert time.monotonic() - before < 5


class Listener:
    """A recorder that keeps what it is given, and can be made to fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.turns: list[tuple[str, str]] = []
        self.sessions: list[object] = []
        self.error = error

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """As `TurnRecorder.record`."""
        if self.error:
            raise self.error
        self.sessions.append(session_id)
        self.turns += [(turn.speaker, turn.text) for turn in turns]


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


@pytest.fixture
def hung(proxy: Proxy, session_id: str) -> Iterator[TurnRecorder]:
    """A recorder whose sidecar has stopped to answer, and which would wait for it for half a minute."""
    with PrimaryClient(proxy.target) as primary:
        primary.get_session(session_id)
        proxy.swallow_replies()
        recorder = TurnRecorder(primary, timeout=timedelta(seconds=30))
        yield recorder
        recorder.close(timedelta())


def summary(client: PrimaryClient, session_id: str) -> str | None:
    """The current notes' summary, where there are notes."""
    notes = client.get_notes(session_id).notes
    return notes.summary if notes else None


def wait_for_summary(client: PrimaryClient, session_id: str, expected: str) -> None:
    """Returns once the observer's current notes say so."""
    eventually(lambda: summary(client, session_id) == expected, 20)
