"""A background observer of either kind, for tests that state a promise of both."""

# ruff: noqa: ASYNC109 - a timeout of `close` cancels nothing by itself

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self

import pytest
from session_notes import ActiveRun, AsyncActiveRun, AsyncBackgroundObserver, BackgroundObserver, Notes
from session_notes._runs import BaseRun

from tests.support import eventually

LONG = timedelta(seconds=30)


class Analysis:
    """An analysis that keeps its runs and can be held."""

    def __init__(self) -> None:
        self.runs: list[BaseRun] = []
        self.released = threading.Event()
        self.released.set()
        self.fails = False

    def begin(self, run: BaseRun) -> None:
        self.runs.append(run)

    def end(self, run: BaseRun) -> Notes | None:
        if run.obsolete:
            return None
        if self.fails:
            raise LookupError
        return Notes(summary=f"{len(run.transcript)} turns")

    def __call__(self, run: ActiveRun) -> Notes | None:
        self.begin(run)
        assert self.released.wait(60)
        return self.end(run)

    async def awaited(self, run: AsyncActiveRun) -> Notes | None:
        self.begin(run)
        while not self.released.is_set():  # noqa: ASYNC110 - set by any thread
            await asyncio.sleep(0.01)
        return self.end(run)


class Background:
    """A `BackgroundObserver` or an `AsyncBackgroundObserver`, used from an event loop that it does not block."""

    def __init__(self, awaited: bool, analysis: Analysis, target: str, **options: Any) -> None:
        self.observer: Any = (
            AsyncBackgroundObserver(analysis.awaited, target=target, **options)
            if awaited
            else BackgroundObserver(analysis, target=target, **options)
        )
        self.submit: Callable[[str], None] = self.observer.submit
        self.sweep: Callable[[timedelta], None] = self.observer.sweep
        self._awaited = awaited
        self._analysis = analysis

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._analysis.released.set()
        await self.close(timedelta(), pending="drop")

    async def close(self, timeout: timedelta = LONG, *, pending: Literal["run", "drop"] = "run") -> bool:
        """Close the observer."""
        if self._awaited:
            return bool(await self.observer.close(timeout, pending=pending))
        return bool(await asyncio.to_thread(self.observer.close, timeout, pending=pending))


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of this package."""
    return [record.getMessage() for record in caplog.records if record.name == "session_notes"]


async def reached(condition: Callable[[], Any], timeout: float = 20) -> Any:
    """Wait for a condition without blocking the event loop."""
    return await asyncio.to_thread(eventually, condition, timeout)
