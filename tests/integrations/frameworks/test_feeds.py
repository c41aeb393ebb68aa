"""The feeds of a framework's sessions keep the state of a bounded number of sessions."""

import pytest
from session_notes import AsyncPrimaryClient
from session_notes.integrations import _feeds
from session_notes.integrations._feeds import Feeds

from tests.support import new_session_id


async def test_only_the_latest_sessions_are_kept(
    async_primary: AsyncPrimaryClient, noted_session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session gets unchanged notes once, unless so many others were used since that it was dropped."""
    monkeypatch.setattr(_feeds, "MAX_SESSIONS", 2)
    feeds = Feeds(async_primary, lambda context: str(context), {})
    assert "Wants a refund." in await feeds.news(noted_session)
    await feeds.news(new_session_id())
    assert await feeds.news(noted_session) == ""
    await feeds.news(new_session_id())
    assert await feeds.news(noted_session) == ""
    for _ in range(2):
        await feeds.news(new_session_id())
    assert "Wants a refund." in await feeds.news(noted_session)
