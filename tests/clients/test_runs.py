"""One run of an observer: begun, handed the transcript, written once, and sure to end."""

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
    """The one run there is."""
    (run,) = observer.list_runs(session_id, include_notes=True)
    return run


def test_a_run_gets_the_transcript_and_writes(
    primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """The block gets the transcript as it is when the run begins, and what it writes is current."""
    turns = (Turn("user", "Can we start in May?"), Turn("primary", "Yes."))
    primary.append_turns(session_id, turns)
    with observer.run(session_id) as run:
        primary.append_turns(session_id, [Turn("user", "later")])
        assert (run.session_id, run.observer, run.number, run.observed_turn) == (session_id, "default", 1, 2)
        assert run.transcript == turns
        assert run.begin_time is not None
        assert run.remaining is None, "nobody set a limit"
        result = run.write(Notes(summary="x"))
    assert run.ended
    assert (result.outcome, result.run.run_id) == (WriteOutcome.ACCEPTED, run.run_id)
    written = only_run(observer, session_id)
    assert (written.state, written.observed_turn, written.notes) == (RunState.WRITTEN, 2, Notes(summary="x"))


def test_a_run_can_be_printed(observer: ObserverClient) -> None:
    """By its number and observer, and by the name that its session has in logs: an id may say who the user is."""
    with observer.run("jane.doe@example.org") as run:
        assert repr(run) == f"<ActiveRun: run {run.number} of observer 'default' on session 7f73355b>"
        run.write(Notes())


def test_a_run_without_the_transcript(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """The transcript comes only where it is wanted."""
    primary.append_turns(session_id, [Turn("user", "x")])
    with observer.run(session_id, include_transcript=False) as run:
        assert run.transcript == ()
        run.write(Notes(), observed_turn=7)
    assert only_run(observer, session_id).observed_turn == 7


def test_a_block_that_raises_is_a_failed_run(observer: ObserverClient, session_id: str) -> None:
    """The exception goes on; the run has failed by its name alone, because its text may hold what the user said."""
    with pytest.raises(LookupError, match="my card is 4111"), observer.run(session_id):
        raise LookupError("my card is 4111")
    run = only_run(observer, session_id)
    assert (run.state, run.failure) == (RunState.FAILED, "LookupError")


def test_an_interrupt_is_a_failed_run_too(observer: ObserverClient, session_id: str) -> None:
    """Ctrl-C in the block ends the run as well."""
    with pytest.raises(KeyboardInterrupt), observer.run(session_id):
        raise KeyboardInterrupt
    assert only_run(observer, session_id).failure == "KeyboardInterrupt"


def test_a_block_that_writes_nothing_is_a_failed_run(observer: ObserverClient, session_id: str) -> None:
    """A run does not stay at work because its block forgot about it."""
    with observer.run(session_id):
        pass
    run = only_run(observer, session_id)
    assert (run.state, run.failure) == (RunState.FAILED, "ended without notes")


def test_a_run_can_fail_by_itself(observer: ObserverClient, session_id: str) -> None:
    """The block may say why there are no notes; the first reason stays, and no notes follow."""
    with observer.run(session_id) as run:
        assert run.fail("model overloaded").failure == "model overloaded"
        assert run.fail("again").failure == "model overloaded"
        assert run.ended
        with pytest.raises(UsageError, match="model overloaded"):
            run.write(Notes())
    assert only_run(observer, session_id).failure == "model overloaded"


def test_a_run_writes_once(observer: ObserverClient, session_id: str) -> None:
    """A second write is a UsageError, the same notes or not; the first ones stay."""
    with observer.run(session_id) as run:
        run.write(Notes(summary="first"))
        for again in (Notes(summary="first"), Notes(summary="second")):
            with pytest.raises(UsageError, match="once"):
                run.write(again)
        with pytest.raises(UsageError):
            run.fail("too late")
    assert only_run(observer, session_id).notes == Notes(summary="first")


def test_a_block_that_raises_after_its_write_keeps_its_notes(observer: ObserverClient, session_id: str) -> None:
    """Written is written."""
    with pytest.raises(LookupError), observer.run(session_id) as run:  # noqa: PT012 - the block is what is tested
        run.write(Notes(summary="x"))
        raise LookupError
    assert only_run(observer, session_id).state is RunState.WRITTEN


def test_notes_that_are_refused_can_be_mended(observer: ObserverClient, session_id: str) -> None:
    """A write that was refused has written nothing; better notes may follow in the same run."""
    with observer.run(session_id) as run:
        with pytest.raises(InvalidArgument):
            run.write(Notes(coverage={"goals": 1.5}))
        assert run.write(Notes(coverage={"goals": 1.0})).outcome is WriteOutcome.ACCEPTED
    with pytest.raises(InvalidArgument), observer.run(session_id) as run:
        run.write(Notes(coverage={"goals": 1.5}))
    assert next(observer.list_runs(session_id)).failure == "InvalidArgument: notes.coverage must be from 0 to 1"


def test_only_if_idle(observer: ObserverClient, session_id: str) -> None:
    """Where another run is at work, the block is not entered."""
    with observer.run(session_id) as first:
        with pytest.raises(RunInFlight) as caught, observer.run(session_id, only_if_idle=True):
            pytest.fail("the block was entered")
        assert caught.value.run is not None
        assert caught.value.run.run_id == first.run_id
        first.write(Notes())
    with observer.run(session_id, only_if_idle=True) as second:
        second.write(Notes())


def test_work_that_is_done_is_not_begun_again(observer: ObserverClient, session_id: str) -> None:
    """A supervisor that starts the same work again hears what became of it, and the block is not entered."""
    with observer.run(session_id, run_id="job-7") as run:
        run.write(Notes(summary="x"))
    with pytest.raises(LookupError), observer.run(session_id, run_id="job-8"):
        raise LookupError
    for run_id, error in (("job-7", RunAlreadyWritten), ("job-8", RunAlreadyFailed)):
        with pytest.raises(error), observer.run(session_id, run_id=run_id):
            pytest.fail("the block was entered")
    assert [one.state for one in observer.list_runs(session_id)] == [RunState.FAILED, RunState.WRITTEN]


def test_every_run_has_an_id_of_its_own(observer: ObserverClient, session_id: str) -> None:
    """Without a run id, calls are runs of their own."""
    ids = {observer.begin_run(session_id).run.run_id for _ in range(3)}
    ids |= {observer.write_notes(session_id, Notes()).run.run_id for _ in range(3)}
    assert len(ids) == 6


def test_a_lease_runs_out(observer: ObserverClient, primary: PrimaryClient, session_id: str) -> None:
    """A run whose process is gone is abandoned when its lease has run out, and can still write if nothing newer did."""
    with observer.run(session_id, lease=timedelta(milliseconds=50)) as run:
        eventually(lambda: primary.get_notes(session_id).readiness == "failed")
        assert only_run(observer, session_id).state is RunState.ABANDONED
        assert run.write(Notes()).outcome is WriteOutcome.ACCEPTED


def test_a_session_deleted_meanwhile(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """SessionDeleted reaches the block and goes on from there; the session stays deleted."""
    with pytest.raises(SessionDeleted), observer.run(session_id) as run:  # noqa: PT012 - the block is what is tested
        primary.delete_session(session_id)
        run.write(Notes(summary="x"))
    assert primary.get_session(session_id).create_time is None
    with observer.run(session_id):
        primary.delete_session(session_id)  # and then forget about it: nothing to raise for


def test_where_no_failure_is_to_be_recorded_nothing_is_logged(
    primary: PrimaryClient, observer: ObserverClient, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that was deleted has no runs any more, and a run that has written elsewhere has not failed."""
    caplog.set_level(logging.DEBUG, "session_notes")
    with pytest.raises(RunAlreadyWritten), observer.run(session_id) as run:  # noqa: PT012 - the block is what is tested
        observer.write_notes(session_id, Notes(summary="first"), run_id=run.run_id)
        run.write(Notes(summary="second"))
    assert only_run(observer, session_id).notes == Notes(summary="first")
    with pytest.raises(SessionDeleted), observer.run(session_id) as run:  # noqa: PT012 - as above
        primary.delete_session(session_id)
        run.write(Notes(summary="x"))
    assert caplog.messages == []


def test_a_failure_that_cannot_be_recorded_masks_nothing(
    observer: ObserverClient, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception of the block is what the caller gets, even where the sidecar is gone; the log says the rest."""
    with pytest.raises(LookupError, match="my card"), observer.run(session_id) as run:  # noqa: PT012 - as above
        observer.close()
        raise LookupError("my card is 4111")
    (digest, *_) = subprocess.check_output(["sha256sum"], input=session_id, text=True).split()
    assert f"session {digest[:8]}, run {run.number}: " in caplog.text, "as the docs say that it is computed"
    assert session_id not in caplog.text
    assert run.run_id not in caplog.text
    assert "4111" not in caplog.text


def test_a_run_that_cannot_begin_is_not_entered(nobody: str) -> None:
    """Unavailable comes before the block does, after trying until the timeout."""
    observer = ObserverClient(nobody, timeout=timedelta(milliseconds=300))
    with observer, pytest.raises(Unavailable), observer.run("s"):
        pytest.fail("the block was entered")


def test_observers_by_name(sidecar: Sidecar, session_id: str) -> None:
    """The client's observer is that of all its runs."""
    with ObserverClient(sidecar.target, observer="tone") as tone, tone.run(session_id) as run:
        assert run.observer == "tone"
        run.write(Notes())
        assert [one.observer for one in tone.list_runs(session_id)] == ["tone"]


class Unprintable(Exception):
    """An exception whose text cannot be had."""

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
async def test_any_reason_is_stored(
    observer: ObserverClient, async_observer: AsyncObserverClient, session_id: str, reason: Any, failure: str
) -> None:
    """A run that fails has failed, whatever the reason is like: it is made storable, and no run is left running."""
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


def test_an_exception_with_a_long_name(observer: ObserverClient, session_id: str) -> None:
    """The block's own failure is made storable, too."""
    kind = type("Long" * 2000, (Exception,), {})
    with pytest.raises(kind), observer.run(session_id):
        raise kind
    (run,) = observer.list_runs(session_id)
    assert run.failure == ("Long" * 2000)[:4093] + "…"


def test_a_token_function_that_raises_at_the_end(
    sidecar: Sidecar, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The block's own exception is not replaced by one of recording it."""
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


async def test_a_run_is_entered_as_its_client_is(
    observer: ObserverClient, async_observer: AsyncObserverClient, session_id: str
) -> None:
    """`with` or `async with`: the wrong one says which is right, and begins nothing."""
    with pytest.raises(UsageError, match="`with`"):
        async with observer.run(session_id):
            pytest.fail("the block was entered")
    with pytest.raises(UsageError, match="`async with`"), async_observer.run(session_id):
        pytest.fail("the block was entered")
    assert list(observer.list_runs(session_id)) == []
