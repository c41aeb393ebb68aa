"""Runs of an observer: they get the transcript, are written once, and always end."""

import logging
import subprocess
from datetime import timedelta
from typing import Any

import pytest
from session_notes import (
    AsyncObserverClient,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    Run,
    RunAlreadyFailed,
    RunAlreadyWritten,
    RunInFlight,
    RunState,
    SessionDeleted,
    Turn,
    Unavailable,
    UsageError,
    WriteOutcome,
)

from tests.support import Sidecar, eventually


def only_run(observer: ObserverClient, session_id: str) -> Run:
    """Return the only run."""
    (run,) = observer.list_runs(session_id, include_notes=True)
    return run


def test_a_run_gets_the_transcript_and_writes(
    primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """The block gets the transcript as of the run's begin, and its notes are current."""
    turns = (Turn("user", "Can we start in May?"), Turn("primary", "Yes."))
    primary.append_turns(session_id, turns)
    with observer.run(session_id) as run:
        primary.append_turns(session_id, [Turn("user", "later")])
        assert (run.session_id, run.observer, run.number, run.observed_turn) == (session_id, "default", 1, 2)
        assert run.transcript == turns
        assert run.begin_time is not None
        assert run.remaining is None, "no time limit is set"
        result = run.write(Notes(summary="x"))
    assert run.ended
    assert (result.outcome, result.run.run_id) == (WriteOutcome.ACCEPTED, run.run_id)
    written = only_run(observer, session_id)
    assert (written.state, written.observed_turn, written.notes) == (RunState.WRITTEN, 2, Notes(summary="x"))


def test_a_run_can_be_printed(observer: ObserverClient) -> None:
    """A run prints its number, its observer and its session's digest, because an id may identify the user."""
    with observer.run("jane.doe@example.org") as run:
        assert repr(run) == f"<ActiveRun: run {run.number} of observer 'default' on session 7f73355b>"
        run.write(Notes())


def test_a_run_without_the_transcript(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """The transcript is returned only if requested."""
    primary.append_turns(session_id, [Turn("user", "x")])
    with observer.run(session_id, include_transcript=False) as run:
        assert run.transcript == ()
        run.write(Notes(), observed_turn=7)
    assert only_run(observer, session_id).observed_turn == 7


def test_a_block_that_raises_is_a_failed_run(observer: ObserverClient, session_id: str) -> None:
    """The exception propagates. The failure has its class only, because its text may contain what the user said."""
    with pytest.raises(LookupError, match="my card is 4111"), observer.run(session_id):
        raise LookupError("my card is 4111")
    run = only_run(observer, session_id)
    assert (run.state, run.failure) == (RunState.FAILED, "LookupError")


def test_an_interrupt_is_a_failed_run_too(observer: ObserverClient, session_id: str) -> None:
    """Ctrl-C in the block ends the run, too."""
    with pytest.raises(KeyboardInterrupt), observer.run(session_id):
        raise KeyboardInterrupt
    assert only_run(observer, session_id).failure == "KeyboardInterrupt"


def test_a_block_that_writes_nothing_is_a_failed_run(observer: ObserverClient, session_id: str) -> None:
    """A run does not stay in flight if its block writes nothing."""
    with observer.run(session_id):
        pass
    run = only_run(observer, session_id)
    assert (run.state, run.failure) == (RunState.FAILED, "ended without notes")


def test_a_block_can_record_a_failure(observer: ObserverClient, session_id: str) -> None:
    """A block can record a failure. The first reason stays, and no notes can follow."""
    with observer.run(session_id) as run:
        assert run.fail("model overloaded").failure == "model overloaded"
        assert run.fail("again").failure == "model overloaded"
        assert run.ended
        with pytest.raises(UsageError, match="model overloaded"):
            run.write(Notes())
    assert only_run(observer, session_id).failure == "model overloaded"


def test_a_run_writes_once(observer: ObserverClient, session_id: str) -> None:
    """A second write raises UsageError, with the same notes or others. The first notes stay."""
    with observer.run(session_id) as run:
        run.write(Notes(summary="first"))
        for again in (Notes(summary="first"), Notes(summary="second")):
            with pytest.raises(UsageError, match="once"):
                run.write(again)
        with pytest.raises(UsageError):
            run.fail("too late")
    assert only_run(observer, session_id).notes == Notes(summary="first")


def test_a_block_that_raises_after_its_write_keeps_its_notes(observer: ObserverClient, session_id: str) -> None:
    """Notes stay written if the block raises afterwards."""
    with pytest.raises(LookupError), observer.run(session_id) as run:  # noqa: PT012 - the block is what is tested
        run.write(Notes(summary="x"))
        raise LookupError
    assert only_run(observer, session_id).state is RunState.WRITTEN


def test_rejected_notes_can_be_corrected(observer: ObserverClient, session_id: str) -> None:
    """A rejected write has no effect. Corrected notes may follow in the same run."""
    with observer.run(session_id) as run:
        with pytest.raises(InvalidArgument):
            run.write(Notes(coverage={"goals": 1.5}))
        assert run.write(Notes(coverage={"goals": 1.0})).outcome is WriteOutcome.ACCEPTED
    with pytest.raises(InvalidArgument), observer.run(session_id) as run:
        run.write(Notes(coverage={"goals": 1.5}))
    assert next(observer.list_runs(session_id)).failure == "InvalidArgument: notes.coverage must be from 0 to 1"


def test_only_if_idle(observer: ObserverClient, session_id: str) -> None:
    """If another run is in flight, the block is not entered."""
    with observer.run(session_id) as first:
        with pytest.raises(RunInFlight) as caught, observer.run(session_id, only_if_idle=True):
            pytest.fail("the block was entered")
        assert caught.value.run.run_id == first.run_id
        first.write(Notes())
    with observer.run(session_id, only_if_idle=True) as second:
        second.write(Notes())


def test_a_run_that_has_ended_is_not_entered_again(observer: ObserverClient, session_id: str) -> None:
    """A supervisor that restarts finished work gets its outcome, and the block is not entered."""
    with observer.run(session_id, run_id="job-7") as run:
        run.write(Notes(summary="x"))
    with pytest.raises(LookupError), observer.run(session_id, run_id="job-8"):
        raise LookupError
    for run_id, error in (("job-7", RunAlreadyWritten), ("job-8", RunAlreadyFailed)):
        with pytest.raises(error), observer.run(session_id, run_id=run_id):
            pytest.fail("the block was entered")
    assert [run.state for run in observer.list_runs(session_id)] == [RunState.FAILED, RunState.WRITTEN]


def test_every_run_has_a_separate_id(observer: ObserverClient, session_id: str) -> None:
    """Without a run id, each call is a separate run."""
    ids = {observer.begin_run(session_id).run.run_id for _ in range(3)}
    ids |= {observer.write_notes(session_id, Notes()).run.run_id for _ in range(3)}
    assert len(ids) == 6


def test_a_lease_expires(observer: ObserverClient, primary: PrimaryClient, session_id: str) -> None:
    """A run whose lease has expired is abandoned, and can still write if no newer run has."""
    with observer.run(session_id, lease=timedelta(milliseconds=50)) as run:
        eventually(lambda: primary.get_notes(session_id).readiness == "failed")
        assert only_run(observer, session_id).state is RunState.ABANDONED
        assert run.write(Notes()).outcome is WriteOutcome.ACCEPTED


def test_a_session_deleted_during_a_run(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """SessionDeleted is raised in the block and propagates. The session stays deleted."""
    with pytest.raises(SessionDeleted), observer.run(session_id) as run:  # noqa: PT012 - the block is what is tested
        primary.delete_session(session_id)
        run.write(Notes(summary="x"))
    assert primary.get_session(session_id).create_time is None
    with observer.run(session_id):
        primary.delete_session(session_id)  # Without the exception, which would otherwise propagate.


def test_nothing_is_logged_if_there_is_no_failure_to_record(
    primary: PrimaryClient, observer: ObserverClient, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A deleted session has no runs, and a run that was written elsewhere has not failed."""
    caplog.set_level(logging.DEBUG, "session_notes")
    with pytest.raises(RunAlreadyWritten), observer.run(session_id) as run:  # noqa: PT012 - the block is what is tested
        observer.write_notes(session_id, Notes(summary="first"), run_id=run.run_id)
        run.write(Notes(summary="second"))
    assert only_run(observer, session_id).notes == Notes(summary="first")
    with pytest.raises(SessionDeleted), observer.run(session_id) as run:  # noqa: PT012 - as above
        primary.delete_session(session_id)
        run.write(Notes(summary="x"))
    assert caplog.messages == []


def test_a_failure_that_cannot_be_recorded_hides_no_exception(
    observer: ObserverClient, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets the exception of its block even if the sidecar is gone. The other one is logged."""
    with pytest.raises(LookupError, match="my card"), observer.run(session_id) as run:  # noqa: PT012 - as above
        observer.close()
        raise LookupError("my card is 4111")
    (digest, *_) = subprocess.check_output(["sha256sum"], input=session_id, text=True).split()
    assert f"session {digest[:8]}, run {run.number}: " in caplog.text, "computed as documented"
    assert session_id not in caplog.text
    assert run.run_id not in caplog.text
    assert "4111" not in caplog.text


def test_a_run_that_cannot_begin_is_not_entered(unreachable: str) -> None:
    """After retries until the timeout, Unavailable is raised before the block is entered."""
    observer = ObserverClient(unreachable, timeout=timedelta(milliseconds=300))
    with observer, pytest.raises(Unavailable), observer.run("s"):
        pytest.fail("the block was entered")


def test_runs_belong_to_the_clients_observer(sidecar: Sidecar, session_id: str) -> None:
    """All runs of a client belong to its observer."""
    with ObserverClient(sidecar.target, observer="tone") as tone, tone.run(session_id) as run:
        assert run.observer == "tone"
        run.write(Notes())
        assert [run.observer for run in tone.list_runs(session_id)] == ["tone"]


class Unprintable(Exception):
    """An exception that cannot be converted to text."""

    def __str__(self) -> str:
        raise RuntimeError


REASONS: list[tuple[Any, str]] = [
    ("x" * 4096, "x" * 4096),
    ("x" * 5000, "x" * 4093 + "…"),
    ("é" * 3000, "é" * 2046 + "…"),
    ("\ud83d" + "x", "\ufffdx"),
    ("\ud83d\ude00", "\U0001f600"),
    (ValueError("too slow"), "ValueError: too slow"),
    (TimeoutError(), "TimeoutError"),
    (Unprintable(), "Unprintable"),
    (None, ""),
    ("", ""),
    (42, "42"),
]


@pytest.mark.parametrize(("reason", "failure"), REASONS)
async def test_any_reason_can_be_stored(
    observer: ObserverClient, async_observer: AsyncObserverClient, session_id: str, reason: Any, failure: str
) -> None:
    """A run fails with any reason. It is converted to text that can be stored, and the run does not stay in flight."""
    with observer.run(session_id) as run:
        assert run.fail(reason).failure == failure
    async with async_observer.run(session_id) as awaited:
        assert (await awaited.fail(reason)).failure == failure
    for number in (1, 2):
        run_id = f"run-{number}"
        observer.begin_run(session_id, run_id=run_id)
        if number == 1:
            assert observer.fail_run(session_id, run_id, reason).failure == failure
        else:
            assert (await async_observer.fail_run(session_id, run_id, reason)).failure == failure
    assert {run.state for run in observer.list_runs(session_id)} == {RunState.FAILED}


def test_the_failure_of_a_block_is_shortened(observer: ObserverClient, session_id: str) -> None:
    """The failure of a block is shortened as well."""
    kind = type("Long" * 2000, (Exception,), {})
    with pytest.raises(kind), observer.run(session_id):
        raise kind
    (run,) = observer.list_runs(session_id)
    assert run.failure == ("Long" * 2000)[:4093] + "…"


def test_a_token_function_that_raises_hides_no_exception(
    sidecar: Sidecar, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of the token function does not replace that of the block."""
    raising = False

    def token() -> str:
        if raising:
            raise OSError("the secret")
        return "token"

    def observe(observer: ObserverClient) -> None:
        nonlocal raising
        with observer.run(session_id):
            raising = True
            raise LookupError

    with ObserverClient(sidecar.target, token=token) as observer, pytest.raises(LookupError):
        observe(observer)
    assert "its failure could not be recorded" in caplog.text
    assert "the secret" not in caplog.text


async def test_a_run_must_be_entered_like_its_client(
    observer: ObserverClient, async_observer: AsyncObserverClient, session_id: str
) -> None:
    """Entering a run by the wrong one of `with` and `async with` raises UsageError, and begins nothing."""
    with pytest.raises(UsageError, match="`with`"):
        async with observer.run(session_id):
            pytest.fail("the block was entered")
    with pytest.raises(UsageError, match="`async with`"), async_observer.run(session_id):
        pytest.fail("the block was entered")
    assert list(observer.list_runs(session_id)) == []
