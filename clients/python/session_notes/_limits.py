"""Limits of the contract and default timeouts, each defined once.

The sidecar enforces the limits. The clients need their values only to shorten text before it is sent. A test compares
them with the sidecar's defaults.
"""

from __future__ import annotations

from datetime import timedelta

MAX_TURN_BYTES = 64 * 1024
"""Largest turn, serialized, that a sidecar with default settings accepts."""

MAX_FAILURE_BYTES = 4096
"""Longest failure of a run, in UTF-8."""

MAX_JSON_DEPTH = 16
"""Deepest nesting of `extra` and of session fields."""

MAX_EXACT_NUMBER = 2**53 - 1
"""Largest integer up to which a double represents every integer exactly. All JSON numbers on the wire are doubles."""

MAX_TIMEOUT = timedelta(days=36_500)
"""Longest timeout. gRPC treats a deadline much farther in the future as one in the past."""

DEFAULT_NOTES_TIMEOUT = timedelta(milliseconds=250)
"""Default timeout of `get_notes`. It is short because a user is waiting for the primary's answer."""

DEFAULT_STATE_TIMEOUT = timedelta(seconds=2)
"""Default timeout of every other call of a primary client."""

DEFAULT_RUN_TIMEOUT = timedelta(seconds=10)
"""Default timeout of every call of an observer client. No user is waiting, and a sidecar restarts in less time."""

DEFAULT_RECORD_TIMEOUT = timedelta(seconds=1)
"""Default timeout of each call of a recorder."""

COMPARE_TIMEOUT = timedelta(seconds=10)
"""Timeout of a recorder's read of a whole transcript, which can be large."""

DEFAULT_RECORDER_CLOSE_TIMEOUT = timedelta(seconds=5)
"""Default timeout of a recorder's `close`."""

EXIT_TIMEOUT = timedelta(seconds=2)
"""How long all recorders together may delay the end of the process while turns are pending."""

DEFAULT_TIME_LIMIT = timedelta(minutes=2)
"""Default time limit of a background analysis."""

DEFAULT_OBSERVER_CLOSE_TIMEOUT = timedelta(seconds=10)
"""Default timeout of a background observer's `close`."""

BEGIN_TIMEOUT_AT_CLOSE = timedelta(seconds=1.5)
"""How long a closing background observer retries BeginRun. gRPC reconnects once a second."""

FAIL_TIMEOUT = timedelta(seconds=2)
"""Timeout for recording the failure of a run that is lost anyway. After it, the run's lease expires instead."""
