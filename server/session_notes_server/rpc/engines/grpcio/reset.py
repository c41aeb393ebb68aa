"""Reset of calls, for which grpc.aio has no function."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Set
from typing import Any


def reset(calls: Set[asyncio.Task[Any]]) -> None:
    """Reset calls whose handlers have returned but whose responses are unread, and free their memory.

    The calls are given as the tasks of their handlers. grpc.aio sends RST_STREAM and frees a call only when the last
    reference to its state is dropped. Two tasks refer to it: the handler's task, and a task that waits for the caller
    to cancel. The second is found through the references of its coroutine.
    """
    for task in asyncio.all_tasks():
        waiting = getattr(task.get_coro(), "cr_await", None)
        if getattr(waiting, "__name__", "") != "_handle_cancellation_from_core":
            continue
        for scope in gc.get_referents(waiting):
            if not calls.isdisjoint(other for other in gc.get_referents(scope) if isinstance(other, asyncio.Task)):
                task.cancel()
    for call in calls:
        call.cancel()
