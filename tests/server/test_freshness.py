"""Freshness bounds, to the microsecond."""

from datetime import timedelta

import pytest
from session_notes_server.rpc import conversion, raw_messages
from session_notes_server.store import ObserverRecord, RunRecord, State

WRITTEN_US = 1_700_000_000_000_000
RUN = RunRecord("run-1", 1, State.WRITTEN, 4, WRITTEN_US - 5, WRITTEN_US)


@pytest.mark.parametrize(("age_us", "fresh"), [(999, True), (1000, True), (1001, False)])
def test_max_age_is_inclusive(age_us: int, *, fresh: bool) -> None:
    """Notes whose age is exactly `max_age` are fresh."""
    now_us = WRITTEN_US + age_us
    record = ObserverRecord(now_us, 4, now_us + 1, current=RUN, notes=b"", latest=RUN)
    response = raw_messages.GetNotesResponse()
    conversion.fill_reading(response, "default", record, max_age=timedelta(milliseconds=1))
    assert response.fresh is fresh
