"""Sweeps of background observers: sessions are found without a submission, and several processes share them."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from session_notes import DueSession, InvalidArgument, Notes, ObserverClient, PrimaryClient, RunState, Turn, UsageError
from session_notes._calls import Call

from tests.clients.background_observers import Analysis, Background, logged, reached
from tests.peers import FirstVersion
from tests.support import Sidecar, eventually, new_session_id

KINDS = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "asyncio"])
OFTEN = timedelta(seconds=0.2)


@pytest.fixture
def analysis() -> Analysis:
    """An analysis that returns immediately unless the test holds it."""
    return Analysis()


@pytest.fixture
def own_sidecar() -> Iterator[Sidecar]:
    """A sidecar without the sessions of other tests, which a sweep would find."""
    with Sidecar() as sidecar:
        yield sidecar


@pytest.fixture
def talk(own_sidecar: Sidecar) -> Iterator[Callable[[str], int]]:
    """Append a turn to a session, without submitting it."""
    with PrimaryClient(own_sidecar.target, state_timeout=timedelta(seconds=30)) as primary:
        yield lambda session_id: primary.append_turns(session_id, [Turn("user", "x")])


@KINDS
async def test_a_sweep_finds_new_turns(
    awaited: bool, own_sidecar: Sidecar, talk: Callable[[str], int], analysis: Analysis
) -> None:
    """Sessions get a run for their new turns, again and again, until the observer is closed."""
    sessions = [new_session_id() for _ in range(20)]
    for session_id in sessions:
        talk(session_id)
    background = Background(awaited, analysis, own_sidecar.target, brakes=False)
    background.sweep(OFTEN)
    await reached(lambda: len(analysis.runs) == 20)
    talk(sessions[3])
    await reached(lambda: len(analysis.runs) == 21)
    assert await background.close()
    assert Counter(run.session_id for run in analysis.runs) == Counter([*sessions, sessions[3]])
    assert analysis.runs[20].observed_turn == 2
    with pytest.raises(UsageError, match="closed"):
        background.sweep(OFTEN)


@KINDS
async def test_a_sweep_keeps_to_the_brakes(
    awaited: bool, own_sidecar: Sidecar, talk: Callable[[str], int], analysis: Analysis
) -> None:
    """A session with too few new turns, or one that failed a moment ago, is left alone."""
    few, enough = new_session_id(), new_session_id()
    for session_id in (few, enough, enough):
        talk(session_id)
    analysis.fails = True
    options: dict[str, Any] = {"min_new_turns": 2, "quiet_for": timedelta(), "min_interval": timedelta()}
    async with Background(awaited, analysis, own_sidecar.target, **options) as background:
        background.sweep(OFTEN)
        await reached(lambda: analysis.runs)
        background.sweep(timedelta(seconds=0.05))
        with ObserverClient(own_sidecar.target) as observer:
            await reached(lambda: [due.session_id for due in observer.due_sessions(min_turns_behind=2)] == [enough])
        assert await background.close()
    assert [run.session_id for run in analysis.runs] == [enough]


@KINDS
async def test_a_session_of_another_process_is_left_to_it(
    awaited: bool,
    sidecar: Sidecar,
    primary: PrimaryClient,
    observer: ObserverClient,
    analysis: Analysis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A session that has a run, new notes or no data by now causes no run, no failure and no log line."""
    running, written, deleted = (new_session_id() for _ in range(3))
    for session_id in (running, written):
        primary.append_turns(session_id, [Turn("user", "x")])
    runs = {running: observer.begin_run(running).run}
    with observer.run(written) as run:
        runs[written] = run.write(Notes(summary="x")).run
    async with Background(awaited, analysis, sidecar.target) as background:
        if awaited:
            background.observer._open()
        for session_id in (running, written, deleted):
            assert background.observer._accept_due(DueSession(session_id, 1, 1, timedelta(), runs.get(session_id)))
        await reached(lambda: background.observer._schedule.empty)
        assert len(background.observer._schedule.histories) == 0
    assert analysis.runs == []
    assert [len(list(observer.list_runs(session_id))) for session_id in (running, written, deleted)] == [1, 1, 0]
    assert primary.get_session(deleted).create_time is None
    assert logged(caplog) == []


@KINDS
async def test_a_session_that_another_process_ran_while_it_was_queued_is_left(
    awaited: bool, own_sidecar: Sidecar, talk: Callable[[str], int], analysis: Analysis
) -> None:
    """`min_interval` counts from the run of another process, too, also after a session was found and had to wait."""
    sessions = {new_session_id(), new_session_id()}
    for session_id in sessions:
        talk(session_id)
    analysis.released.clear()
    options: dict[str, Any] = {"quiet_for": timedelta(), "min_interval": timedelta(hours=1), "max_workers": 1}
    async with Background(awaited, analysis, own_sidecar.target, **options) as background:
        background.sweep(timedelta(hours=1))
        await reached(lambda: analysis.runs and background.observer._schedule.queued)
        (queued,) = sessions - {analysis.runs[0].session_id}
        with ObserverClient(own_sidecar.target) as observer, observer.run(queued) as run:
            run.write(Notes(summary="faster"))
        talk(queued)
        analysis.released.set()
        await reached(lambda: background.observer._schedule.empty)
    assert queued not in [run.session_id for run in analysis.runs]


async def test_notes_that_arrive_at_the_last_moment_save_an_analysis(
    sidecar: Sidecar, primary: PrimaryClient, observer: ObserverClient, analysis: Analysis, session_id: str
) -> None:
    """If another process writes its notes between the check and BeginRun, the run ends without an analysis."""
    primary.append_turns(session_id, [Turn("user", "x")])
    async with Background(False, analysis, sidecar.target) as background:
        transport = background.observer._client._transport
        send = transport.send

        def late(call: Call[Any], *args: Any) -> Any:
            if call.method.endswith("/BeginRun"):
                with observer.run(session_id) as run:
                    run.write(Notes(summary="faster"))
            return send(call, *args)

        transport.send = late
        background.submit(session_id)
        assert await background.close()
    assert analysis.runs == []
    latest, _ = observer.list_runs(session_id)
    assert (latest.state, latest.failure) == (RunState.FAILED, "nothing new: another run was faster")
    assert primary.get_notes(session_id, timeout=timedelta(seconds=5)).ready


@KINDS
async def test_a_sidecar_of_the_first_version_lists_nothing(
    awaited: bool,
    sidecar: Sidecar,
    primary: PrimaryClient,
    analysis: Analysis,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says why a sweep finds nothing, at most a few times, and submissions work."""
    first = FirstVersion(sidecar.target)
    try:
        async with Background(awaited, analysis, first.target, brakes=False) as background:
            background.sweep(timedelta(milliseconds=10))
            await reached(lambda: first.methods.count("ListDueSessions") > 30)
            background.submit(session_id)
            await reached(lambda: analysis.runs)
            assert await background.close()
    finally:
        first.stop()
    assert len(logged(caplog)) == 10
    problem = "ServerError: the sidecar does not have this method; it may be older than this client"
    assert set(logged(caplog)) == {f"sweep: the due sessions could not be listed: {problem}"}


async def test_a_wrong_interval_is_rejected(analysis: Analysis, unreachable: str) -> None:
    """The error names the argument."""
    for awaited in (False, True):
        async with Background(awaited, analysis, unreachable) as background:
            with pytest.raises(InvalidArgument, match="every must be above 0"):
                background.sweep(timedelta())
            with pytest.raises(InvalidArgument, match=r"every must be a datetime\.timedelta, not int"):
                background.sweep(5)  # type: ignore[arg-type]


SWEEPER = """
import signal, sys, threading, time
from datetime import timedelta
from session_notes import BackgroundObserver, Notes

def analyse(run):
    sys.stdout.write(run.session_id + "\\n")  # In one piece.
    sys.stdout.flush()
    time.sleep(0.02)
    return Notes(summary="seen")

signal.signal(signal.SIGTERM, signal.default_int_handler)
observer = BackgroundObserver(
    analyse, target=sys.argv[1], brakes=False, lease=timedelta(seconds=1), max_workers=4
)
observer.sweep(timedelta(seconds=0.2))
print("ready", flush=True)
try:
    threading.Event().wait()
except KeyboardInterrupt:
    observer.close(timedelta(seconds=30))
"""


class Sweepers:
    """Processes that sweep, and what they have analysed."""

    def __init__(self, target: str, count: int) -> None:
        self.processes = [
            subprocess.Popen([sys.executable, "-c", SWEEPER, target], stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def stop(self) -> list[list[str]]:
        """Stop the processes, and return the sessions that each has analysed."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return [process.communicate(timeout=60)[0].split() for process in self.processes]


@pytest.mark.parametrize("killed", [False, True], ids=["all live", "one is killed"])
def test_three_processes_share_300_sessions(killed: bool, own_sidecar: Sidecar, talk: Callable[[str], int]) -> None:
    """Each session is analysed exactly once. Those in flight in a process that is killed come back after the lease."""
    sessions = [new_session_id() for _ in range(300)]
    sweepers = Sweepers(own_sidecar.target, 3)
    try:
        for session_id in sessions:
            talk(session_id)
        with PrimaryClient(own_sidecar.target) as primary:

            def ready() -> int:
                readings = primary.batch_get_notes(sessions, timeout=timedelta(seconds=10))
                return sum(reading.ready for reading in readings)

            if killed:
                eventually(lambda: ready() > 50, 60)
                sweepers.processes[0].kill()
            eventually(lambda: ready() == 300, 60)
    finally:
        analysed = sweepers.stop()
    counts = Counter(session_id for share in analysed for session_id in share)
    assert set(counts) == set(sessions)
    assert all(analysed), "every process did a part"
    again = {session_id for session_id, count in counts.items() if count > 1}
    if not killed:
        assert again == set()
    else:
        assert max(counts.values()) <= 2
        assert again <= set(analysed[0][-4:]), "only what the killed process had in flight"
