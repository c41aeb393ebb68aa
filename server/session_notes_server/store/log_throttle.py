"""Throttling of repeated log messages: each is logged immediately, then less and less often."""

from __future__ import annotations

import logging
import time

from hiredis import ReplyError

from session_notes_server.store.errors import Unconfirmed, describe_error, known_codes

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 5.0, 60.0


class LogThrottle:
    """Decides for each message when it is due: immediately, then after pauses that grow to a minute.

    For a persistent state. `rpc.transfers.ThrottledWarning` is for events that single calls cause, which it counts.
    """

    def __init__(self) -> None:
        # Per message: when it is due next, the pause after that, and how often it occurred since it was last due.
        self._messages: dict[str, tuple[float, float, int]] = {}

    def due(self, message: str) -> int | None:
        """Count a message. If it is due, return how often it occurred since it was last due: 0 the first time."""
        now = time.monotonic()
        not_before, pause, count = self._messages.get(message, (now, FIRST_PAUSE_SECONDS, 0))
        if now < not_before:
            self._messages[message] = (not_before, pause, count + 1)
            return None
        pause = min(pause, LAST_PAUSE_SECONDS)
        self._messages[message] = (now + pause, 2 * pause, 1)
        return count


class RefusalLog:
    """Logs why the store refuses some calls while it serves others. Outages are logged by health instead."""

    def __init__(self) -> None:
        self._throttle = LogThrottle()

    def record(self, error: BaseException | None) -> None:
        """Log the cause of a failed operation, if it is such a refusal and its log line is due."""
        refused = isinstance(error, ReplyError) and any(code.refuses_calls for code in known_codes(error))
        if not refused and not isinstance(error, Unconfirmed):
            return
        description = describe_error(error)
        if (count := self._throttle.due(description)) is not None:
            repeated = f" ({count} since the last such line)" if count else ""
            log.warning("the store refuses calls: %s%s", description, repeated)
