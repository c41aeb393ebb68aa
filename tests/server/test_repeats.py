"""A message that comes again and again is in the log at once, and then ever more rarely."""

import time

import pytest
from session_notes_server.store import LogThrottle


def test_a_message_that_stays_is_due_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice a second for five minutes: after 0, 5, 15, 35, 75 s and then once a minute, with how often it came."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    repeats, due = LogThrottle(), []
    for step in range(600):
        now = step / 2
        if (count := repeats.due("a reason")) is not None:
            due.append((now, count))
    assert due == [(0, 0), (5, 10), (15, 20), (35, 40), (75, 80), (135, 120), (195, 120), (255, 120)]


def test_messages_that_alternate_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two reasons that take turns are two lines, and no more."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    repeats = LogThrottle()
    due = [message for message in ["one", "two"] * 20 if repeats.due(message) is not None]
    assert due == ["one", "two"]
