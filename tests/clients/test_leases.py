"""Leases of background runs: renewed while the analysis runs, and short, so that a dead process frees its sessions."""

import asyncio
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from session_notes import (
    BeginResult,
    Notes,
    ObserverClient,
    PrimaryClient,
    Readiness,
    Reading,
    Run,
    RunInFlight,
    RunState,
    ServerError,
    Turn,
    Unavailable,
)
from session_notes._leases import Leases
from session_notes._runs import BaseRun

from tests.clients.background_observers import Analysis, Background, logged, reached
from tests.peers import FirstVersion
from tests.support import SessionCalls, Sidecar, eventually, new_session_id

KINDS = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "asyncio"])
SHORT = timedelta(seconds=0.6)


@pytest.fixture
def analysis() -> Analysis:
    """An analysis that the test holds."""
    analysis = Analysis()
    analysis.released.clear()
    return analysis


def has_runs(analysis: Analysis, count: int) -> bool:
    """Return whether an analysis has begun so often."""
    return len(analysis.runs) == count


async def stays_in_flight(observer: ObserverClient, session_id: str, span: timedelta) -> None:
    """Assert that the session has a run in flight for so long."""
    end = time.monotonic() + span.total_seconds()
    while time.monotonic() < end:
        with pytest.raises(RunInFlight):
            await asyncio.to_thread(observer.begin_run, session_id, only_if_idle=True)
        await asyncio.sleep(0.05)


@KINDS
async def test_an_analysis_may_take_longer_than_its_lease(
    awaited: bool, sidecar: Sidecar, observer: ObserverClient, analysis: Analysis
) -> None:
    """Runs that take several leases are in flight all the time, and their notes become current."""
    sessions = [new_session_id() for _ in range(3)]
    async with Background(awaited, analysis, sidecar.target, brakes=False, lease=SHORT) as background:
        # The first lease of an observer is long, until it knows that the sidecar renews leases.
        analysis.released.set()
        background.submit(new_session_id())
        await reached(lambda: background.observer._schedule.empty)
        analysis.released.clear()
        for session_id in sessions:
            background.submit(session_id)
        await reached(lambda: len(analysis.runs) == 4)
        for session_id in sessions:
            await stays_in_flight(observer, session_id, 2 * SHORT)
        assert not any(run.obsolete for run in analysis.runs)
        analysis.released.set()
        assert await background.close()
    for session_id in sessions:
        assert [run.state for run in observer.list_runs(session_id)] == [RunState.WRITTEN]


@KINDS
async def test_a_run_learns_that_a_newer_one_was_faster(
    awaited: bool,
    sidecar: Sidecar,
    observer: ObserverClient,
    analysis: Analysis,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`run.obsolete` turns true while the analysis runs. If it then returns nothing, that is no failure."""
    async with Background(awaited, analysis, sidecar.target, brakes=False, lease=SHORT) as background:
        background.submit(session_id)
        await reached(lambda: analysis.runs)
        observer.write_notes(session_id, Notes(summary="newer"))
        await reached(lambda: analysis.runs[0].obsolete)
        analysis.released.set()
        assert await background.close()
        assert background.observer._schedule.histories.get(session_id).failures == 0
    assert [run.failure for run in observer.list_runs(session_id)] == ["", "obsolete: a newer run was faster"]
    assert logged(caplog) == []


@KINDS
async def test_a_run_learns_that_its_session_was_deleted_elsewhere(
    awaited: bool, sidecar: Sidecar, session: SessionCalls, analysis: Analysis
) -> None:
    """`run.obsolete` turns true if another process deletes the session."""
    async with Background(awaited, analysis, sidecar.target, brakes=False, lease=SHORT) as background:
        background.submit(session.id)
        await reached(lambda: analysis.runs)
        session.delete()
        await reached(lambda: analysis.runs[0].obsolete)


@KINDS
async def test_an_outage_does_not_end_a_run(awaited: bool, analysis: Analysis, session_id: str) -> None:
    """After an outage that was longer than the lease, the run is in flight again."""
    with Sidecar() as sidecar, ObserverClient(sidecar.target) as observer:
        async with Background(awaited, analysis, sidecar.target, brakes=False, lease=SHORT) as background:
            background.submit(session_id)
            await reached(lambda: analysis.runs)
            sidecar.terminate()
            await asyncio.sleep(2 * SHORT.total_seconds())
            await asyncio.to_thread(sidecar.start)
            await reached(lambda: [run.state for run in observer.list_runs(session_id)] == [RunState.RUNNING])
            await stays_in_flight(observer, session_id, 2 * SHORT)
            assert not analysis.runs[0].obsolete
            analysis.released.set()
            assert await background.close()
        assert [run.state for run in observer.list_runs(session_id)] == [RunState.WRITTEN]


def test_a_process_that_dies_frees_its_sessions(sidecar: Sidecar, observer: ObserverClient, session_id: str) -> None:
    """Another process can begin a run soon after the lease, although the time limit is long."""
    program = f"""
import threading, time
from datetime import timedelta
from session_notes import BackgroundObserver

def analyse(run):
    print("analysing", flush=True)
    threading.Event().wait()

observer = BackgroundObserver(
    analyse, target={sidecar.target!r}, brakes=False, lease=timedelta(seconds=1), time_limit=timedelta(hours=1)
)
observer.submit({session_id!r})
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "analysing\n"
        asyncio.run(stays_in_flight(observer, session_id, timedelta(seconds=1.5)))
    finally:
        process.kill()
        process.communicate()
    killed = time.monotonic()
    eventually(lambda: begins(observer, session_id), 10)
    assert time.monotonic() - killed < 3


def begins(observer: ObserverClient, session_id: str) -> bool:
    """Return whether a run can begin."""
    try:
        observer.begin_run(session_id, only_if_idle=True)
    except RunInFlight:
        return False
    return True


@KINDS
async def test_a_sidecar_that_cannot_renew_gives_long_leases(
    awaited: bool,
    sidecar: Sidecar,
    first_version: FirstVersion,
    observer: ObserverClient,
    analysis: Analysis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a sidecar of the first version, a lease covers the time limit, and everything else works."""
    sessions = [new_session_id() for _ in range(2)]
    limit = timedelta(seconds=20)
    async with Background(
        awaited, analysis, first_version.target, brakes=False, lease=SHORT, time_limit=limit
    ) as background:
        for count, session_id in enumerate(sessions, 1):
            background.submit(session_id)
            await reached(partial(has_runs, analysis, count))
        for session_id in sessions:
            await stays_in_flight(observer, session_id, 2 * SHORT)
        analysis.released.set()
        assert await background.close()
    for session_id in sessions:
        assert [run.state for run in observer.list_runs(session_id)] == [RunState.WRITTEN]
    assert "RenewRun" not in first_version.methods
    assert [request.lease.ToTimedelta() for request in first_version.begins] == [limit + timedelta(seconds=10)] * 2
    assert logged(caplog) == []


@KINDS
async def test_a_run_sees_the_new_turns_and_the_notes_so_far(
    awaited: bool, sidecar: Sidecar, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """With `transcript="new"`, a run sees the turns that the current notes have not seen, and these notes."""
    analysis.released.set()
    options: dict[str, Any] = {"brakes": False, "transcript": "new", "max_turns": 2}
    async with Background(awaited, analysis, sidecar.target, **options) as background:
        for count, texts in enumerate((["1", "2", "3"], ["4"]), 1):
            primary.append_turns(session_id, [Turn("user", text) for text in texts])
            background.submit(session_id)
            await reached(partial(has_runs, analysis, count))
            await reached(lambda: background.observer._schedule.empty)
    first, second = analysis.runs
    assert ([turn.text for turn in first.transcript], first.first_turn) == (["2", "3"], 2)
    assert first.current is not None
    assert not first.current.ready
    assert ([turn.text for turn in second.transcript], second.first_turn) == (["4"], 4)
    assert second.current is not None
    assert second.current.notes == Notes(summary="2 turns")
    assert second.current.turns_behind == 1


async def test_the_first_version_returns_the_whole_transcript(
    first_version: FirstVersion, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """A sidecar of the first version does not know windows: a run sees all turns, and no notes."""
    analysis.released.set()
    async with Background(False, analysis, first_version.target, transcript="new") as background:
        for text in ("1", "2"):
            primary.append_turns(session_id, [Turn("user", text)])
        background.submit(session_id)
        assert await background.close()
    (run,) = analysis.runs
    assert (len(run.transcript), run.first_turn, run.current) == (2, None, None)


def test_leases_are_long_after_a_renewal_that_the_sidecar_does_not_know() -> None:
    """If a sidecar is replaced by an older one, or leases are not renewed for another reason, runs go on."""
    leases: Leases[BaseRun] = Leases(timedelta(seconds=30), timedelta(minutes=2))
    run = BaseRun("s", BeginResult(Run("r", 1, "default", RunState.RUNNING), ()))
    assert leases.first == timedelta(seconds=130)
    begun = BeginResult(
        Run("r", 1, "default", RunState.RUNNING),
        (),
        None,
        Reading("s", "default", ready=False, readiness=Readiness.RUNNING),
    )
    leases.add(run, begun, leases.first, 0.0)
    assert leases.next_due() == (run, 0.0), "the long lease is replaced immediately"
    assert not leases.renewed(run, None, 0.0)
    assert leases.next_due() == (run, 10.0)
    assert leases.renewed(run, Unavailable("away"), 10.0)
    assert leases.next_due() == (run, 13.0), "the next attempt comes sooner"
    assert leases.first == timedelta(seconds=30)
    unknown = ServerError("UNIMPLEMENTED")
    unknown._unimplemented = True
    assert not leases.renewed(run, unknown, 13.0)
    assert (leases.next_due(), leases.first) == (None, timedelta(seconds=130))


def test_a_short_time_limit_bounds_the_lease() -> None:
    """A lease is not longer than the time limit requires."""
    assert Leases[BaseRun](timedelta(hours=1), timedelta(seconds=5)).lease == timedelta(seconds=15)
