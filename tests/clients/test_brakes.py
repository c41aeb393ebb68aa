"""Brakes of a background observer: decisions on a clock driven by hand, compared with a simple model."""

import logging
import math
import random
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from session_notes import ActiveRun, BackgroundObserver, InvalidArgument, Notes
from session_notes._brakes import (
    DEFAULT_BRAKES,
    FIRST_PAUSE,
    LAST_PAUSE,
    MAX_HISTORIES,
    MAX_WAITING,
    MEMORY,
    Brakes,
    Histories,
)
from session_notes._logs import RepeatedWarnings
from session_notes._schedule import Job, Schedule

Step = Job[ActiveRun, None]

SESSIONS = ("a", "b", "c", "d")


class Model:
    """One session as its brakes are documented, recomputed from its whole past at every step."""

    def __init__(self, brakes: Brakes) -> None:
        self.brakes = brakes
        # The first and the last time.
        self.submitted: tuple[float, float] | None = None
        self.again: tuple[float, float] | None = None
        self.running = False
        self.begins: list[float] = []
        self.failures: list[float] = []

    @property
    def exhausted(self) -> bool:
        return len(self.begins) >= self.brakes.max_runs

    def submit(self, now: float) -> None:
        if self.exhausted:
            return
        if self.running:
            self.again = (self.again[0] if self.again else now, now)
        else:
            self.submitted = (self.submitted[0] if self.submitted else now, now)

    def may_run(self, now: float) -> bool:
        if self.submitted is None:
            return False
        first, last = self.submitted
        if now < last + self.brakes.quiet_for and now < first + 10 * self.brakes.quiet_for:
            return False
        if self.begins and now < self.begins[-1] + self.brakes.min_interval:
            return False
        pause = max(self.brakes.min_interval, FIRST_PAUSE.total_seconds())
        longest = max(pause, LAST_PAUSE.total_seconds())
        for _ in self.failures[1:]:
            pause = min(2 * pause, longest)
        return not (self.brakes.backoff and self.failures and now < self.failures[-1] + pause)

    def ended(self, now: float, failed: bool | None) -> None:
        if failed is not None:
            self.failures = [*self.failures, now] if failed else []
        self.submitted = self.again if not self.exhausted else None
        self.running, self.again = False, None


@pytest.mark.parametrize("seed", range(60))
def test_a_schedule_runs_what_the_model_permits(seed: int) -> None:
    """Whatever happens, exactly the sessions that every brake permits may run, each once for all its submissions."""
    chance = random.Random(seed)
    brakes = Brakes(
        min_interval=chance.choice([0.0, 7.0, 40.0]),
        quiet_for=chance.choice([0.0, 3.0]),
        max_runs=chance.choice([3, 20, math.inf]),
        backoff=chance.random() < 0.5,
    )
    schedule: Schedule[ActiveRun, None] = Schedule(brakes)
    models = {session: Model(brakes) for session in SESSIONS}
    jobs: list[Step] = []
    now = 100.0
    for _ in range(600):
        session = chance.choice(SESSIONS)
        match chance.choice(["submit", "submit", "time", "time", "take", "done", "done", "forget"]):
            case "submit":
                may_run = not models[session].exhausted
                models[session].submit(now)
                assert schedule.submit(session, None, now) is may_run
            case "time":
                now += chance.choice([0.1, 1.0, 2.0, 5.0, 30.0, 1000.0])
            case "take" if schedule.queued:
                job = schedule.take(None)
                model = models[job.session_id]
                assert model.may_run(now)
                assert not model.running, "one run at a time"
                model.submitted, model.running = None, True
                if chance.random() < 0.8:  # Otherwise BeginRun fails.
                    schedule.began(job, now)
                    model.begins.append(now)
                jobs.append(job)
            case "done" if jobs:
                job = jobs.pop(chance.randrange(len(jobs)))
                job.failed = chance.choice([True, True, False, None])
                schedule.done(job, now)
                if not job.forgotten:
                    models[job.session_id].ended(now, job.failed)
            case "forget" if session not in schedule.jobs and chance.random() < 0.1:
                schedule.forget(session)
                models[session] = Model(brakes)
        schedule.release(now)
        permitted = {name for name, model in models.items() if model.may_run(now)}
        assert set(schedule._queued) == permitted
        waiting = [model for model in models.values() if model.submitted is not None and not model.may_run(now)]
        assert (schedule.next_release is not None) >= bool(waiting), "a session that is held back is released later"
        assert schedule.next_release is None or schedule.next_release > now
        idle = not jobs and all(model.submitted is None for model in models.values())
        assert schedule.empty is idle


def test_no_session_is_released_late() -> None:
    """`next_release` is never later than the moment at which a session that is held back may run."""
    schedule: Schedule[ActiveRun, None] = Schedule(DEFAULT_BRAKES)
    for number in range(1000):
        schedule.submit(f"s{number}", None, number / 1000)
    released, now = 0, 1.0
    while schedule.queued != 1000:
        assert schedule.next_release is not None
        now = schedule.next_release
        schedule.release(now)
        assert schedule.queued > released
        released = schedule.queued
    assert now == pytest.approx(0.999 + DEFAULT_BRAKES.quiet_for)


def test_a_failing_session_is_tried_less_and_less_often() -> None:
    """A session that fails all day with a spent quota has about a hundred runs, and a success ends the pauses."""
    schedule: Schedule[ActiveRun, None] = Schedule(DEFAULT_BRAKES)
    now, runs = 0.0, []

    def run(failed: bool) -> None:
        job = schedule.take(None)
        schedule.began(job, now)
        job.failed = failed
        schedule.done(job, now)
        runs.append(now)

    while now < timedelta(days=1).total_seconds():
        schedule.submit("s", None, now)
        now += 2
        schedule.release(now)
        if schedule.queued:
            run(failed=True)
        now += 8
    assert [round(later - earlier) for earlier, later in pairwise(runs[:7])] == [20, 30, 60, 120, 240, 480]
    assert 95 <= len(runs) <= 105
    schedule.submit("s", None, now)
    now += LAST_PAUSE.total_seconds()
    schedule.release(now)
    run(failed=False)
    schedule.submit("s", None, now)
    now += DEFAULT_BRAKES.min_interval
    schedule.release(now)
    assert schedule.queued == 1


def test_too_few_new_turns_wait_for_the_next_submission() -> None:
    """A submission with too few new turns causes no run by itself. The next one, or the end, causes one for both."""
    schedule: Schedule[ActiveRun, None] = Schedule(Brakes(min_new_turns=3))
    schedule.submit("s", None, 0.0)
    job = schedule.take(None)
    job.too_few_turns = True
    schedule.done(job, 0.0)
    schedule.release(1e9)
    assert (schedule.queued, schedule.next_release, schedule.empty) == (0, None, False)
    schedule.submit("s", None, 1.0)
    assert schedule.queued == 1
    job = schedule.take(None)
    job.too_few_turns = True
    schedule.done(job, 1.0)
    schedule.release_all()
    assert schedule.queued == 1, "the observer is closing"
    schedule.done(schedule.take(None), 2.0)
    assert schedule.empty


def test_sessions_that_wait_for_turns_are_bounded() -> None:
    """Beyond the bound, the longest waiting session is dropped. One that is submitted again does not wait."""
    schedule: Schedule[ActiveRun, None] = Schedule(Brakes(min_new_turns=3))
    for number in range(MAX_WAITING + 2):
        schedule.submit(f"s{number}", None, 0.0)
        if number == MAX_WAITING:
            schedule.submit("s1", None, 0.0)
            assert schedule.queued == 2
            for job in (schedule.take(None), schedule.take(None)):
                job.too_few_turns = True
                schedule.done(job, 0.0)
            continue
        job = schedule.take(None)
        job.too_few_turns = True
        schedule.done(job, 0.0)
    schedule.release_all()
    waiting = {schedule.take(None).session_id for _ in range(schedule.queued)}
    assert len(waiting) == MAX_WAITING
    assert "s1" in waiting
    assert waiting.isdisjoint({"s0", "s2"})


def test_a_sweep_keeps_nothing_that_is_held_back() -> None:
    """A session found by a sweep is queued if the brakes permit it, once, and otherwise left to the next sweep."""
    schedule: Schedule[ActiveRun, None] = Schedule(DEFAULT_BRAKES)
    assert schedule.sweep("s", 0.0)
    assert schedule.sweep("s", 0.0)
    assert schedule.queued == 1
    job = schedule.take(None)
    assert job.submission.swept
    schedule.began(job, 0.0)
    job.failed = True
    schedule.done(job, 1.0)
    schedule.sweep("s", 15.5)
    assert schedule.empty, "a failure delays the next run"
    schedule.sweep("s", 16.0)
    schedule.submit("s", None, 16.0)
    assert schedule.queued == 0, "a turn came"
    schedule.release(18.0)
    assert not schedule.take(None).submission.swept


def test_the_past_of_sessions_is_bounded() -> None:
    """The past of a session is forgotten after a day without activity, and the longest inactive one beyond 10,000."""
    histories = Histories()
    for number in range(3 * MAX_HISTORIES):
        histories.active(f"s{number}", float(number))
        histories.active("busy", float(number))
    assert len(histories) == MAX_HISTORIES
    assert histories.get("busy") is not None
    assert histories.get("s0") is None
    histories.active("late", 3.0 * MAX_HISTORIES + MEMORY.total_seconds())
    assert len(histories) == 1


def test_an_exhausted_session_is_remembered_while_it_is_submitted() -> None:
    """`max_runs` holds for as long as the session is submitted, however long that is."""
    schedule: Schedule[ActiveRun, None] = Schedule(Brakes(max_runs=1))
    schedule.submit("s", None, 0.0)
    job = schedule.take(None)
    schedule.began(job, 0.0)
    schedule.done(job, 0.0)
    for hour in range(1, 100):
        assert not schedule.submit("s", None, hour * 3600.0)
        schedule.histories.active("other", hour * 3600.0)
    assert schedule.empty


def test_warnings_that_repeat_are_left_out(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 equal problems in a day cause a few dozen lines, which tell how many were left out."""
    now = 0.0
    monkeypatch.setattr("session_notes._logs.time.monotonic", lambda: now)
    warnings = RepeatedWarnings()
    for number in range(10_000):
        now += 8.64
        warnings.warn(f"session {number}", "the model says no")
    assert 10 < len(caplog.records) < 50
    assert "more since the last such line" in caplog.records[-1].getMessage()
    warnings.warn("session x", "another problem")
    assert caplog.records[-1].getMessage() == "session x: another problem"
    now += 4000
    caplog.clear()
    warnings.warn("session y", "the model says no")
    assert len(caplog.records) == 1, "after an hour without it, the problem is new"
    assert all(record.levelno == logging.WARNING for record in caplog.records)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a number for a span": ({"min_interval": 5}, "min_interval must be a datetime.timedelta, not int"),
    "a negative span": ({"quiet_for": timedelta(seconds=-1)}, "quiet_for must be at least 0 and at most 100 years"),
    "a span for a number": ({"max_runs": timedelta(1)}, "max_runs must be an int, not timedelta"),
    "no runs": ({"max_runs": 0}, "max_runs must be at least 1"),
    "a negative number": ({"min_new_turns": -1}, "min_new_turns must be at least 0"),
    "brakes by name": ({"brakes": "off"}, "brakes must be a bool, not str"),
    "no lease": ({"lease": timedelta()}, "lease must be above 0 and at most 100 years"),
    "an unknown transcript": ({"transcript": "some"}, "transcript must be 'all' or 'new'"),
    "no turns": ({"max_turns": 0}, "max_turns must be at least 1"),
    "a bool as a number": ({"max_runs": True}, "max_runs must be an int, not bool"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_brake_is_rejected_by_name(case: str) -> None:
    """A wrong argument is rejected on creation, and the error names it."""
    options, message = WRONG[case]
    with pytest.raises(InvalidArgument) as caught:
        BackgroundObserver(lambda run: Notes(), **options)
    assert str(caught.value) == message


def test_brakes_that_are_set_count_without_the_others() -> None:
    """`brakes=False` sets every brake off, except those that are passed."""
    with BackgroundObserver(lambda run: Notes(), brakes=False) as off:
        assert off._brakes == Brakes()
    with BackgroundObserver(lambda run: Notes(), brakes=False, min_interval=timedelta(seconds=3), max_runs=7) as some:
        assert some._brakes == Brakes(min_interval=3.0, max_runs=7)
    with BackgroundObserver(lambda run: Notes(), quiet_for=timedelta()) as default:
        assert default._brakes == DEFAULT_BRAKES._replace(quiet_for=0.0)
