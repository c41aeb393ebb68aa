"""Cancellation in asyncio: the caller gets its own cancellation, and the call also ends at the sidecar."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import anyio
import pytest
from session_notes import AsyncObserverClient, AsyncPrimaryClient, ObserverClient, RunState, Unavailable

from tests.peers import Proxy, RejectingServer
from tests.support import eventually, new_session_id

Work = Callable[[], Coroutine[Any, Any, object]]


@pytest.fixture
def hanging(rejecting: RejectingServer) -> RejectingServer:
    """A server that responds to no call."""
    rejecting.answers = 0
    return rejecting


async def _move_on_after(work: Work) -> None:
    with anyio.move_on_after(0.2) as scope:
        await work()
    assert scope.cancelled_caught


async def _fail_after(work: Work) -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(0.2):
        await work()


async def _task_group(work: Work) -> None:
    async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
        inner.start_soon(work)
        await anyio.sleep(0.2)
        outer.cancel_scope.cancel()
    assert outer.cancel_scope.cancelled_caught


async def _nested_scopes(work: Work) -> None:
    with anyio.CancelScope() as outer:
        with anyio.move_on_after(0.2) as scope:
            await work()
    assert scope.cancelled_caught
    assert not outer.cancelled_caught


async def _timeout(work: Work) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await work()


async def _wait_for(work: Work) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 0.2)


async def _cancel(work: Work) -> None:
    task = asyncio.ensure_future(work())
    await asyncio.sleep(0.2)
    task.cancel("the user hung up")
    with pytest.raises(asyncio.CancelledError, match="the user hung up"):
        await task
    assert task.cancelled()


@pytest.mark.parametrize(
    "cancel", [_move_on_after, _fail_after, _task_group, _nested_scopes, _timeout, _wait_for, _cancel]
)
async def test_a_call_is_cancelled(hanging: RejectingServer, cancel: Callable[[Work], Awaitable[None]]) -> None:
    """Each way of cancelling a call is caught by its own scope, and the task and the client remain usable."""
    async with AsyncPrimaryClient(hanging.target, timeout=timedelta(minutes=1)) as primary:
        await cancel(lambda: primary.get_notes("s", unavailable_ok=True))
        await asyncio.to_thread(eventually, hanging.cancelled.is_set)
        await asyncio.sleep(0)
        hanging.answers = 1_000_000
        with pytest.raises(Exception, match="INTERNAL"):
            await primary.get_notes("s")


@pytest.mark.parametrize("cancel", [_move_on_after, _fail_after, _task_group, _timeout, _cancel])
async def test_a_pause_between_attempts_is_cancelled(
    retry_later: RejectingServer, cancel: Callable[[Work], Awaitable[None]]
) -> None:
    """A call that waits for its next attempt can be cancelled, too."""
    async with AsyncObserverClient(retry_later.target, timeout=timedelta(minutes=5)) as observer:
        await cancel(lambda: observer.begin_run("s"))
        assert len(retry_later.requests) == 1
        await asyncio.sleep(0)


async def test_closing_within_a_scope(silent: str) -> None:
    """A client that is closed within a scope raises Unavailable, not a cancellation."""
    async with AsyncObserverClient(silent) as observer, anyio.create_task_group() as group:
        outcome: list[BaseException] = []

        async def call() -> None:
            try:
                await observer.begin_run("s")
            except BaseException as error:
                outcome.append(error)
                raise

        async def caught() -> None:
            with pytest.raises(Unavailable, match="closed"):
                await call()

        group.start_soon(caught)
        await asyncio.to_thread(eventually, lambda: observer._transport._methods)
        await observer.close()
    assert [type(error) for error in outcome] == [Unavailable]


async def test_a_client_that_closes_after_an_earlier_cancellation(silent: str) -> None:
    """A task that continues after a cancellation, as cleanup code does, gets Unavailable for its closed client."""
    async with AsyncObserverClient(silent) as observer:

        async def clean_up() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await observer.begin_run("s")

        task = asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.to_thread(eventually, lambda: observer._transport._methods)
    with pytest.raises(Unavailable, match="closed"):
        await task


@pytest.mark.parametrize("cancel", [_move_on_after, _fail_after, _task_group, _timeout, _wait_for, _cancel])
async def test_a_cancelled_run_has_failed(
    async_observer: AsyncObserverClient, session_id: str, cancel: Callable[[Work], Awaitable[None]]
) -> None:
    """The failure is recorded even in a scope that cancels every await, and the cancellation propagates."""

    async def observe() -> None:
        async with async_observer.run(session_id):
            await asyncio.Event().wait()

    await cancel(observe)
    runs = [(run.state, run.failure) async for run in async_observer.list_runs(session_id)]
    assert runs == [(RunState.FAILED, "CancelledError")]


async def test_a_run_cancelled_while_it_begins_has_failed(
    proxy: Proxy, observer: ObserverClient, session_id: str
) -> None:
    """A run that the sidecar has begun, with its reply on the way, does not stay in flight for its lease."""
    async with AsyncObserverClient(proxy.target) as client:
        await client.begin_run(new_session_id())
        proxy.drop_replies()
        with anyio.move_on_after(0.2) as scope:
            async with client.run(session_id):
                raise AssertionError
        assert scope.cancelled_caught
        assert [run.state for run in observer.list_runs(session_id)] == [RunState.RUNNING]
        proxy.reset()
        await asyncio.to_thread(
            eventually, lambda: [run.failure for run in observer.list_runs(session_id)] == ["CancelledError"]
        )
