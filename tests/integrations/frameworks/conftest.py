"""Fixtures for a primary in a framework and a background observer, on the shared sidecar."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from session_notes import BackgroundObserver, Notes, ObserverClient, PrimaryClient, Turn, TurnRecorder

from tests.clients.conftest import async_primary, observer, primary, proxy, silent, unreachable
from tests.examples.programs import EXAMPLES  # Its import makes the examples importable.
from tests.integrations.frameworks.support import Analysis
from tests.peers import Proxy

__all__ = ["EXAMPLES", "async_primary", "observer", "primary", "proxy", "silent", "unreachable"]


@pytest.fixture
def analysis() -> Iterator[Analysis]:
    """The analysis of the background observer."""
    analysis = Analysis()
    yield analysis
    analysis.released.set()


@pytest.fixture
def recorder(primary: PrimaryClient, observer: ObserverClient, analysis: Analysis) -> Iterator[TurnRecorder]:
    """A recorder that stores turns and submits observer runs."""
    with (
        BackgroundObserver(analysis, brakes=False, client=observer) as background,
        TurnRecorder(primary, background) as recorder,
    ):
        yield recorder


@pytest.fixture
def hanging_recorder(proxy: Proxy, session_id: str) -> Iterator[TurnRecorder]:
    """A recorder whose sidecar no longer responds, with a timeout of 30 s."""
    with PrimaryClient(proxy.target) as primary:
        primary.get_session(session_id)
        proxy.drop_replies()
        recorder = TurnRecorder(primary, timeout=timedelta(seconds=30))
        yield recorder
        recorder.close(timedelta())


@pytest.fixture
def noted_session(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> str:
    """A session with a turn and notes on it."""
    primary.append_turns(session_id, [Turn("user", "x")])
    with observer.run(session_id) as run:
        run.write(Notes(summary="Wants a refund."))
    return session_id
