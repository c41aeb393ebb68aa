"""Clients, recorders and session ids of the wrong type are rejected when a tool or a hook is made.

A test file imports the tests, and has the fixtures `reader` and `hook`.
"""

from collections.abc import Callable
from typing import Any

import pytest
from session_notes import (
    AsyncPrimaryClient,
    BackgroundObserver,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    TurnRecorder,
)

TARGET = "127.0.0.1:1"

Reader = tuple[Callable[[Any], Any], Callable[[str], Any], str]
"""Makes a tool or a prompt's notes with a client; a client of the wrong class; a pattern of the error."""


def test_wrong_client(reader: Reader) -> None:
    """The error names the accepted class and, for the other primary client, the right tool."""
    make, client, error = reader
    with pytest.raises(InvalidArgument, match=error):
        make(client(TARGET))
    with pytest.raises(InvalidArgument, match=r"not (NoneType|PrimaryClient|AsyncPrimaryClient|ObserverClient)$|; for"):
        make(None)


class CoroutineRecorder:
    """A recorder with a coroutine function, which no hook awaits."""

    async def record(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


async def test_wrong_recorder(hook: Callable[..., Any]) -> None:
    """A hook rejects clients, observers, classes and coroutine functions, and session ids of the wrong type."""
    with PrimaryClient(TARGET) as primary, ObserverClient(TARGET) as client:
        with BackgroundObserver(lambda run: Notes(), client=client) as background:
            for wrong in (primary, AsyncPrimaryClient(TARGET), background, None, CoroutineRecorder(), TurnRecorder):
                with pytest.raises(InvalidArgument, match="TurnRecorder or AsyncTurnRecorder"):
                    hook(wrong, "s1")
        with TurnRecorder(primary) as recorder:
            hook(recorder, "s1")
            for session_id in (None, 7, "an id", CoroutineRecorder().record):
                with pytest.raises(InvalidArgument, match="session_id"):
                    hook(recorder, session_id)
