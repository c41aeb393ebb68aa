"""What is said is taken down without holding up who says it."""

from datetime import timedelta

import pytest
from session_notes import BackgroundObserver, PrimaryClient, Turn
from session_notes.integrations import recorder as recorders
from session_notes.integrations.recorder import TurnRecorder

from tests.integrations.frameworks.conftest import Analysis, promptly, said, wait_for_summary
from tests.support import CANARY


def test_a_run_sees_what_was_recorded_before_it(
    recorder: TurnRecorder, primary: PrimaryClient, analysis: Analysis, session_id: str
) -> None:
    """The turns are stored first, then the observer looks."""
    recorder.record(session_id, Turn("user", "I want my money back."), Turn("primary", "What did you order?"))
    wait_for_summary(primary, session_id, "2 turns")
    assert [turn.text for turn in analysis.seen[0]] == ["I want my money back.", "What did you order?"]


def test_no_turns_are_a_run_alone(recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
    """For who has recorded them already."""
    primary.append_turns(session_id, [Turn("user", "x")])
    recorder.record(session_id)
    wait_for_summary(primary, session_id, "1 turns")


def test_turns_stay_in_order(primary: PrimaryClient, session_id: str) -> None:
    """However fast they come."""
    with TurnRecorder(primary) as recorder:
        for number in range(100):
            recorder.record(session_id, Turn("user", str(number)))
        assert recorder.close()
    assert said(primary, session_id) == [("user", str(number)) for number in range(100)]


def test_a_silent_sidecar_holds_nobody_up(
    hung: TurnRecorder, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Recording takes no time, closing as long as it may; the log says what was lost, and not a word of it."""
    with promptly():
        for _ in range(10):
            hung.record(session_id, Turn("user", f"a {CANARY}"))
        assert not hung.close(timedelta(milliseconds=300))
    assert caplog.text.count("1 turns not recorded: closed") == 9


def test_an_outage_reaches_nobody(
    nobody: str, primary: PrimaryClient, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an outage, nor a turn that is too large, nor a closed observer raises; what comes next is recorded."""
    with PrimaryClient(nobody) as gone, TurnRecorder(gone) as recorder:
        recorder.record(session_id, Turn("user", "x"))
    assert "not recorded: Unavailable" in caplog.text
    observer = BackgroundObserver(lambda run: None)
    observer.close()
    with TurnRecorder(primary, observer) as recorder:
        recorder.record(session_id, Turn("user", "x" * 100_000))
        recorder.record(session_id, Turn("user", "y"))
    assert said(primary, session_id) == [("user", "y")]
    assert "not recorded: TooLarge" in caplog.text
    assert "no run was submitted: UsageError" in caplog.text
    recorder.record(session_id, Turn("user", "z"))
    assert "not recorded: closed" in caplog.text


def test_what_waits_is_bounded(
    hung: TurnRecorder, session_id: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage does not fill the memory of the process that talks."""
    monkeypatch.setattr(recorders, "MOST_WAITING", 3)
    for _ in range(10):
        hung.record(session_id, Turn("user", "x"))
    # One more fits in where the first is at work already.
    assert caplog.text.count("too many wait") in (6, 7)
