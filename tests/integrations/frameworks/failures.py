"""A failing sidecar never breaks, slows or changes a conversation, in any framework.

A test file imports the test and has the fixture `exchange`: a conversation with all that an integration hooks into it,
except the tool.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from session_notes import AsyncPrimaryClient
from session_notes.integrations._recording import Recorder

from tests.integrations.frameworks.support import QUESTION, MemoryRecorder

Exchange = Callable[[AsyncPrimaryClient, Recorder, str], Awaitable[Any]]
"""Runs a conversation, and returns what the framework made of it: answers, history, or the model's input."""


async def test_a_failing_sidecar_changes_nothing(
    exchange: Exchange,
    failing: tuple[AsyncPrimaryClient, Recorder],
    async_primary: AsyncPrimaryClient,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The conversation is the same as with a working sidecar without notes, and does not wait for the failing one."""
    working = MemoryRecorder()
    expected = await exchange(async_primary, working, session_id)
    assert ("user", QUESTION) in working.utterances
    client, recorder = failing
    if isinstance(recorder, MemoryRecorder):
        assert await exchange(client, recorder, session_id) == expected
    else:
        async with client:
            start = time.monotonic()
            assert await exchange(client, recorder, session_id) == expected
            # Claude Code alone may take 15 s to start on a busy machine. The recorder's timeout is 60 s.
            assert time.monotonic() - start < 40
    assert "4711" not in caplog.text
