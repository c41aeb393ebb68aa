"""Background observers: a primary submits a session and continues, and analyses run in threads."""

import functools
import hashlib
import logging
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from session_notes import (
    ActiveRun,
    AsyncObserverClient,
    BackgroundObserver,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    Readiness,
    Run,
    RunState,
    SessionDeleted,
    Turn,
    UsageError,
    _pending,
)
from session_notes.v1.session_notes_pb2 import BeginRunRequest

from tests.peers import Proxy, RejectingServer
from tests.support import Sidecar, eventually, new_session_id


class Analysis:
    """An analysis that counts, can be held, and detects two concurrent runs for one session."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.released.set()
        self.started: list[ActiveRun] = []
        self.overlapped = False
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, run: ActiveRun) -> Notes:
        with self._lock:
            self._running[run.session_id] += 1
            self.overlapped |= self._running[run.session_id] > 1
            self.started.append(run)
        assert self.released.wait(60)
        with self._lock:
            self._running[run.session_id] -= 1
        return Notes(summary=f"{len(run.transcript)} turns")


def name_in_logs(session_id: str) -> str:
    """Return the name of a session in logs."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:8]


@pytest.fixture
def analysis() -> Iterator[Analysis]:
    """An analysis that returns immediately unless the test holds it."""
    analysis = Analysis()
    yield analysis
    analysis.released.set()


@pytest.fixture
def start(observer: ObserverClient) -> Iterator[Callable[..., BackgroundObserver]]:
    """Start background observers on the shared sidecar, and close them at the end."""
    started: list[BackgroundObserver] = []

    def start(analyse: Callable[[ActiveRun], Notes | None], **options: object) -> BackgroundObserver:
        options = {"client": observer, "brakes": False} | options
        background = BackgroundObserver(analyse, **options)  # type: ignore[arg-type]
        started.append(background)
        return background

    yield start
    for background in started:
        background.close(timedelta())


def threads() -> list[threading.Thread]:
    """Return the threads of background observers."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("session-notes-")]


def runs(observer: ObserverClient, session_id: str) -> list[Run]:
    """Return all runs, oldest first."""
    return list(observer.list_runs(session_id, include_notes=True))[::-1]


def ended(observer: ObserverClient, session_id: str, count: int = 1) -> list[Run]:
    """Return all runs, oldest first, once there are `count` runs and none is in flight."""

    def complete() -> list[Run]:
        listed = runs(observer, session_id)
        return listed if len(listed) >= count and all(run.state != RunState.RUNNING for run in listed) else []

    return eventually(complete, 20)


@pytest.fixture(autouse=True)
def _no_thread_remains() -> Iterator[None]:
    yield
    eventually(lambda: not threads())


def test_a_submitted_session_gets_notes(
    primary: PrimaryClient, observer: ObserverClient, start: Callable[..., BackgroundObserver], session_id: str
) -> None:
    """The analysis gets the transcript, and its notes are current for the given `ttl`."""
    primary.append_turns(session_id, [Turn("user", "a"), Turn("primary", "b")])
    background = start(Analysis(), ttl=timedelta(minutes=5))
    assert threads() == [], "threads start on demand"
    background.submit(session_id)
    eventually(lambda: primary.get_notes(session_id, timeout=timedelta(seconds=5)).ready)
    reading = primary.get_notes(session_id, timeout=timedelta(seconds=5))
    assert reading.notes == Notes(summary="2 turns")
    assert (reading.observed_turn, reading.turns_behind) == (2, 0)
    assert reading.expires_in is not None
    assert reading.expires_in <= timedelta(minutes=5)


def test_a_thousand_submissions(
    sidecar: Sidecar, primary: PrimaryClient, observer: ObserverClient, analysis: Analysis
) -> None:
    """1,000 submissions of 300 sessions neither block nor create more threads, and all notes are up to date."""
    sessions = [new_session_id() for _ in range(300)]
    analysis.released.clear()
    background = BackgroundObserver(analysis, brakes=False, target=sidecar.target, max_workers=4)
    for number, session_id in enumerate(sessions):
        primary.append_turns(session_id, [Turn("user", f"turn {number}")], timeout=timedelta(seconds=30))
        background.submit(session_id)
    # All workers are held, so a `submit` that waited for one would block until the end.
    eventually(lambda: len(analysis.started) == 4)
    for number in range(300, 1000):
        session_id = sessions[number % 300]
        primary.append_turns(session_id, [Turn("user", f"turn {number}")], timeout=timedelta(seconds=30))
        background.submit(session_id)
        assert len(threads()) <= 4 + 2, "the workers, a watchdog, and one thread that renews leases"
    assert len(analysis.started) == 4
    analysis.released.set()
    assert background.close(timedelta(minutes=1))
    for number, session_id in enumerate(sessions):
        turns = 4 if number < 100 else 3
        reading = primary.get_notes(session_id, timeout=timedelta(seconds=5))
        assert (reading.notes, reading.turns_behind) == (Notes(summary=f"{turns} turns"), 0)
    assert not analysis.overlapped
    # Sessions that were running when submitted again had one more run. All others had one.
    assert Counter(Counter(run.session_id for run in analysis.started).values()) == {1: 296, 2: 4}


def test_submissions_during_a_run_cause_one_more_run(
    primary: PrimaryClient,
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    analysis: Analysis,
    session_id: str,
) -> None:
    """Any number of submissions during a run cause exactly one more run, over the newest turns."""
    analysis.released.clear()
    background = start(analysis)
    primary.append_turns(session_id, [Turn("user", "a")])
    background.submit(session_id)
    eventually(lambda: analysis.started)
    for _ in range(5):
        primary.append_turns(session_id, [Turn("user", "b")])
        background.submit(session_id)
    assert len(analysis.started) == 1, "one run at a time"
    analysis.released.set()
    assert background.close()
    assert [(run.state, run.observed_turn) for run in runs(observer, session_id)] == [
        (RunState.WRITTEN, 1),
        (RunState.WRITTEN, 6),
    ]
    assert not analysis.overlapped


def test_sessions_are_analysed_concurrently(start: Callable[..., BackgroundObserver], analysis: Analysis) -> None:
    """As many sessions run concurrently as there are workers."""
    analysis.released.clear()
    background = start(analysis, max_workers=3)
    for _ in range(5):
        background.submit(new_session_id())
    eventually(lambda: len(analysis.started) == 3)
    assert len(threads()) == 3 + 2
    analysis.released.set()
    assert background.close()
    assert len(analysis.started) == 5


def test_an_analysis_that_raises_is_a_failed_run(
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An analysis that raises is recorded and logged by the exception's class only, and its worker continues."""

    def analyse(run: ActiveRun) -> Notes:
        if run.number == 1:
            raise LookupError("my card is 4111")
        if run.number == 2:
            sys.exit("my card is 4111")
        return Notes(summary="x")

    background = start(analyse, max_workers=1)
    for count in (1, 2, 3):
        background.submit(session_id)
        ended_runs = ended(observer, session_id, count)
    assert [(run.state, run.failure) for run in ended_runs] == [
        (RunState.FAILED, "LookupError"),
        (RunState.FAILED, "SystemExit"),
        (RunState.WRITTEN, ""),
    ]
    assert "LookupError" in caplog.text
    assert f"session {name_in_logs(session_id)}, run 1: " in caplog.text
    assert session_id not in caplog.text
    assert ended_runs[0].run_id not in caplog.text
    assert "4111" not in caplog.text
    assert all(record.name == "session_notes" for record in caplog.records)


def test_an_analysis_without_notes_is_a_failed_run(
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """None is recorded as a failure and logged. A result that is not Notes is recorded as a failure too."""
    background = start(lambda run: None if run.number == 1 else "notes")
    background.submit(session_id)
    ended(observer, session_id)
    background.submit(session_id)
    ended_runs = ended(observer, session_id, 2)
    assert [run.failure for run in ended_runs] == [
        "ended without notes",
        "InvalidArgument: notes must be session_notes.Notes, not str",
    ]
    assert "run 1: the analysis returned no notes" in caplog.text


def test_an_analysis_may_end_its_run_itself(
    observer: ObserverClient, start: Callable[..., BackgroundObserver], session_id: str
) -> None:
    """Notes and failures that the analysis records itself are kept."""

    def analyse(run: ActiveRun) -> None:
        if run.number == 1:
            run.write(Notes(summary="by hand"))
        else:
            run.fail("nothing new")

    background = start(analyse)
    background.submit(session_id)
    ended(observer, session_id)
    background.submit(session_id)
    first, second = ended(observer, session_id, 2)
    assert (first.notes, second.failure) == (Notes(summary="by hand"), "nothing new")


def test_an_overrun_fails_at_its_limit(
    primary: PrimaryClient,
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    analysis: Analysis,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run fails while the analysis hangs. Its late result is discarded, and its session waits until it returns."""
    analysis.released.clear()
    background = start(analysis, time_limit=timedelta(seconds=0.5))
    started = time.monotonic()
    background.submit(session_id)
    eventually(lambda: primary.get_notes(session_id, timeout=timedelta(seconds=5)).readiness is Readiness.FAILED)
    assert 0.5 <= time.monotonic() - started < 2
    (run,) = runs(observer, session_id)
    assert run.failure == "time limit of 0.5 s passed"
    assert analysis.started[0].remaining == timedelta()
    with pytest.raises(UsageError, match="time limit of"):
        analysis.started[0].write(Notes(summary="late"))

    background.submit(session_id)
    other = new_session_id()
    background.submit(other)
    eventually(lambda: len(analysis.started) == 2)
    assert analysis.started[1].session_id == other, "the hung analysis still occupies its session"
    analysis.released.set()
    first, second = ended(observer, session_id, 2)
    assert (first.state, first.notes) == (RunState.FAILED, None)
    assert (second.state, second.notes) == (RunState.WRITTEN, Notes(summary="0 turns"))
    assert not analysis.overlapped
    assert "not written" not in caplog.text, "the overrun is in the log already"


def test_each_overrun_has_its_own_limit(
    observer: ObserverClient, start: Callable[..., BackgroundObserver], analysis: Analysis
) -> None:
    """One watchdog serves all runs, however they begin and end."""
    background = start(analysis, time_limit=timedelta(seconds=0.5), max_workers=8)
    quick = [new_session_id() for _ in range(20)]
    for session_id in quick:
        background.submit(session_id)
    for session_id in quick:
        assert ended(observer, session_id)[0].state is RunState.WRITTEN
    analysis.released.clear()
    slow = [new_session_id() for _ in range(8)]
    for session_id in slow:
        background.submit(session_id)
    for session_id in slow:
        assert ended(observer, session_id)[0].failure == "time limit of 0.5 s passed"
    assert len(threads()) == 8 + 2


def test_an_analysis_can_read_its_remaining_time(
    observer: ObserverClient, start: Callable[..., BackgroundObserver], session_id: str
) -> None:
    """`remaining` serves as the timeout of the model call, so that no analysis hangs."""

    def analyse(run: ActiveRun) -> Notes | None:
        assert run.remaining is not None
        assert timedelta() < run.remaining <= timedelta(seconds=0.3)
        threading.Event().wait(run.remaining.total_seconds())
        return Notes(summary="too late by a hair")

    start(analyse, time_limit=timedelta(seconds=0.3)).submit(session_id)
    (run,) = ended(observer, session_id)
    assert run.failure == "time limit of 0.3 s passed"


def test_the_lease_follows_the_time_limit(rejecting: RejectingServer, analysis: Analysis) -> None:
    """If the process dies, the run is abandoned soon after its time limit."""
    rejecting.code = grpc.StatusCode.FAILED_PRECONDITION
    with BackgroundObserver(
        analysis, brakes=False, target=rejecting.target, time_limit=timedelta(seconds=20)
    ) as background:
        background.submit("s")
    (request,) = rejecting.requests
    assert BeginRunRequest.FromString(request).lease.ToTimedelta() == timedelta(seconds=20 + 10)


def test_close_finishes_submitted_sessions(
    sidecar: Sidecar, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """Leaving the block finishes all sessions, including those submitted during a run. Later ones are rejected."""
    sessions = [new_session_id() for _ in range(50)]
    analysis.released.clear()
    with BackgroundObserver(analysis, brakes=False, target=sidecar.target, max_workers=2) as background:
        for submitted in sessions:
            background.submit(submitted)
        eventually(lambda: len(analysis.started) == 2)
        background.submit(analysis.started[0].session_id)
        analysis.released.set()
    assert len(analysis.started) == 51
    assert {reading.ready for reading in primary.batch_get_notes(sessions)} == {True}
    with pytest.raises(UsageError, match="closed"):
        background.submit(session_id)
    assert background.close(timedelta()), "closing again has no effect"


def test_close_respects_its_timeout(
    observer: ObserverClient, start: Callable[..., BackgroundObserver], analysis: Analysis
) -> None:
    """After the timeout of `close`, running analyses have failed, queued sessions are dropped, and it returns False."""
    analysis.released.clear()
    background = start(analysis, max_workers=2)
    sessions = [new_session_id() for _ in range(5)]
    for session_id in sessions:
        background.submit(session_id)
    eventually(lambda: len(analysis.started) == 2)
    background.submit(sessions[0])
    started = time.monotonic()
    assert background.close(timedelta(seconds=0.2)) is False
    assert 0.2 <= time.monotonic() - started < 1.5
    for session_id in sessions[:2]:
        (run,) = runs(observer, session_id)
        assert (run.state, run.failure) == (RunState.FAILED, "observer closed")
    analysis.released.set()
    eventually(lambda: not threads())
    assert [len(runs(observer, session_id)) for session_id in sessions] == [1, 1, 0, 0, 0]
    assert runs(observer, sessions[0])[0].state is RunState.FAILED
    assert list(observer.list_runs(sessions[0])), "the caller's client stays open"


def test_close_does_not_wait_for_a_sidecar_that_hangs(analysis: Analysis) -> None:
    """If the sidecar hangs, recording any number of failures takes 2 s in total."""
    analysis.released.clear()
    with Sidecar() as sidecar:
        assert sidecar.process is not None
        background = BackgroundObserver(analysis, brakes=False, target=sidecar.target)
        for _ in range(4):
            background.submit(new_session_id())
        eventually(lambda: len(analysis.started) == 4)
        sidecar.process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert background.close(timedelta(seconds=0.1)) is False
            assert time.monotonic() - started < 3
        finally:
            sidecar.process.send_signal(signal.SIGCONT)


def test_close_does_not_wait_for_an_unavailable_sidecar(silent: str, analysis: Analysis) -> None:
    """`close` respects its timeout if the sidecar is unavailable."""
    background = BackgroundObserver(analysis, brakes=False, target=silent)
    for _ in range(10):
        background.submit(new_session_id())
    started = time.monotonic()
    assert background.close(timedelta(seconds=0.2)) is False
    assert time.monotonic() - started < 2.5


def test_an_outage_costs_no_worker(session_id: str, caplog: pytest.LogCaptureFixture) -> None:
    """A run that cannot begin, or whose notes cannot be written, is logged, and its worker continues."""
    caplog.set_level(logging.WARNING, "session_notes")
    with Sidecar() as sidecar, ObserverClient(sidecar.target, timeout=timedelta(seconds=2)) as client:

        def analyse(run: ActiveRun) -> Notes:
            if run.session_id == session_id:
                sidecar.terminate()
            return Notes(summary="the users own words")

        background = BackgroundObserver(analyse, brakes=False, client=client, max_workers=1)
        background.submit(session_id)
        eventually(lambda: "notes could not be written: Unavailable" in caplog.text)
        background.submit("another")
        eventually(lambda: f"session {name_in_logs('another')}: no run could begin: Unavailable" in caplog.text)
        sidecar.start()
        # Reconnecting may take longer than the client's short timeout.
        assert list(client.list_runs("a-third", timeout=timedelta(seconds=20))) == []
        background.submit("a-third")
        assert background.close()
        assert [run.state for run in client.list_runs("a-third")] == [RunState.WRITTEN]
        assert "own words" not in caplog.text


def test_a_deleted_session_stays_deleted(
    primary: PrimaryClient, start: Callable[..., BackgroundObserver], session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Notes for a session that was deleted in the meantime are discarded and logged."""

    def analyse(run: ActiveRun) -> Notes:
        primary.delete_session(run.session_id)
        return Notes(summary="x")

    background = start(analyse)
    background.submit(session_id)
    assert background.close()
    assert "SessionDeleted" in caplog.text
    assert primary.get_session(session_id).create_time is None


def test_a_signal_handler_may_interrupt_the_calls_that_it_makes(sidecar: Sidecar, session_id: str) -> None:
    """A signal handler works whatever it interrupts, such as one that stops the application. The brakes hold."""
    program = """
import signal, sys
from session_notes import BackgroundObserver, Notes, PrimaryClient, TurnRecorder

target, session = sys.argv[1:]
handled = 0

def call():
    observer.submit(session)
    recorder.record(session)
    primary.get_notes(session, unavailable_ok=True)

def handle(number, frame):
    global handled
    handled += 1
    call()
    signal.setitimer(signal.ITIMER_REAL, 0.0002 if handled < 1000 else 0)

with (
    PrimaryClient(target) as primary,
    BackgroundObserver(lambda run: Notes(), target=target, brakes=False, max_runs=3) as observer,
    TurnRecorder(primary, observer) as recorder,
):
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002)
    while handled < 1000:
        call()
"""
    subprocess.run([sys.executable, "-c", program, sidecar.target, session_id], timeout=60, check=True)
    with ObserverClient(sidecar.target) as observer:
        assert 1 <= len(list(observer.list_runs(session_id))) <= 3


def test_an_analysis_that_hangs_does_not_keep_the_process_alive(sidecar: Sidecar, session_id: str) -> None:
    """No thread keeps the process from ending, even with an analysis that hangs."""
    program = f"""
import threading
from session_notes import BackgroundObserver

hangs = threading.Event()

def analyse(run):
    hangs.set()
    threading.Event().wait()

BackgroundObserver(analyse, brakes=False, target={sidecar.target!r}).submit({session_id!r})
assert hangs.wait(30)
print("the end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")


def test_close_gives_up_runs_that_cannot_begin(unreachable: str, analysis: Analysis) -> None:
    """Without a sidecar, no run has begun, and leaving the block takes less than its 10 s."""
    started = time.monotonic()
    with BackgroundObserver(analysis, brakes=False, target=unreachable, max_workers=2) as background:
        for _ in range(10):
            background.submit(new_session_id())
    assert time.monotonic() - started < 5
    assert not analysis.started


async def _observe(run: ActiveRun) -> Notes:
    raise AssertionError


class _Observing:
    async def __call__(self, run: ActiveRun) -> Notes:
        raise AssertionError


@pytest.mark.parametrize("analyse", [_observe, functools.partial(_observe), _Observing(), _Observing().__call__])
def test_an_async_analysis_is_rejected(analyse: Any) -> None:
    """An async analysis is rejected on creation, with the class that accepts it."""
    with pytest.raises(InvalidArgument, match="for an async function, use AsyncBackgroundObserver"):
        BackgroundObserver(analyse)


def test_the_wrong_kind_is_rejected() -> None:
    """A coroutine, an object that is not a function, and an asyncio client are rejected."""
    with pytest.raises(InvalidArgument, match=r"async function itself.* AsyncBackgroundObserver"):
        BackgroundObserver(_observe(None))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="analyse must be a function of a run, not Notes"):
        BackgroundObserver(Notes())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"client must be .*ObserverClient, not .*, use AsyncBackgroundObserver"):
        BackgroundObserver(Analysis(), client=AsyncObserverClient())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"client must be a session_notes\.ObserverClient, not PrimaryClient$"):
        BackgroundObserver(Analysis(), client=PrimaryClient())  # type: ignore[arg-type]


def test_the_timeout_of_close_is_checked() -> None:
    """An invalid timeout of `close` is rejected before anything is closed."""
    with BackgroundObserver(Analysis(), brakes=False, target="127.0.0.1:1") as background:
        with pytest.raises(InvalidArgument, match=r"timeout must be a datetime\.timedelta, not int"):
            background.close(5)  # type: ignore[arg-type]
        background.submit("s")


@pytest.mark.parametrize("session_id", [42, None, uuid.uuid4(), "\ud83d", b"s"])
def test_an_invalid_session_id_is_rejected(
    observer: ObserverClient, start: Callable[..., BackgroundObserver], session_id: Any
) -> None:
    """An invalid session id is rejected immediately, and the observer continues."""
    background = start(Analysis(), max_workers=1)
    with pytest.raises(InvalidArgument, match="session_id"):
        background.submit(session_id)
    good = new_session_id()
    background.submit(good)
    ended(observer, good)


@pytest.mark.parametrize(
    ("notes", "text"),
    [
        ({"summary": "my card"}, "InvalidArgument: notes must be session_notes.Notes, not dict"),
        (Notes(coverage={"my card": 1.2}), "InvalidArgument: notes.coverage must be from 0 to 1"),
        (Notes(summary=7), "InvalidArgument: notes.summary must be "),  # type: ignore[arg-type]
        (Notes(extra={"my card": object()}), "InvalidArgument: notes.extra "),
        (Notes(summary="my card" * 50_000), "TooLarge: 350"),
    ],
)
def test_the_log_names_the_invalid_part_of_notes(
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    session_id: str,
    caplog: pytest.LogCaptureFixture,
    notes: Any,
    text: str,
) -> None:
    """The log and the run's failure name the invalid part, without any content of the notes."""
    start(lambda run: notes).submit(session_id)
    (run,) = ended(observer, session_id)
    assert run.failure.startswith(text)
    assert f"run 1: the notes were not written: {text}" in caplog.text
    assert "my card" not in caplog.text + run.failure


def test_the_log_names_the_line_of_an_error(
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names the application's own line, not one of this package."""

    def analyse(run: ActiveRun) -> None:
        run.write({"my card": "4111"})  # type: ignore[arg-type]

    start(analyse).submit(session_id)
    (run,) = ended(observer, session_id)
    assert run.failure == "InvalidArgument: notes must be session_notes.Notes, not dict"
    line = analyse.__code__.co_firstlineno + 1
    assert f"the analysis raised {run.failure} at {__file__}:{line}" in caplog.text
    assert "4111" not in caplog.text


def test_an_analysis_that_returns_a_coroutine(
    observer: ObserverClient, start: Callable[..., BackgroundObserver], session_id: str
) -> None:
    """A function that returns a coroutine is detected when it runs, and the failure names the class to use."""
    start(lambda run: _observe(run)).submit(session_id)
    (run,) = ended(observer, session_id)
    assert "AsyncBackgroundObserver" in run.failure


def test_the_log_names_the_fields_that_the_sidecar_rejects(
    start: Callable[..., BackgroundObserver], caplog: pytest.LogCaptureFixture
) -> None:
    """An id that only the sidecar can reject is logged with the invalid field."""
    start(Analysis()).submit("two words")
    eventually(lambda: "no run could begin: InvalidArgument: session_id" in caplog.text)
    assert "two words" not in caplog.text


def test_a_log_filter_that_raises_stops_nothing(
    observer: ObserverClient, start: Callable[..., BackgroundObserver], session_id: str
) -> None:
    """A log filter that raises neither ends the worker nor prevents the failure from being recorded."""

    def refuse(record: logging.LogRecord) -> bool:
        raise OSError(record.msg)

    def analyse(run: ActiveRun) -> Notes:
        raise LookupError

    background = start(analyse, max_workers=1)
    logger = logging.getLogger("session_notes")
    logger.addFilter(refuse)
    try:
        for count in (1, 2):
            background.submit(session_id)
            assert ended(observer, session_id, count)[-1].failure == "LookupError"
    finally:
        logger.removeFilter(refuse)


@pytest.mark.parametrize("kind", ["observer", "watchdog", ""])
def test_sessions_wait_until_a_thread_can_be_started(
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    analysis: Analysis,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Submitted sessions wait until a thread, worker or watchdog, can be started. None is lost."""
    start_thread, full = threading.Thread.start, True

    def start_or_not(thread: threading.Thread) -> None:
        if full and thread.name.startswith(f"session-notes-{kind}"):
            raise RuntimeError("can't start new thread")
        start_thread(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    analysis.released.clear()
    background = start(analysis, time_limit=timedelta(seconds=0.2), max_workers=2)
    first, second = new_session_id(), new_session_id()
    background.submit(first)
    full = False
    background.submit(second)
    for session_id in (first, second):
        assert ended(observer, session_id)[0].failure == "time limit of 0.2 s passed"


def test_close_starts_a_missing_thread(
    observer: ObserverClient,
    start: Callable[..., BackgroundObserver],
    analysis: Analysis,
    session_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sessions that wait for a thread are finished, too."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        background = start(analysis)
        background.submit(session_id)
    assert background.close()
    assert runs(observer, session_id)[0].state is RunState.WRITTEN


def test_a_token_function_that_raises_fails_one_call(
    sidecar: Sidecar, observer: ObserverClient, analysis: Analysis
) -> None:
    """In the watchdog or a worker, a token function that raises fails that call only, and `close` does not raise."""
    raising = threading.Event()
    asked = threading.Event()

    def token() -> str:
        if raising.is_set():
            asked.set()
            raise LookupError("the secret")
        return "token"

    analysis.released.clear()
    limit = timedelta(seconds=0.3)
    background = BackgroundObserver(
        analysis, brakes=False, target=sidecar.target, token=token, max_workers=3, time_limit=limit
    )
    background.submit(new_session_id())
    eventually(lambda: len(analysis.started) == 1)
    raising.set()
    assert asked.wait(20), "the watchdog asks for a token"
    asked.clear()
    background.submit(new_session_id())
    assert asked.wait(20), "a worker asks for a token"
    raising.clear()
    session_id = new_session_id()
    background.submit(session_id)
    assert ended(observer, session_id)[0].failure == "time limit of 0.3 s passed"
    background.submit(new_session_id())
    eventually(lambda: len(analysis.started) == 3)
    raising.set()
    assert background.close(timedelta()) is False


def forget(target: str, session_id: str) -> list[Future[None]]:
    """Forget a session, as a client does before it deletes the session."""
    return _pending.forget(target, session_id)


def test_a_deleted_session_is_dropped(
    sidecar: Sidecar, primary: PrimaryClient, observer: ObserverClient, analysis: Analysis
) -> None:
    """A deleted session is dropped whether queued, running or due again, and nothing creates it anew."""
    analysis.released.clear()
    running, waiting = new_session_id(), new_session_id()
    background = BackgroundObserver(analysis, brakes=False, target=sidecar.target, max_workers=1)
    for session_id in (running, running, waiting):
        background.submit(session_id)
    eventually(lambda: analysis.started)
    background.submit(running)
    for session_id in (running, waiting):
        assert forget(sidecar.target, session_id) == []
        primary.delete_session(session_id)
    analysis.released.set()
    assert background.close()
    assert len(analysis.started) == 1
    with pytest.raises(SessionDeleted):
        analysis.started[0].write(Notes())
    with pytest.raises(SessionDeleted):
        analysis.started[0].fail("x")
    for session_id in (running, waiting):
        assert primary.get_session(session_id).create_time is None
        assert list(observer.list_runs(session_id)) == []


def test_the_run_of_a_deleted_session_is_not_recorded_as_failed(
    sidecar: Sidecar, primary: PrimaryClient, start: Callable[..., BackgroundObserver], analysis: Analysis
) -> None:
    """Neither an overrun nor `close` writes to a deleted session. A session submitted again is observed."""
    analysis.released.clear()
    session_id, again = new_session_id(), new_session_id()
    background = start(analysis, time_limit=timedelta(seconds=0.2))
    for submitted in (session_id, again):
        background.submit(submitted)
        eventually(lambda: analysis.started and analysis.started[-1].session_id == submitted)  # noqa: B023
        assert forget(sidecar.target, submitted) == []
        primary.delete_session(submitted)
    eventually(lambda: not analysis.started[1].remaining)
    background.submit(again)
    analysis.released.set()
    assert background.close()
    assert primary.get_session(session_id).create_time is None
    assert primary.get_notes(again, timeout=timedelta(seconds=5)).ready


@pytest.mark.parametrize("lost", [False, True])
def test_a_session_deleted_while_its_run_begins(
    primary: PrimaryClient, observer: ObserverClient, analysis: Analysis, proxy: Proxy, session_id: str, lost: bool
) -> None:
    """The deletion can wait until BeginRun has ended. Nothing is analysed, and nothing of the session remains."""
    background = BackgroundObserver(analysis, brakes=False, target=proxy.target)
    background.submit(new_session_id())
    eventually(lambda: analysis.started)
    proxy.hold_replies()
    background.submit(session_id)
    eventually(lambda: runs(observer, session_id))
    (begun,) = forget(proxy.target, session_id)
    assert not begun.done()
    if lost:
        proxy.reset()
    else:
        proxy.release_replies()
    begun.result(20)
    primary.delete_session(session_id)
    assert background.close()
    assert len(analysis.started) == 1
    assert primary.get_session(session_id).create_time is None


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"max_workers": 2.5},
        {"time_limit": timedelta()},
        {"time_limit": timedelta.max},
        {"time_limit": 30},
        {"ttl": 30},
        {"client": True, "target": "x"},
        {"client": True, "observer": "x"},
    ],
)
def test_invalid_settings_are_rejected(observer: ObserverClient, options: dict[str, object]) -> None:
    """Invalid settings are rejected on creation."""
    if "client" in options:
        options = options | {"client": observer}
    with pytest.raises(InvalidArgument):
        BackgroundObserver(Analysis(), **options)  # type: ignore[arg-type]
