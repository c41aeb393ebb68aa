"""The brakes of a replay's observer: the defaults of a background observer, as fast as the replay."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

TURN_INTERVAL = timedelta(seconds=6)
"""The average time between the turns of a conversation. A replay with a shorter one is faster by their ratio."""

MIN_INTERVAL = timedelta(seconds=15)
QUIET_FOR = timedelta(seconds=2)
"""With MIN_INTERVAL, the defaults of BackgroundObserver."""


def scaled(turn_interval: float) -> dict[str, Any]:
    """Return the arguments of a BackgroundObserver whose spans fit a replay with these mean seconds between turns.

    The backoff after failures, which has no argument, is off.
    """
    share = turn_interval / TURN_INTERVAL.total_seconds()
    return {
        "brakes": False,
        "min_interval": MIN_INTERVAL * share,
        "quiet_for": QUIET_FOR * share,
        "min_new_turns": 1,
    }
