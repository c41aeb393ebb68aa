"""Brakes of both background observers, on a real sidecar."""

import asyncio
import logging
import threading
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from session_notes import Notes, ObserverClient, PrimaryClient, RunState, Turn, _brakes
from session_notes._results import Run

from tests.clients.background_observers import Analysis, Background, logged, reached
from tests.support import Sidecar, new_session_id

pytestmark = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "asyncio"])

NONE: dict[str, Any] = {"brakes": False}
SECOND = timedelta(seconds=1)


@pytest.fixture
def analysis() -> Analysis:
    """An analysis that returns immediately unless the test holds it."""
    return Analysis()


def ended(observer: ObserverClient, session_id: str, count: int) -> list[Run]:
    """Return the runs, oldest first, if there are so many and none is in flight."""
    runs = list(observer.list_runs(session_id))[::-1]
    return runs if len(runs) == count and all(run.state is not RunState.RUNNING for run in runs) else []


def gap(earlier: Run, later: Run) -> float:
    """Return the seconds from the end of one run to the begin of the next."""
    assert earlier.end_time is not None
    assert later.begin_time is not None
    return (later.begin_time - earlier.end_time).total_seconds()


async def test_a_session_has_one_run_when_it_is_quiet(
    awaited: bool, sidecar: Sidecar, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """An exchange recorded in parts is analysed once, as a whole."""
    quiet = timedelta(seconds=0.8)
    async with Background(awaited, analysis, sidecar.target, **NONE, quiet_for=quiet) as background:
        for _ in range(6):
            primary.append_turns(session_id, [Turn("user", "a part")])
            background.submit(session_id)
            await asyncio.sleep(0.2)
            assert analysis.runs == []
        await reached(lambda: analysis.runs)
        assert await background.close()
    assert [run.observed_turn for run in analysis.runs] == [6]


async def test_two_runs_of_a_session_are_an_interval_apart(
    awaited: bool, sidecar: Sidecar, primary: PrimaryClient, observer: ObserverClient, analysis: Analysis
) -> None:
    """Any number of submissions within `min_interval` lead to one run after it. Other sessions do not wait."""
    first, second = new_session_id(), new_session_id()
    async with Background(awaited, analysis, sidecar.target, **NONE, min_interval=SECOND) as background:
        for _ in range(5):
            primary.append_turns(first, [Turn("user", "x")])
            background.submit(first)
            await reached(lambda: analysis.runs)
        background.submit(second)
        await reached(lambda: len(analysis.runs) == 2)
        assert analysis.runs[1].session_id == second
        runs = await reached(lambda: ended(observer, first, 2))
        assert await background.close()
    assert runs[1].begin_time - runs[0].begin_time >= SECOND
    assert [run.observed_turn for run in runs] == [1, 5]


async def test_a_run_of_another_process_counts_for_the_interval(
    awaited: bool,
    sidecar: Sidecar,
    primary: PrimaryClient,
    observer: ObserverClient,
    analysis: Analysis,
    session_id: str,
) -> None:
    """A session whose turns reach several processes has one run per interval, not one per process. `close` runs it."""

    def another_process_runs() -> None:
        with observer.run(session_id) as run:
            run.write(Notes(summary="by another process"))
        primary.append_turns(session_id, [Turn("user", "x")])
        with observer.run(session_id) as run:
            run.fail("by another process")

    options: dict[str, Any] = {**NONE, "min_new_turns": 1, "min_interval": SECOND}
    another_process_runs()
    async with Background(awaited, analysis, sidecar.target, **options) as background:
        background.submit(session_id)
        _, failed, last = await reached(lambda: ended(observer, session_id, 3))
    assert last.begin_time - failed.begin_time >= SECOND
    another_process_runs()
    async with Background(
        awaited, analysis, sidecar.target, **{**options, "min_interval": 3600 * SECOND}
    ) as background:
        background.submit(session_id)
        await reached(lambda: background.observer._schedule.next_release)
        assert len(analysis.runs) == 1
        assert await background.close()
    assert len(analysis.runs) == 2


async def test_only_one_of_the_processes_that_wait_for_the_interval_runs(
    awaited: bool,
    sidecar: Sidecar,
    primary: PrimaryClient,
    observer: ObserverClient,
    analysis: Analysis,
    session_id: str,
) -> None:
    """Processes whose interval ends at the same moment have one run, and the others wait again."""
    with observer.run(session_id) as run:
        run.write(Notes(summary="by another process"))
    primary.append_turns(session_id, [Turn("user", "x")])
    analysis.released.clear()
    options: dict[str, Any] = {**NONE, "min_new_turns": 1, "min_interval": SECOND}
    async with (
        Background(awaited, analysis, sidecar.target, **options) as one,
        Background(awaited, analysis, sidecar.target, **options) as other,
    ):
        one.submit(session_id)
        other.submit(session_id)
        await reached(lambda: analysis.runs)
        first = analysis.runs[0].run_id
        schedules = [one.observer._schedule, other.observer._schedule]
        await reached(lambda: first in [s.after_run for schedule in schedules for s in schedule._submitted.values()])
        assert len(analysis.runs) == 1
        analysis.released.set()
        await reached(lambda: one.observer._schedule.empty and other.observer._schedule.empty)
    assert len(analysis.runs) == 1


async def test_an_analysis_needs_new_turns(
    awaited: bool,
    sidecar: Sidecar,
    primary: PrimaryClient,
    observer: ObserverClient,
    analysis: Analysis,
    session_id: str,
) -> None:
    """With too few new turns, a session waits for its next submission or for the end. With none, it is done."""
    async with Background(awaited, analysis, sidecar.target, **NONE, min_new_turns=2) as background:
        for count in (1, 2):
            assert ended(observer, session_id, 0) == []
            primary.append_turns(session_id, [Turn("user", str(count))])
            background.submit(session_id)
        await reached(lambda: ended(observer, session_id, 1))
        background.submit(session_id)
        await reached(lambda: background.observer._schedule.empty)
        primary.append_turns(session_id, [Turn("user", "3")])
        background.submit(session_id)
        await reached(lambda: not background.observer._schedule.jobs)
        assert len(analysis.runs) == 1
        assert await background.close()
    assert [run.observed_turn for run in analysis.runs] == [2, 3]
    assert len(ended(observer, session_id, 2)) == 2, "a session without enough turns has no record of a run"


async def test_a_session_that_expired_while_it_waited_for_turns_is_not_run_at_close(
    awaited: bool, sidecar: Sidecar, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """`close` does not pay for the analysis of a session that no longer exists, nor bring it back."""
    primary.append_turns(session_id, [Turn("user", "x")])
    primary.update_session(session_id, {}, ttl=timedelta(seconds=1))
    background = Background(awaited, analysis, sidecar.target, **{**NONE, "min_new_turns": 2})
    background.submit(session_id)
    schedule = background.observer._schedule
    await reached(lambda: not schedule.queued and not schedule.jobs)
    assert not schedule.empty
    await reached(lambda: primary.get_session(session_id).turn_count == 0)
    assert await background.close()
    assert not analysis.runs


async def test_nothing_new_is_not_analysed_by_default(
    awaited: bool, sidecar: Sidecar, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """With the default brakes, the notes of one run are not paid for twice, not even at the end."""
    primary.append_turns(session_id, [Turn("user", "x")])
    for _ in range(2):
        background = Background(awaited, analysis, sidecar.target)
        background.submit(session_id)
        assert await background.close(), "close does not wait for the brakes"
    assert len(analysis.runs) == 1


async def test_a_session_has_at_most_so_many_runs(
    awaited: bool,
    sidecar: Sidecar,
    observer: ObserverClient,
    analysis: Analysis,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After `max_runs`, submissions are ignored, also at the end, and the log says so once."""
    async with Background(awaited, analysis, sidecar.target, **NONE, max_runs=2) as background:
        for count in (1, 2):
            background.submit(session_id)
            await reached(partial(ended, observer, session_id, count))
        for _ in range(10):
            background.submit(session_id)
        other = new_session_id()
        background.submit(other)
        assert await background.close()
    assert [run.session_id for run in analysis.runs] == [session_id, session_id, other]
    assert [line for line in logged(caplog) if "max_runs" in line] == [logged(caplog)[0]]
    assert logged(caplog)[0].endswith("max_runs of 2 reached, no further runs")


async def test_a_failing_session_waits_longer_each_time(
    awaited: bool,
    sidecar: Sidecar,
    primary: PrimaryClient,
    observer: ObserverClient,
    analysis: Analysis,
    session_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pause after a failure doubles, and a success ends it."""
    monkeypatch.setattr(_brakes, "FIRST_PAUSE", timedelta(seconds=0.4))
    analysis.fails = True
    options = {"quiet_for": timedelta(), "min_interval": timedelta(), "min_new_turns": 0}
    async with Background(awaited, analysis, sidecar.target, **options) as background:
        for count in range(1, 6):
            analysis.fails = count < 4
            background.submit(session_id)
            await reached(partial(ended, observer, session_id, count))
        assert await background.close()
    runs = list(observer.list_runs(session_id))[::-1]
    assert [run.state for run in runs] == [RunState.FAILED] * 3 + [RunState.WRITTEN] * 2
    gaps = [gap(earlier, later) for earlier, later in pairwise(runs)]
    assert gaps[0] >= 0.39
    assert gaps[1] >= 0.79
    assert gaps[2] >= 1.59
    assert gaps[3] < gaps[2], "the fourth run succeeded"


async def test_a_run_that_cannot_begin_is_a_failure(
    awaited: bool, unreachable: str, analysis: Analysis, session_id: str
) -> None:
    """During an outage, a session stays submitted, and is tried less and less often, however often it is submitted."""
    options = {"quiet_for": timedelta(), "min_interval": timedelta()}
    async with Background(awaited, analysis, unreachable, **options) as background:
        background.observer._client._timeout = timedelta(seconds=0.1)
        background.submit(session_id)
        await reached(lambda: background.observer._schedule.next_release is not None)
        assert not background.observer._schedule.empty
        background.submit(session_id)
        assert background.observer._schedule.queued == 0
        assert await background.close()


async def test_a_session_submitted_during_an_outage_is_run_after_it(
    awaited: bool, analysis: Analysis, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission survives an outage that is longer than the retries of BeginRun, and leads to one run."""
    monkeypatch.setattr(_brakes, "FIRST_PAUSE", timedelta(seconds=0.2))
    with Sidecar() as sidecar:
        sidecar.kill()
        options = {"quiet_for": timedelta(), "min_interval": timedelta(), "min_new_turns": 0}
        async with Background(awaited, analysis, sidecar.target, **options) as background:
            background.observer._client._timeout = timedelta(seconds=0.1)
            background.submit(session_id)
            await reached(lambda: background.observer._schedule.next_release is not None)
            sidecar.start()
            background.observer._client._timeout = timedelta(seconds=5)
            await reached(lambda: len(analysis.runs) == 1)
            await reached(lambda: background.observer._schedule.empty)
            assert await background.close()


@pytest.mark.parametrize("runs", [1, 2])
async def test_a_session_whose_notes_an_outage_lost_is_run_again(
    awaited: bool, runs: int, analysis: Analysis, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes that could not be written lead to another run after the outage, unless the session has had all its runs."""
    monkeypatch.setattr(_brakes, "FIRST_PAUSE", timedelta(seconds=0.2))
    analysis.released.clear()
    options = {"quiet_for": timedelta(), "min_interval": timedelta(), "max_runs": runs}
    with Sidecar() as sidecar, PrimaryClient(sidecar.target) as primary:
        primary.append_turns(session_id, [Turn("user", "x")])
        async with Background(awaited, analysis, sidecar.target, **options) as background:
            background.submit(session_id)
            await reached(lambda: analysis.runs)
            sidecar.kill()
            background.observer._client._timeout = timedelta(seconds=0.1)
            analysis.released.set()
            await reached(lambda: not background.observer._schedule.jobs)
            sidecar.start()
            background.observer._client._timeout = timedelta(seconds=5)
            await reached(lambda: background.observer._schedule.empty)
            assert len(analysis.runs) == runs
            if runs == 2:
                await reached(lambda: primary.get_notes(session_id, unavailable_ok=True).ready)
            assert await background.close()


@pytest.mark.parametrize("pending", ["run", "drop"])
async def test_close_runs_or_drops_what_is_held_back(
    awaited: bool,
    pending: Any,
    sidecar: Sidecar,
    primary: PrimaryClient,
    analysis: Analysis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`close` does not wait for the brakes: sessions that they hold back are run immediately, or dropped."""
    sessions = [new_session_id() for _ in range(5)]
    background = Background(awaited, analysis, sidecar.target, quiet_for=timedelta(hours=1))
    for session_id in sessions:
        primary.append_turns(session_id, [Turn("user", "x")])
        background.submit(session_id)
    assert await background.close(pending=pending)
    assert sorted(run.session_id for run in analysis.runs) == (sorted(sessions) if pending == "run" else [])
    assert logged(caplog) == []


async def test_a_thousand_sessions_that_are_held_back_cost_no_threads(
    awaited: bool, sidecar: Sidecar, primary: PrimaryClient, analysis: Analysis
) -> None:
    """Sessions wait in a heap, for one thread or timer. When the brakes release them, all of them are run."""
    before = threading.active_count()
    sessions = [new_session_id() for _ in range(1000)]
    async with Background(
        awaited, analysis, sidecar.target, **NONE, quiet_for=timedelta(seconds=0.5), max_workers=8
    ) as background:
        for session_id in sessions:
            background.submit(session_id)
        assert threading.active_count() <= before + 2
        await reached(lambda: len(analysis.runs) == 1000, 60)
        assert await background.close()
    assert sorted(run.session_id for run in analysis.runs) == sorted(sessions)


async def test_a_deleted_session_is_not_run(
    awaited: bool, sidecar: Sidecar, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """A session that is deleted while it is held back has no run, and its runs are forgotten."""
    async with Background(awaited, analysis, sidecar.target, **NONE, max_runs=1) as background:
        background.submit(session_id)
        await reached(lambda: background.observer._schedule.empty)
        await asyncio.to_thread(primary.delete_session, session_id)
        background.submit(session_id)
        await reached(lambda: len(analysis.runs) == 2)
    async with Background(awaited, analysis, sidecar.target, quiet_for=timedelta(hours=1)) as background:
        background.submit(session_id)
        await asyncio.to_thread(primary.delete_session, session_id)
        assert await background.close()
    assert len(analysis.runs) == 2


async def test_a_failing_analysis_does_not_fill_the_log(
    awaited: bool, sidecar: Sidecar, analysis: Analysis, caplog: pytest.LogCaptureFixture
) -> None:
    """A problem of every session is logged ten times, not once per run."""
    analysis.fails = True
    async with Background(awaited, analysis, sidecar.target, **NONE) as background:
        for _ in range(100):
            background.submit(new_session_id())
        assert await background.close()
    assert len(analysis.runs) == 100
    lines = [record for record in caplog.records if "LookupError" in record.getMessage()]
    assert 10 <= len(lines) <= 11
    assert all(record.levelno == logging.WARNING for record in lines)
