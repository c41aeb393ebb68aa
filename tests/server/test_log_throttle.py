"""Throttled log messages: a repeated message is logged immediately, then less and less often."""

import asyncio
import time

import pytest
from session_notes_server.rpc import transfers
from session_notes_server.store import LogThrottle


def test_a_repeated_message_is_due_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated twice a second, a message is due after 0, 5, 15, 35 and 75 s, then once a minute, with its count."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    throttle, due = LogThrottle(), []
    for step in range(600):
        now = step / 2
        if (count := throttle.due("a reason")) is not None:
            due.append((now, count))
    assert due == [(0, 0), (5, 10), (15, 20), (35, 40), (75, 80), (135, 120), (195, 120), (255, 120)]


def test_alternating_messages_are_counted_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two messages that alternate are due once each."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    throttle = LogThrottle()
    due = [message for message in ["one", "two"] * 20 if throttle.due(message) is not None]
    assert due == ["one", "two"]


async def test_the_end_of_a_burst_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Calls that are counted after a line are logged within a minute, even if no other call follows."""
    monkeypatch.setattr(transfers, "LOG_SECONDS", 0.01)
    warning = transfers.ThrottledWarning("rejected %d calls")
    for _ in range(3):
        warning.add()
    async with asyncio.timeout(10):
        while len(caplog.messages) < 2:  # noqa: ASYNC110 - no event marks the condition
            await asyncio.sleep(0.01)
    assert caplog.messages == ["rejected 1 calls", "rejected 2 calls"]
