"""Attempts of one call: its deadline, and when the next attempt is due.

gRPC's own retry policy ends after five attempts, measured as 1.5 s, and a sidecar may take longer to restart. With
`Attempts`, only the deadline ends them, and the sidecar's `retry_after` is respected.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import grpc

from session_notes._calls import Call
from session_notes._errors import DeadlineExceeded, Overloaded, ServerError, SessionNotesError, Unavailable, invalid
from session_notes._limits import MAX_TIMEOUT

_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 1.0


class Attempts:
    """The attempts of one call.

    Args:
        call: The call.
        timeout: Time for all attempts together. None: the default.
        default: The default timeout.
        target: Address of the sidecar, for error messages.

    Raises:
        InvalidArgument: If the timeout is not a timedelta.
    """

    def __init__(self, call: Call[Any], timeout: timedelta | None, default: timedelta, target: str) -> None:
        timeout = default if timeout is None else timeout
        if not isinstance(timeout, timedelta):
            raise invalid("timeout", f"must be a datetime.timedelta, not {type(timeout).__name__}")
        self._call = call
        self._target = target
        self._timeout = min(max(timeout, timedelta()), MAX_TIMEOUT).total_seconds()
        self._deadline = time.monotonic() + self._timeout
        self._pause = _FIRST_PAUSE_SECONDS
        self._previous: SessionNotesError | None = None

    def remaining(self) -> float:
        """Return the seconds until the deadline."""
        left = self._deadline - time.monotonic()
        # Well in the past: gRPC treats a deadline within the current millisecond as still ahead.
        return left if left > 0 else -1.0

    def pause_after(self, code: grpc.StatusCode, error: SessionNotesError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            SessionNotesError: The error of this attempt, if it was the last one.
        """
        transient = isinstance(error, Overloaded) or (code is grpc.StatusCode.UNAVAILABLE and self._call.repeatable)
        if not self._call.retryable or not transient:
            raise self._final(error) from self._previous
        import random  # A tenth of the package's import time, and most processes never retry.

        # With jitter, so that clients of one sidecar do not all reconnect at the same moment.
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - not a secret
        if error.retry_after is not None:
            pause = max(pause, error.retry_after.total_seconds())
        if pause >= self.remaining():
            raise self._final(error) from self._previous
        self._previous = error
        self._pause = min(self._pause * 2, _MAX_PAUSE_SECONDS)
        return pause

    def _final(self, error: SessionNotesError) -> SessionNotesError:
        """Return the error to raise.

        If no sidecar answered, or an old one without the method, it names the call and the target.
        """
        message = str(error)
        if isinstance(error, ServerError) and error._unimplemented:
            message += "; if the sidecar is older than this client, update it"
        elif not isinstance(error, Unavailable) or error.reason:
            return error
        if isinstance(error, DeadlineExceeded):
            # gRPC's message is only that the deadline has passed.
            message = f"no answer within {self._timeout:g} s"
            if self._previous is not None:
                # The deadline passed during an attempt. The error of the previous attempt gives the cause.
                message += f"; before that: {self._previous}"
        error.args = (f"{self._call.method.rpartition('/')[2]} on {self._target}: {message}",)
        return error
