"""Messages that come again and again: logged at once, then ever more rarely."""

from __future__ import annotations

import time

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 5.0, 60.0


class LogThrottle:
    """Says when a message is due in the log: at once, then after pauses that grow to a minute, each kind by itself."""

    def __init__(self) -> None:
        # By message: not before when, the next pause, and how often it has come since it was logged.
        self._kinds: dict[str, tuple[float, float, int]] = {}

    def due(self, message: str) -> int | None:
        """Count a message, and return how often it has come since it was last due: 0 the first time; None: not due."""
        now = time.monotonic()
        not_before, pause, count = self._kinds.get(message, (now, FIRST_PAUSE_SECONDS, 0))
        if now < not_before:
            self._kinds[message] = (not_before, pause, count + 1)
            return None
        pause = min(pause, LAST_PAUSE_SECONDS)
        self._kinds[message] = (now + pause, 2 * pause, 1)
        return count
