"""What the live table of `session-notes top` costs a sidecar."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from google.protobuf.message import Message
from session_notes import AsyncObserverClient, AsyncPrimaryClient, Notes, Turn
from session_notes_tools.top.reads import M, Reads
from session_notes_tools.top.watch import Watch

from tests.support import SessionCalls, Sidecar, new_channel


class Counted(Reads):
    """Counts what is asked for, and how many answers a batch has."""

    def __init__(self, target: str) -> None:
        super().__init__(target, None, None, timedelta(seconds=10))
        self.asked: Counter[str] = Counter()

    async def _ask(self, method: str, request: Message, answer: type[M]) -> M:
        self.asked[method.rpartition("/")[2]] += 1
        self.asked["entries"] += len(getattr(request, "requests", ()))
        return await super()._ask(method, request, answer)


@pytest.fixture
async def many() -> AsyncIterator[tuple[Sidecar, list[str]]]:
    """A sidecar with 720 sessions, of which the last has no notes."""
    ids = [f"session-{number:03}" for number in range(720)]
    patience = timedelta(seconds=20)
    with Sidecar() as sidecar:
        async with AsyncObserverClient(sidecar.target, timeout=patience) as observer:
            await asyncio.gather(*(observer.write_notes(one, Notes()) for one in ids[:-1]))
        async with AsyncPrimaryClient(sidecar.target, state_timeout=patience) as primary:
            await primary.append_turns(ids[-1], [Turn("user", "x")])
        yield sidecar, ids


async def test_what_a_refresh_costs(many: tuple[Sidecar, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions: a bounded number of calls; what is on the screen first; what stays as it is, once."""
    sidecar, ids = many
    in_sight = [(one, "default") for one in ids[:30]]
    async with Counted(sidecar.target) as reads:
        watch = Watch(reads, None, None)
        await watch.refresh([])
        assert watch.sessions < len(ids)
        assert (reads.asked["ListSessions"], reads.asked["entries"]) == (5, 300)
        while not (watch.complete and not watch.unread):
            before = reads.asked.copy()
            await watch.refresh(in_sight)
            spent = reads.asked - before
            assert (spent["ListSessions"] <= 5, spent["entries"] <= 300, spent["ListRuns"] <= 50) == (True,) * 3
        assert watch.sessions == 720
        assert {row.observer for row in watch.rows.values()} == {"", "default"}

        before = reads.asked.copy()
        for _ in range(4):
            await watch.refresh(in_sight)
        spent = reads.asked - before
        assert (spent["BatchGetNotes"], spent["entries"], spent["ListRuns"]) == (4, 4 * 30, 0)

        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, ids[300]).write_notes("r2")
            SessionCalls(channel, ids[301]).delete()
        changed = watch.rows[ids[300], "default"]
        while (ids[301], "default") in watch.rows or changed.latest_run is None or changed.latest_run.number == 1:
            await watch.refresh(in_sight)
        assert watch.sessions == 719

        monkeypatch.setattr("session_notes_tools.top.watch.MOST_SESSIONS", 300)
        some = Watch(reads, None, None)
        for _ in range(3):
            await some.refresh([])
        assert (some.complete, some.more) == (True, True)
        assert 300 <= some.sessions < 500
