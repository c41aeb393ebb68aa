"""Fixtures for a primary in a framework and a background observer, on the shared sidecar."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from session_notes import (
    AsyncPrimaryClient,
    BackgroundObserver,
    Notes,
    ObserverClient,
    PrimaryClient,
    Turn,
    TurnRecorder,
)
from session_notes.integrations._recording import Recorder

from tests.clients.conftest import async_primary, observer, primary, proxy, silent, unreachable
from tests.examples.programs import EXAMPLES  # Its import makes the examples importable.
from tests.integrations.frameworks.support import Analysis, MemoryRecorder
from tests.peers import Proxy

# Test files import the tests in these modules.
pytest.register_assert_rewrite(*(f"{__package__}.{name}" for name in ("arguments", "docs", "failures")))

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


@pytest.fixture(params=["refused", "silent", "broken"])
def failing(
    request: pytest.FixtureRequest, unreachable: str, silent: str
) -> Iterator[tuple[AsyncPrimaryClient, Recorder]]:
    """A client and a recorder of a sidecar that is gone, of one that never responds, or with errors of their own."""
    target = silent if request.param == "silent" else unreachable
    client = AsyncPrimaryClient(target)
    if request.param == "broken":
        # A client that is not open raises UsageError.
        yield client, MemoryRecorder(RuntimeError("my order 4711"))
        return
    with PrimaryClient(target) as writer:
        recorder = TurnRecorder(writer, timeout=timedelta(seconds=60))
        yield client, recorder
        recorder.close(timedelta())


@pytest.fixture
def noted_session(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> str:
    """A session with a turn and notes on it."""
    primary.append_turns(session_id, [Turn("user", "x")])
    with observer.run(session_id) as run:
        run.write(Notes(summary="Wants a refund."))
    return session_id
