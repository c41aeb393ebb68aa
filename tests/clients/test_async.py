"""The asyncio clients: the same results and errors as the blocking ones, and their own rules for event loops."""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from session_notes import (
    AsyncObserverClient,
    AsyncPrimaryClient,
    DeadlineExceeded,
    InvalidArgument,
    Issue,
    Notes,
    ObserverClient,
    Readiness,
    RunAlreadyWritten,
    RunInFlight,
    RunState,
    TooLarge,
    Turn,
    Unavailable,
    UsageError,
    VersionMismatch,
    WriteOutcome,
)

from tests.peers import Proxy, RejectingServer
from tests.support import Sidecar, eventually


async def test_every_method_of_a_primary(
    async_primary: AsyncPrimaryClient, async_observer: AsyncObserverClient, session_id: str
) -> None:
    """Every method of a primary client works."""
    reading = await async_primary.get_notes(session_id)
    assert reading.as_tool_result() == {"ready": False, "reason": "never_run"}
    assert await async_primary.append_turns(session_id, [Turn("user", "x")]) == 1
    assert (await async_primary.update_session(session_id, {"a": 1.0}, expected_version=0)).version == 1
    notes = Notes(summary="x", issues=(Issue("y"),))
    await async_observer.write_notes(session_id, notes, observed_turn=1)
    (reading,) = await async_primary.batch_get_notes([session_id], max_turns_behind=0)
    assert (reading.notes, reading.fresh) == (notes, True)
    session = await async_primary.get_session(session_id, include_turns=True)
    assert (session.fields, session.turns) == ({"a": 1.0}, (Turn("user", "x"),))
    assert session_id in [summary.session_id async for summary in async_primary.list_sessions(page_size=1)]
    assert await async_primary.delete_session(session_id) is True


async def test_a_run_ends_regardless_of_its_block(
    async_primary: AsyncPrimaryClient, async_observer: AsyncObserverClient, session_id: str
) -> None:
    """A run gets the transcript, writes once, and ends regardless of its block."""
    await async_primary.append_turns(session_id, [Turn("user", "x")])
    async with async_observer.run(session_id) as run:
        assert (run.transcript, run.observed_turn) == ((Turn("user", "x"),), 1)
        assert (await run.write(Notes(summary="x"))).outcome is WriteOutcome.ACCEPTED
        with pytest.raises(UsageError, match="once"):
            await run.write(Notes(summary="x"))
    with pytest.raises(LookupError, match="my card"):
        async with async_observer.run(session_id):
            raise LookupError("my card is 4111")
    async with async_observer.run(session_id):
        pass
    async with async_observer.run(session_id) as run:
        assert (await run.fail("model overloaded")).state is RunState.FAILED
    listed = [run async for run in async_observer.list_runs(session_id, include_notes=True, page_size=1)]
    assert [run.failure for run in listed] == ["model overloaded", "ended without notes", "LookupError", ""]
    assert listed[-1].notes == Notes(summary="x")


async def test_a_run_that_has_ended_is_not_entered_again(async_observer: AsyncObserverClient, session_id: str) -> None:
    """A run that has ended is not entered again."""
    await async_observer.write_notes(session_id, Notes(summary="x"), run_id="job-7")
    with pytest.raises(RunAlreadyWritten):
        async with async_observer.run(session_id, run_id="job-7"):
            pytest.fail("the block was entered")


async def test_nothing_is_logged_if_there_is_no_failure_to_record(
    async_primary: AsyncPrimaryClient,
    async_observer: AsyncObserverClient,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A deleted session has no runs, and a run that was written elsewhere has not failed."""
    caplog.set_level(logging.DEBUG, "session_notes")
    async with async_observer.run(session_id) as run:
        await async_observer.write_notes(session_id, Notes(summary="first"), run_id=run.run_id)
    async with async_observer.run(session_id):
        await async_primary.delete_session(session_id)
    assert caplog.messages == []


async def test_a_cancelled_run_is_recorded_as_failed(async_observer: AsyncObserverClient, session_id: str) -> None:
    """A task that is cancelled in a run's block records the failure and stays cancelled."""
    begun = asyncio.Event()

    async def observe() -> None:
        async with async_observer.run(session_id):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(observe())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [run.failure async for run in async_observer.list_runs(session_id)] == ["CancelledError"]


async def test_errors_have_the_same_types_and_details(
    async_primary: AsyncPrimaryClient, async_observer: AsyncObserverClient, session_id: str
) -> None:
    """Errors have the same types and details."""
    with pytest.raises(InvalidArgument) as invalid:
        await async_primary.get_notes("two words")
    assert [violation.field for violation in invalid.value.violations] == ["session_id"]
    with pytest.raises(InvalidArgument, match=r"^turns must be session_notes\.Turn, not str$"):
        await async_primary.append_turns(session_id, ["hello"])  # type: ignore[list-item]
    with pytest.raises(TooLarge) as large:
        await async_observer.write_notes(session_id, Notes(summary="x" * 300_000))
    assert large.value.limit == 256 * 1024
    with pytest.raises(VersionMismatch) as version:
        await async_primary.update_session(session_id, {"a": 1}, expected_version=3)
    assert version.value.actual == 0
    run_id = (await async_observer.begin_run(session_id)).run.run_id
    with pytest.raises(RunInFlight) as in_flight:
        async with async_observer.run(session_id, only_if_idle=True):
            pytest.fail("the block was entered")
    assert in_flight.value.run.run_id == run_id
    await async_observer.write_notes(session_id, Notes(), run_id=run_id)
    with pytest.raises(RunAlreadyWritten):
        await async_observer.fail_run(session_id, run_id)


async def test_an_outage_raises_or_is_a_reading(unreachable: str, silent: str) -> None:
    """An outage raises within the deadline, or is a reading that is not ready."""
    async with AsyncPrimaryClient(unreachable) as primary:
        with pytest.raises(Unavailable):
            await primary.get_notes("s")
    async with AsyncPrimaryClient(silent) as primary:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await primary.get_notes("s")
        assert 0.25 <= time.monotonic() - started < 2
        reading = await primary.get_notes("s", unavailable_ok=True)
        assert reading.readiness is Readiness.UNAVAILABLE
        (reading,) = await primary.batch_get_notes(["s"], unavailable_ok=True, timeout=timedelta(seconds=0.1))
        assert reading.as_tool_result() == {"ready": False, "reason": "unavailable"}


async def test_an_observer_survives_a_restart(session_id: str) -> None:
    """A write during a restart of the sidecar is retried without blocking the event loop: one run, one write."""
    with Sidecar() as sidecar:
        async with AsyncObserverClient(sidecar.target) as observer, observer.run(session_id) as run:
            sidecar.terminate()
            write = asyncio.create_task(run.write(Notes(summary="x")))
            await asyncio.to_thread(sidecar.start)
            assert (await write).outcome is WriteOutcome.ACCEPTED
            assert [(run.number, run.state) async for run in observer.list_runs(session_id)] == [(1, RunState.WRITTEN)]


async def test_a_write_with_a_lost_reply_is_retried(observer: ObserverClient, proxy: Proxy, session_id: str) -> None:
    """If the reply to a write is lost, the retry carries the same run id and there is no second run."""
    async with AsyncObserverClient(proxy.target) as client:
        assert [run async for run in client.list_runs(session_id)] == []
        proxy.drop_replies()
        write = asyncio.create_task(client.write_notes(session_id, Notes(summary="x")))
        runs = await asyncio.to_thread(eventually, lambda: list(observer.list_runs(session_id)))
        proxy.reset()
        assert (await write).outcome is WriteOutcome.DUPLICATE
    assert list(observer.list_runs(session_id)) == runs


async def test_a_client_works_only_in_its_block(sidecar: Sidecar, session_id: str) -> None:
    """A client outside its block raises UsageError. It can be opened again."""
    primary = AsyncPrimaryClient(sidecar.target)
    with pytest.raises(UsageError, match="async with"):
        await primary.get_notes(session_id)
    for _ in range(2):
        async with primary:
            assert not (await primary.get_notes(session_id)).ready
        with pytest.raises(UsageError, match="async with"):
            await primary.get_notes(session_id)
    async with primary:
        with pytest.raises(UsageError, match="open already"):
            await primary.__aenter__()


async def test_closing_ends_calls_in_flight(silent: str) -> None:
    """A call in flight while another task closes the client ends as Unavailable, and no task is cancelled."""
    observer = AsyncObserverClient(silent)
    async with observer:
        call = asyncio.create_task(observer.begin_run("s"))
        await asyncio.to_thread(eventually, lambda: observer._transport._methods)
    with pytest.raises(Unavailable):
        await call
    assert not call.cancelled()


async def test_closing_ends_a_pause_between_attempts(retry_later: RejectingServer) -> None:
    """A call that waits for its next attempt ends immediately as well, even if the client is opened again."""
    observer = AsyncObserverClient(retry_later.target, timeout=timedelta(minutes=5))
    async with observer:
        call = asyncio.create_task(observer.begin_run("s"))
        await asyncio.to_thread(eventually, lambda: retry_later.requests)
    async with observer, asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await call
    assert len(retry_later.requests) == 1


async def test_closing_at_the_moment_of_a_call(async_primary: AsyncPrimaryClient) -> None:
    """A call whose channel was closed by another task was in flight, and ends as Unavailable."""
    assert async_primary._transport._channel is not None
    await async_primary._transport._channel.close()
    with pytest.raises(Unavailable, match="closed"):
        await async_primary.get_notes("s")


async def test_a_task_cancelled_while_the_client_closes(silent: str) -> None:
    """A task that is cancelled while the client closes gets its own cancellation."""
    async with AsyncObserverClient(silent) as observer:
        call = asyncio.create_task(observer.begin_run("s"))
        await asyncio.to_thread(eventually, lambda: observer._transport._methods)
        call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_cancelled_call_stays_cancelled(silent: str) -> None:
    """The cancellation of a task is never replaced by an error of the client."""
    async with AsyncPrimaryClient(silent, timeout=timedelta(minutes=1)) as primary:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await primary.get_notes("s")


def test_a_client_can_move_between_loops(sidecar: Sidecar, session_id: str) -> None:
    """A client created outside any event loop can be opened in one loop after another."""
    primary = AsyncPrimaryClient(sidecar.target)

    async def read() -> bool:
        async with primary:
            return (await primary.get_notes(session_id, timeout=timedelta(seconds=2))).ready

    assert [asyncio.run(read()) for _ in range(2)] == [False, False]


_OTHER_LOOP = r"belongs to the event loop in which it was opened.*`async with`"


def test_a_client_in_another_loop_raises_usage_error(sidecar: Sidecar, session_id: str) -> None:
    """A client used or closed in another loop raises UsageError, not a RuntimeError of gRPC, and returns no reading."""
    primary, observer = AsyncPrimaryClient(sidecar.target), AsyncObserverClient(sidecar.target)
    opened = threading.Event()
    done = threading.Event()

    async def hold() -> bool:
        async with primary, observer:
            opened.set()
            await asyncio.to_thread(done.wait, 30)
            return (await primary.get_notes(session_id, timeout=timedelta(seconds=5))).ready

    async def use() -> None:
        for call in (
            lambda: primary.get_notes(session_id),
            lambda: primary.get_notes(session_id, unavailable_ok=True),
            lambda: primary.batch_get_notes([session_id], unavailable_ok=True),
            lambda: primary.append_turns(session_id, [Turn("user", "x")]),
            lambda: observer.begin_run(session_id),
            lambda: primary.close(),
            lambda: observer.close(),
            lambda: primary.__aenter__(),
        ):
            with pytest.raises(UsageError, match=_OTHER_LOOP):
                await call()

    with ThreadPoolExecutor(1) as thread:
        holding = thread.submit(asyncio.run, hold())
        assert opened.wait(30)
        try:
            asyncio.run(use())
        finally:
            done.set()
        assert holding.result(30) is False, "the client still works in its own loop"


def test_a_client_left_open_by_its_loop(sidecar: Sidecar, session_id: str) -> None:
    """A client left open when its loop ended raises UsageError in the next loop, and can be closed or opened there."""
    for close in (False, True):
        primary = AsyncPrimaryClient(sidecar.target)

        async def leave_open(primary: AsyncPrimaryClient = primary) -> None:
            await primary.__aenter__()
            await primary.get_notes(session_id, timeout=timedelta(seconds=5))

        async def use(primary: AsyncPrimaryClient = primary, close: bool = close) -> None:
            with pytest.raises(UsageError, match=_OTHER_LOOP):
                await primary.get_notes(session_id, unavailable_ok=True)
            if close:
                await primary.close()
            async with primary:
                assert not (await primary.get_notes(session_id, timeout=timedelta(seconds=5))).ready

        asyncio.run(leave_open())
        asyncio.run(use())


def test_a_client_without_a_loop_raises_usage_error(sidecar: Sidecar) -> None:
    """A client under another framework than asyncio, or none, raises UsageError."""
    primary = AsyncPrimaryClient(sidecar.target)
    with pytest.raises(UsageError, match="needs a running asyncio event loop"):
        primary.__aenter__().send(None)
