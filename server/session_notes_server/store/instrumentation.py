"""The interface through which telemetry observes the store."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Instrumentation(Protocol):
    """Wraps the work of a store or an executor, to measure or trace it.

    A `Store` wraps each operation, and an `Executor` each script, batch of scripts and scan.
    """

    async def instrument(self, name: str, work: Coroutine[Any, Any, T], *, batch_size: int = 1) -> T:
        """Await `work` and return its result, or raise its exception.

        Args:
            name: The operation or the script.
            work: A coroutine that has not started.
            batch_size: Number of sessions that the work concerns.
        """
