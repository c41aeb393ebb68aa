"""Retries of idempotent calls during an outage of the sidecar."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from session_notes import Unavailable

T = TypeVar("T")

TIMEOUT_SECONDS = 6.0
"""Long enough for a sidecar to restart."""

PAUSE_SECONDS = 0.1


async def retry_over_outage(call: Callable[[], Awaitable[T]]) -> T:
    """Retry an idempotent call until the sidecar responds.

    Raises:
        Unavailable: If the sidecar stays unavailable.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            return await call()
        except Unavailable as error:
            pause = error.retry_after.total_seconds() if error.retry_after else PAUSE_SECONDS
            if time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause)
