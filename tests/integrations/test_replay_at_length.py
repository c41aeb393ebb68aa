"""`session-notes replay` with real transcripts, many at a time: half a minute of all there is of the machine."""

from pathlib import Path

import pytest

from tests.replay.command import replay

REAL_TRANSCRIPTS = Path(__file__).parents[3] / "shared" / "data" / "sgd-dev.jsonl"


@pytest.mark.skipif(not REAL_TRANSCRIPTS.exists(), reason="no ../shared/data/sgd-dev.jsonl beside the checkout")
def test_three_hundred_real_sessions() -> None:
    """Every promise is kept, and every one was put to the test."""
    done = replay(REAL_TRANSCRIPTS, "--sessions", "300", "--json")
    assert done.code == 0, done.err + done.out
    report = done.report
    assert report["sessions"] == 300
    assert all(one["checks"] > 0 for one in report["promises"])
    for what in ("accepted", "superseded", "duplicate", "failed", "abandoned"):
        assert report["runs"][what] > 0
    for readiness in ("never_run", "running", "ready"):
        assert report["reads"][readiness] > 0
