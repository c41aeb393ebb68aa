"""What a writer does where nobody answers: the same again, for as long as it has patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from session_notes import Unavailable

T = TypeVar("T")

PATIENCE_SECONDS = 6.0
"""Long enough for a sidecar to restart."""

PAUSE_SECONDS = 0.1


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What a call that may be repeated answers in the end.

    Raises:
        Unavailable: Nobody answered for too long.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except Unavailable as error:
            pause = error.retry_after.total_seconds() if error.retry_after else PAUSE_SECONDS
            if time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause)
