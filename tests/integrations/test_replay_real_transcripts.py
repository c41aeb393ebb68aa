"""`session-notes replay` with many concurrent real transcripts, which takes half a minute on all cores."""

from pathlib import Path

import pytest

from tests.replay.command import replay

REAL_TRANSCRIPTS = Path(__file__).parents[3] / "shared" / "data" / "sgd-dev.jsonl"


@pytest.mark.skipif(not REAL_TRANSCRIPTS.exists(), reason="no ../shared/data/sgd-dev.jsonl next to the checkout")
def test_three_hundred_sessions() -> None:
    """Every promise is checked at least once and kept."""
    done = replay(REAL_TRANSCRIPTS, "--sessions", "300", "--json")
    assert done.code == 0, done.err + done.out
    report = done.report
    assert report["sessions"] == 300
    assert all(promise["checks"] > 0 for promise in report["promises"])
    for outcome in ("accepted", "superseded", "duplicate", "failed", "abandoned"):
        assert report["runs"][outcome] > 0
    for readiness in ("never_run", "running", "ready"):
        assert report["reads"][readiness] > 0
