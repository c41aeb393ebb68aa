"""The cost of the live table of `session-notes top` to a sidecar."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import Message
from session_notes import AsyncObserverClient, AsyncPrimaryClient, Notes, Turn
from session_notes_tools.top.cache import SessionCache
from session_notes_tools.top.client import TopClient

from tests.support import SessionCalls, Sidecar, new_channel


class CountingClient(TopClient):
    """A client that counts calls, and the entries of batches."""

    def __init__(self, target: str) -> None:
        super().__init__(target, None, None, timedelta(seconds=10))
        self.calls: Counter[str] = Counter()

    async def _call(self, request: Message) -> Any:
        self.calls[type(request).__name__.removesuffix("Request")] += 1
        self.calls["entries"] += len(getattr(request, "requests", ()))
        return await super()._call(request)


@pytest.fixture
async def large_sidecar() -> AsyncIterator[tuple[Sidecar, list[str]]]:
    """A sidecar with 720 sessions, the last of them without notes."""
    ids = [f"session-{number:03}" for number in range(720)]
    timeout = timedelta(seconds=20)
    with Sidecar() as sidecar:
        async with AsyncObserverClient(sidecar.target, timeout=timeout) as observer:
            await asyncio.gather(*(observer.write_notes(session_id, Notes()) for session_id in ids[:-1]))
        async with AsyncPrimaryClient(sidecar.target, state_timeout=timeout) as primary:
            await primary.append_turns(ids[-1], [Turn("user", "x")])
        yield sidecar, ids


async def test_the_cost_of_a_refresh(large_sidecar: tuple[Sidecar, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh makes a bounded number of calls, reads visible rows first, and does not reread other unchanged rows."""
    sidecar, ids = large_sidecar
    visible = [(session_id, "default") for session_id in ids[:30]]
    async with CountingClient(sidecar.target) as client:
        cache = SessionCache(client, None, None)
        await cache.refresh([])
        assert cache.session_count < len(ids)
        assert (client.calls["ListSessions"], client.calls["entries"]) == (5, 300)
        while not (cache.complete and not cache.unread_count):
            before = client.calls.copy()
            await cache.refresh(visible)
            spent = client.calls - before
            assert (spent["ListSessions"] <= 5, spent["entries"] <= 300, spent["ListRuns"] <= 50) == (True,) * 3
        assert cache.session_count == 720
        assert {row.observer for row in cache.rows.values()} == {"", "default"}

        before = client.calls.copy()
        for _ in range(4):
            await cache.refresh(visible)
        spent = client.calls - before
        assert (spent["BatchGetNotes"], spent["entries"], spent["ListRuns"]) == (4, 4 * 30, 0)

        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, ids[300]).write_notes("r2")
            SessionCalls(channel, ids[301]).delete()
        changed = cache.rows[ids[300], "default"]
        while (ids[301], "default") in cache.rows or changed.latest_run is None or changed.latest_run.number == 1:
            await cache.refresh(visible)
        assert cache.session_count == 719

        monkeypatch.setattr("session_notes_tools.top.cache.MAX_SESSIONS", 300)
        truncated = SessionCache(client, None, None)
        for _ in range(3):
            await truncated.refresh([])
        assert (truncated.complete, truncated.truncated) == (True, True)
        assert 300 <= truncated.session_count < 500
