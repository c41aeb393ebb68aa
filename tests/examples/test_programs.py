"""The primary and the observer, each on its own, around one sidecar."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from observer import span
from primary import seconds
from session_notes import ObserverClient, PrimaryClient, RunState, Turn

from tests.clients.conftest import Proxy, proxy
from tests.examples.conftest import EXAMPLES
from tests.support import Sidecar, eventually, free_port

__all__ = ["proxy"]

Run = Callable[..., str]
Start = Callable[..., subprocess.Popen[str]]


def tool_results(shown: str) -> list[dict[str, Any]]:
    """What the primary's tool calls gave."""
    return [json.loads(line.removeprefix("  notes > ")) for line in shown.splitlines() if line.startswith("  notes > ")]


def test_they_share_a_session_and_nothing_else(run: Run, sidecar: Sidecar, session_id: str, tmp_path: Path) -> None:
    script = tmp_path / "talk.txt"
    script.write_text("Can we start in May?\n\nThe budget is small.\n")

    before = run("primary.py", "--session", session_id, "--script", str(script), "--pause", "0")
    observed = run("observer.py", "--session", session_id, "--once")
    after = run("primary.py", "--session", session_id, said="And now?\nThe price is 10.\nFixed.\n")

    assert tool_results(before) == [{"ready": False, "reason": "never_run"}] * 2
    assert f"run 1 over 4 turns of {session_id}" in observed
    assert [(one["turns_behind"], one["fresh"]) for one in tool_results(after)] == [(1, True), (3, True), (5, False)]
    assert [line.removeprefix("primary > ") for line in after.splitlines() if line.startswith("primary > ")] == [
        'Noted. One thing is still open: "Can we start in May?" has not been answered.',
        "Noted. What is the goal, and what would be a success?",
        "Noted. Please go on.",
    ]
    with PrimaryClient(sidecar.target) as client:
        session = client.get_session(session_id, include_turns=True)
    assert session.turn_count == 10
    assert session.turns[:2] == (Turn("user", "Can we start in May?"), Turn("primary", "Noted. Please go on."))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_observer_goes_round_until_it_is_told_to_stop(
    start: Start, sidecar: Sidecar, session_id: str, number: signal.Signals
) -> None:
    other = f"{session_id}-2"
    observer = start("observer.py", "--session", session_id, "--session", other, "--every", "100ms")

    def rounds(session: str) -> int:
        return sum(run.state is RunState.WRITTEN for run in client.list_runs(session))

    with ObserverClient(sidecar.target) as client:
        eventually(lambda: min(rounds(session_id), rounds(other)) > 2, 20)
        observer.send_signal(number)
        _, err = observer.communicate(timeout=20)
        states = {run.state for session in (session_id, other) for run in client.list_runs(session)}

    assert (observer.returncode, err) == (0, "")
    assert states == {RunState.WRITTEN}


def test_a_primary_without_a_sidecar_says_what_to_do(start: Start) -> None:
    primary = start("primary.py", SESSION_NOTES_TARGET=f"127.0.0.1:{free_port()}")

    _, err = primary.communicate("Hello\n", timeout=20)

    assert primary.returncode == 1
    assert "make run" in err
    assert "Traceback" not in err


def test_a_sidecar_that_hangs_holds_up_no_conversation(start: Start, proxy: Proxy, session_id: str) -> None:
    """Each answer comes as soon as the notes are given up; the turns are stored meanwhile, or later."""
    primary = start("primary.py", "--session", session_id, SESSION_NOTES_TARGET=proxy.target)
    talk, shown = primary.stdin, primary.stdout
    assert talk is not None
    assert shown is not None

    def answered_after(text: str) -> float:
        begun = time.monotonic()
        talk.write(f"{text}\n")
        talk.flush()
        assert any(line.startswith("primary >") for line in shown)
        return time.monotonic() - begun

    answered_after("Hello")
    proxy.swallow_replies()
    assert max(answered_after("Are you there?"), answered_after("Still?")) < 1.5
    proxy.reset()
    primary.communicate(timeout=20)
    assert primary.returncode == 0


def test_an_observer_without_a_sidecar_says_what_to_do(start: Start) -> None:
    """As from cron: a round that left no notes is no success."""
    observer = start("observer.py", "--session", "s", "--once", SESSION_NOTES_TARGET=f"127.0.0.1:{free_port()}")

    _, err = observer.communicate(timeout=40)

    assert observer.returncode == 1
    assert err.splitlines()[-1] == "no notes on s. If no sidecar is running, start one with: make run"
    assert "Traceback" not in err


@pytest.mark.parametrize("program", [["primary.py"], ["observer.py", "--session", "s", "--once"]])
def test_a_model_without_the_package_names_the_extra(start: Start, program: list[str], tmp_path: Path) -> None:
    """A model is named and the package is not installed: one line that says what to install."""
    (tmp_path / "openai.py").write_text("raise ModuleNotFoundError('No module named openai', name='openai')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(*program, SESSION_NOTES_MODEL="some-model", PYTHONPATH=path)

    _, err = process.communicate("Hello\n", timeout=20)

    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert "'.[server,openai]'" in err


def test_the_script_of_the_examples_leaves_the_observer_time(run: Run, sidecar: Sidecar, session_id: str) -> None:
    """The talk that comes with the examples has a pause between any two of its lines."""
    script = EXAMPLES / "talk.txt"
    lines = len(script.read_text().splitlines())
    begun = time.monotonic()

    shown = run("primary.py", "--session", session_id, "--script", str(script), "--pause", "0.3")

    assert len(tool_results(shown)) == lines
    assert time.monotonic() - begun > 0.3 * (lines - 1)


@pytest.mark.parametrize("text", ["-1", "nan", "1e9", "5s", ""])
def test_a_pause_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - argparse shows the user its own words
        seconds(text)


def test_a_schedule_as_people_write_it() -> None:
    assert [span(text).total_seconds() for text in ("500ms", "5s", "1.5s", "2m")] == [0.5, 5, 1.5, 120]


@pytest.mark.parametrize("text", ["5", "0s", "-1s", "s", "soon", "nans"])
def test_a_schedule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - argparse shows the user its own words
        span(text)
