"""Background observers for asyncio: the rules of `BackgroundObserver`, with cancellation of analyses that overrun."""

import asyncio
import contextvars
import functools
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from session_notes import (
    AsyncActiveRun,
    AsyncBackgroundObserver,
    AsyncObserverClient,
    AsyncPrimaryClient,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    Run,
    RunState,
    SessionDeleted,
    Turn,
    UsageError,
    _pending,
)

from tests.peers import Proxy
from tests.support import Sidecar, eventually, new_session_id

LIMIT = 20.0


class Analysis:
    """An analysis that counts, can be held, and detects two concurrent runs for one session."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.released.set()
        self.started: list[AsyncActiveRun] = []
        self.cancelled: list[AsyncActiveRun] = []
        self.overlapped = False
        self._running: Counter[str] = Counter()

    async def __call__(self, run: AsyncActiveRun) -> Notes:
        self._running[run.session_id] += 1
        self.overlapped |= self._running[run.session_id] > 1
        self.started.append(run)
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled.append(run)
            raise
        finally:
            self._running[run.session_id] -= 1
        return Notes(summary=f"{len(run.transcript)} turns")


@pytest.fixture
async def analysis() -> Analysis:
    """An analysis that returns immediately unless the test holds it."""
    return Analysis()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a limit."""
    await asyncio.to_thread(eventually, condition, LIMIT)


async def ended(observer: AsyncObserverClient, session_id: str, count: int = 1) -> list[Run]:
    """Return all runs, oldest first, once there are `count` runs and none is in flight."""
    async with asyncio.timeout(LIMIT):
        while True:
            listed = [run async for run in observer.list_runs(session_id, include_notes=True)][::-1]
            if len(listed) >= count and all(run.state is not RunState.RUNNING for run in listed):
                return listed
            await asyncio.sleep(0.01)


async def test_a_submitted_session_gets_notes(
    sidecar: Sidecar, async_primary: AsyncPrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """Leaving the block finishes all submitted sessions, and later submissions are rejected."""
    await async_primary.append_turns(session_id, [Turn("user", "a"), Turn("primary", "b")])
    async with AsyncBackgroundObserver(
        analysis, brakes=False, target=sidecar.target, ttl=timedelta(minutes=5)
    ) as background:
        background.submit(session_id)
    reading = await async_primary.get_notes(session_id, timeout=timedelta(seconds=5))
    assert reading.notes == Notes(summary="2 turns")
    assert reading.expires_in is not None
    assert reading.expires_in <= timedelta(minutes=5)
    with pytest.raises(UsageError, match="closed"):
        background.submit(session_id)
    assert await background.close(), "closing again has no effect"


async def test_an_observer_opens_at_its_first_submit(
    sidecar: Sidecar, async_observer: AsyncObserverClient, analysis: Analysis, session_id: str
) -> None:
    """An observer opens at its first submit without `async with`, accepts other threads, and keeps its tasks alive."""
    background = AsyncBackgroundObserver(analysis, brakes=False, target=sidecar.target)
    background.submit(session_id)
    gc.collect()
    other = new_session_id()
    await asyncio.to_thread(background.submit, other)
    assert await background.close()
    for submitted in (session_id, other):
        assert (await ended(async_observer, submitted))[0].state is RunState.WRITTEN


async def test_an_analysis_has_no_context_of_its_submitter(
    async_observer: AsyncObserverClient, session_id: str
) -> None:
    """As in a thread, an analysis sees no context of the request that first submitted its session."""
    user = contextvars.ContextVar("user", default="unset")
    users: list[str] = []

    async def analyse(run: AsyncActiveRun) -> None:
        users.append(user.get())

    async with AsyncBackgroundObserver(analyse, brakes=False, client=async_observer) as background:
        user.set("alice")
        background.submit(session_id)
    assert users == ["unset"]


async def test_submissions_are_merged(async_observer: AsyncObserverClient, analysis: Analysis) -> None:
    """At most `max_workers` analyses run at once. A queued session is run once, a running one once more."""
    analysis.released.clear()
    sessions = [new_session_id() for _ in range(30)]
    background = AsyncBackgroundObserver(analysis, brakes=False, client=async_observer, max_workers=3)
    for session_id in sessions:
        background.submit(session_id)
    await until(lambda: len(analysis.started) == 3)
    for session_id in sessions * 3:
        background.submit(session_id)
    assert len(analysis.started) == 3
    analysis.released.set()
    assert await background.close(timedelta(seconds=30))
    assert Counter(Counter(run.session_id for run in analysis.started).values()) == {1: 27, 2: 3}
    assert not analysis.overlapped
    assert (await ended(async_observer, sessions[0], 2))[-1].state is RunState.WRITTEN, "the client stays open"


class Panic(BaseException):
    """Like the exception of a panic in an extension written in Rust, which is not an Exception."""


async def test_a_failed_analysis_is_recorded_and_logged(
    async_observer: AsyncObserverClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of failure is recorded and logged without user data, and the next analysis runs."""

    async def analyse(run: AsyncActiveRun) -> Any:
        if run.number == 1:
            raise LookupError("my card is 4111")
        if run.number == 2:
            raise SystemExit("my card is 4111")
        if run.number == 3:
            raise asyncio.CancelledError
        if run.number == 4:
            await run.fail("nothing new")
        if run.number == 9:
            raise Panic("my card is 4111")
        return {6: {"my card": 4111}, 7: Notes(coverage={"4111": 1.2}), 8: Notes(summary="x")}.get(run.number)

    session_id = new_session_id()
    background = AsyncBackgroundObserver(analyse, brakes=False, client=async_observer, max_workers=1)
    for count in range(1, 10):
        background.submit(session_id)
        runs = await ended(async_observer, session_id, count)
    assert await background.close()
    assert [run.failure for run in runs] == [
        "LookupError",
        "SystemExit",
        "CancelledError",
        "nothing new",
        "ended without notes",
        "InvalidArgument: notes must be session_notes.Notes, not dict",
        "InvalidArgument: notes.coverage must be from 0 to 1",
        "",
        "Panic",
    ]
    assert f"LookupError at {__file__}" in caplog.text
    assert "notes were not written: InvalidArgument: notes must be session_notes.Notes, not dict" in caplog.text
    assert "4111" not in caplog.text
    assert session_id not in caplog.text


async def test_an_overrun_is_cancelled(
    async_observer: AsyncObserverClient, analysis: Analysis, caplog: pytest.LogCaptureFixture
) -> None:
    """An analysis that overruns has failed at its limit. If it ignores the cancellation, its result is discarded."""
    analysis.released.clear()
    limit = timedelta(seconds=0.2)
    session_id = new_session_id()
    async with AsyncBackgroundObserver(analysis, brakes=False, client=async_observer, time_limit=limit) as background:
        background.submit(session_id)
        (run,) = await ended(async_observer, session_id)
        assert run.failure == "time limit of 0.2 s passed"
        await until(lambda: analysis.cancelled)
    with pytest.raises(UsageError, match="time limit of"):
        await analysis.started[0].write(Notes())

    may_return = asyncio.Event()

    async def stubborn(run: AsyncActiveRun) -> Notes:
        while not may_return.is_set():
            try:
                await may_return.wait()
            except asyncio.CancelledError:
                continue
        return Notes(summary="late")

    async with AsyncBackgroundObserver(stubborn, brakes=False, client=async_observer, time_limit=limit) as background:
        background.submit(session_id)
        runs = await ended(async_observer, session_id, 2)
        assert (runs[1].failure, runs[1].notes) == ("time limit of 0.2 s passed", None)
        background.submit(session_id)
        may_return.set()
    runs = await ended(async_observer, session_id, 3)
    assert [run.notes for run in runs] == [None, None, Notes(summary="late")]
    assert "not written" not in caplog.text, "the overrun is in the log already"


async def test_close_respects_its_timeout(async_observer: AsyncObserverClient, analysis: Analysis) -> None:
    """After the timeout of `close`, running analyses are cancelled and failed, and queued sessions are dropped."""
    analysis.released.clear()
    sessions = [new_session_id() for _ in range(5)]
    background = AsyncBackgroundObserver(analysis, brakes=False, client=async_observer, max_workers=2)
    for session_id in sessions:
        background.submit(session_id)
    await until(lambda: len(analysis.started) == 2)
    background.submit(sessions[0])
    started = time.monotonic()
    assert await background.close(timedelta(seconds=0.2)) is False
    assert 0.2 <= time.monotonic() - started < 2
    assert len(analysis.cancelled) == 2
    for session_id in sessions[:2]:
        (run,) = await ended(async_observer, session_id)
        assert run.failure == "observer closed"
    for session_id in sessions[2:]:
        assert [run async for run in async_observer.list_runs(session_id)] == []


async def test_close_in_a_cancelled_scope_ends_analyses(
    async_observer: AsyncObserverClient, analysis: Analysis, session_id: str
) -> None:
    """Even if an anyio cancel scope cancels every await, no analysis outlives the block, and its run has failed."""
    analysis.released.clear()
    with anyio.move_on_after(10) as scope:
        async with AsyncBackgroundObserver(analysis, brakes=False, client=async_observer) as background:
            background.submit(session_id)
            await until(lambda: bool(analysis.started))
            scope.cancel()
            await anyio.sleep(10)
    assert scope.cancelled_caught
    assert len(analysis.cancelled) == 1
    assert [run.failure async for run in async_observer.list_runs(session_id)] == ["observer closed"]


async def test_close_without_a_sidecar_is_fast(unreachable: str, analysis: Analysis) -> None:
    """Without a sidecar, no run has begun or can begin, and leaving the block takes less than its 10 s."""
    started = time.monotonic()
    async with AsyncBackgroundObserver(analysis, brakes=False, target=unreachable) as background:
        for _ in range(10):
            background.submit(new_session_id())
    assert time.monotonic() - started < 5


def test_a_loop_that_ends_without_close(sidecar: Sidecar, observer: ObserverClient, session_id: str) -> None:
    """If the loop ends without `close`, its run has failed, no new one begins, and a later submit raises UsageError."""

    async def main() -> AsyncBackgroundObserver:
        analysis = Analysis()
        analysis.released.clear()
        background = AsyncBackgroundObserver(analysis, brakes=False, target=sidecar.target, max_workers=1)
        background.submit(session_id)
        background.submit(new_session_id())
        await until(lambda: analysis.started)
        return background

    background = asyncio.run(main())
    assert [run.failure for run in observer.list_runs(session_id)] == ["CancelledError"]
    with pytest.raises(UsageError, match="event loop"):
        background.submit(session_id)


async def _observe(run: AsyncActiveRun) -> None:
    pass


class _Observing:
    async def __call__(self, run: AsyncActiveRun) -> None:
        pass


def _decorated(function: Any) -> Any:
    @functools.wraps(function)
    def inner(run: AsyncActiveRun) -> Any:
        return function(run)

    return inner


@pytest.mark.parametrize(
    "analyse", [functools.partial(_observe), _Observing(), _Observing().__call__, _decorated(_observe)]
)
async def test_all_kinds_of_async_functions_are_accepted(
    async_observer: AsyncObserverClient, session_id: str, analyse: Any
) -> None:
    """Every kind of async function is accepted."""
    async with AsyncBackgroundObserver(analyse, brakes=False, client=async_observer) as background:
        background.submit(session_id)
    assert [run.failure for run in await ended(async_observer, session_id)] == ["ended without notes"]


async def test_the_wrong_kind_is_rejected(async_observer: AsyncObserverClient) -> None:
    """A function or client of the other kind is rejected on creation, with the class that accepts it."""
    for analyse in (lambda run: None, functools.partial(print), print):
        with pytest.raises(InvalidArgument, match="for a plain function, use BackgroundObserver"):
            AsyncBackgroundObserver(analyse)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="async function itself"):
        AsyncBackgroundObserver(_observe(None))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"not ObserverClient; for an ObserverClient, use BackgroundObserver"):
        AsyncBackgroundObserver(_observe, client=ObserverClient())  # type: ignore[arg-type]
    for options in ({"max_workers": 0}, {"time_limit": 5}, {"client": async_observer, "observer": "x"}):
        with pytest.raises(InvalidArgument):
            AsyncBackgroundObserver(_observe, **options)
    background = AsyncBackgroundObserver(_observe, brakes=False, client=async_observer)
    for session_id in (42, None, "\ud83d"):
        with pytest.raises(InvalidArgument, match="session_id"):
            background.submit(session_id)  # type: ignore[arg-type]


def test_an_observer_needs_a_loop() -> None:
    """An observer needs a running loop when it is opened or first submitted to."""
    with pytest.raises(UsageError, match="async with"):
        AsyncBackgroundObserver(_observe).submit("s")


async def test_a_deleted_session_is_dropped(
    sidecar: Sidecar, async_primary: AsyncPrimaryClient, analysis: Analysis
) -> None:
    """A deleted session is dropped whether queued, running or due again, also if another thread deletes it."""
    analysis.released.clear()
    running, waiting = new_session_id(), new_session_id()
    background = AsyncBackgroundObserver(analysis, brakes=False, target=sidecar.target, max_workers=1)
    background.submit(running)
    background.submit(waiting)
    await until(lambda: analysis.started)
    background.submit(running)
    for session_id in (running, waiting):
        assert await asyncio.to_thread(_pending.forget, sidecar.target, session_id) == []
        await async_primary.delete_session(session_id)
    analysis.released.set()
    assert await background.close()
    assert len(analysis.started) == 1
    with pytest.raises(SessionDeleted):
        await analysis.started[0].write(Notes())
    for session_id in (running, waiting):
        assert (await async_primary.get_session(session_id)).create_time is None


async def test_a_session_deleted_while_its_run_begins(
    async_primary: AsyncPrimaryClient, primary: PrimaryClient, analysis: Analysis, proxy: Proxy, session_id: str
) -> None:
    """The deletion can wait until BeginRun has ended. Nothing is analysed, and nothing of the session remains."""
    background = AsyncBackgroundObserver(analysis, brakes=False, target=proxy.target)
    background.submit(new_session_id())
    await until(lambda: analysis.started)
    proxy.hold_replies()
    background.submit(session_id)
    await until(lambda: primary.get_session(session_id).create_time)
    (begun,) = _pending.forget(proxy.target, session_id)
    assert not begun.done()
    proxy.release_replies()
    await asyncio.wrap_future(begun)
    await async_primary.delete_session(session_id)
    assert await background.close()
    assert len(analysis.started) == 1
    assert (await async_primary.get_session(session_id)).create_time is None


async def test_a_token_function_that_raises_fails_one_call(
    sidecar: Sidecar, async_observer: AsyncObserverClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A token function that raises fails that call only."""
    raising = True

    def token() -> str:
        if raising:
            raise LookupError("the secret")
        return "token"

    analysis = Analysis()
    background = AsyncBackgroundObserver(analysis, brakes=False, target=sidecar.target, token=token, max_workers=1)
    background.submit(new_session_id())
    await until(lambda: "no run could begin: Unauthenticated: the token function raised LookupError" in caplog.text)
    assert "secret" not in caplog.text
    raising = False
    session_id = new_session_id()
    background.submit(session_id)
    assert (await ended(async_observer, session_id))[0].state is RunState.WRITTEN
    analysis.released.clear()
    background.submit(new_session_id())
    await until(lambda: len(analysis.started) == 2)
    raising = True
    assert await background.close(timedelta()) is False


async def test_a_log_filter_that_raises_stops_nothing(async_observer: AsyncObserverClient, session_id: str) -> None:
    """A log filter that raises neither stops later sessions nor prevents a failure from being recorded."""

    def refuse(record: logging.LogRecord) -> bool:
        raise OSError(record.msg)

    async def analyse(run: AsyncActiveRun) -> Notes:
        raise LookupError

    logger = logging.getLogger("session_notes")
    logger.addFilter(refuse)
    try:
        background = AsyncBackgroundObserver(analyse, brakes=False, client=async_observer, max_workers=1)
        for count in (1, 2):
            background.submit(session_id)
            assert (await ended(async_observer, session_id, count))[-1].failure == "LookupError"
    finally:
        logger.removeFilter(refuse)
    assert await background.close()
