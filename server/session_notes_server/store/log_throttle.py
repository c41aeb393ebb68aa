"""Throttling of log messages that repeat: each is logged at once, then less and less often."""

from __future__ import annotations

import logging
import time

from hiredis import ReplyError

from session_notes_server.store.errors import Unconfirmed, describe_error, known_codes

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 5.0, 60.0


class LogThrottle:
    """Decides when a message is due: at once, then after pauses that grow to a minute. Each message has its own.

    For a state that persists. `rpc.transfers.ThrottledWarning` is for events per call, whose number it logs.
    """

    def __init__(self) -> None:
        # By message: when it is due next, the pause after that, and how often it came since it was last due.
        self._messages: dict[str, tuple[float, float, int]] = {}

    def due(self, message: str) -> int | None:
        """Count a message. If it is due, return how often it came since it was last due: 0 the first time."""
        now = time.monotonic()
        not_before, pause, count = self._messages.get(message, (now, FIRST_PAUSE_SECONDS, 0))
        if now < not_before:
            self._messages[message] = (not_before, pause, count + 1)
            return None
        pause = min(pause, LAST_PAUSE_SECONDS)
        self._messages[message] = (now + pause, 2 * pause, 1)
        return count


class RefusalLog:
    """Logs why the store refuses calls while it serves others. An outage is logged by health instead."""

    def __init__(self) -> None:
        self._throttle = LogThrottle()

    def record(self, error: BaseException | None) -> None:
        """Log the cause of a failed operation, if it is such a refusal and a line for it is due."""
        refused = isinstance(error, ReplyError) and any(code.refuses_calls for code in known_codes(error))
        if not refused and not isinstance(error, Unconfirmed):
            return
        description = describe_error(error)
        if (count := self._throttle.due(description)) is not None:
            repeated = f" ({count} since the last such line)" if count else ""
            log.warning("the store refuses calls: %s%s", description, repeated)
