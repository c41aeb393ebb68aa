"""Freshness bounds, to the microsecond."""

from datetime import timedelta

import pytest
from session_notes.v1.session_notes_pb2 import STALE_REASON_AGE, STALE_REASON_SNAPSHOT_AGE
from session_notes_server.rpc import conversion, raw_messages
from session_notes_server.store import ObserverRecord, RunRecord, State

WRITTEN_US = 1_700_000_000_000_000
RUN = RunRecord("run-1", 1, State.WRITTEN, 4, WRITTEN_US - 5, WRITTEN_US)


def reading(age_us: int, **bounds: timedelta) -> tuple[bool, list[int]]:
    """Return `fresh` and the reasons, for notes of this age whose snapshot is 5 µs older."""
    now_us = WRITTEN_US + age_us
    record = ObserverRecord(now_us, 4, now_us + 1, current=RUN, notes=b"", latest=RUN)
    response = raw_messages.GetNotesResponse()
    conversion.fill_reading(response, "default", record, **bounds)  # type: ignore[arg-type]
    return response.fresh, list(response.stale_because)


@pytest.mark.parametrize(("age_us", "fresh"), [(999, True), (1000, True), (1001, False)])
def test_max_age_is_inclusive(age_us: int, *, fresh: bool) -> None:
    """Notes whose age is exactly `max_age` are fresh."""
    assert reading(age_us, max_age=timedelta(milliseconds=1)) == (fresh, [] if fresh else [STALE_REASON_AGE])


@pytest.mark.parametrize(("age_us", "fresh"), [(994, True), (995, True), (996, False)])
def test_max_snapshot_age_is_inclusive(age_us: int, *, fresh: bool) -> None:
    """Notes whose snapshot's age is exactly `max_snapshot_age` are fresh."""
    reasons = [] if fresh else [STALE_REASON_SNAPSHOT_AGE]
    assert reading(age_us, max_snapshot_age=timedelta(milliseconds=1)) == (fresh, reasons)
