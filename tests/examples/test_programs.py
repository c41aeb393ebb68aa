"""The primary and the observer as separate programs on one sidecar."""

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

from tests.clients.conftest import proxy
from tests.examples.programs import EXAMPLES
from tests.peers import Proxy
from tests.support import Sidecar, eventually, free_port

__all__ = ["proxy"]

Run = Callable[..., str]
Start = Callable[..., subprocess.Popen[str]]


def tool_results(output: str) -> list[dict[str, Any]]:
    """Return the results of the primary's tool calls."""
    return [
        json.loads(line.removeprefix("  notes > ")) for line in output.splitlines() if line.startswith("  notes > ")
    ]


def test_programs_share_only_a_session(run: Run, sidecar: Sidecar, session_id: str, tmp_path: Path) -> None:
    """The observer sees the primary's turns, and the primary follows the notes while they are fresh."""
    script = tmp_path / "talk.txt"
    script.write_text("Can we start in May?\n\nThe budget is small.\n")

    first_chat = run("primary.py", "--session", session_id, "--script", str(script), "--pause", "0")
    observation = run("observer.py", "--once")
    second_chat = run("primary.py", "--session", session_id, stdin="And now?\nThe price is 10.\nFixed.\n")

    assert tool_results(first_chat) == [{"ready": False, "reason": "never_run"}] * 2
    assert f"run 1 over turns 1 to 4 of {session_id}" in observation
    assert [(result["turns_behind"], result["fresh"]) for result in tool_results(second_chat)] == [
        (1, True),
        (3, True),
        (5, False),
    ]
    assert [line.removeprefix("primary > ") for line in second_chat.splitlines() if line.startswith("primary > ")] == [
        'Noted. One thing is still open: "Can we start in May?" has not been answered.',
        "Noted. What is the goal, and what would be a success?",
        "Noted. Please go on.",
    ]
    with PrimaryClient(sidecar.target) as client:
        session = client.get_session(session_id, include_turns=True)
    assert session.turn_count == 10
    assert session.turns[:2] == (Turn("user", "Can we start in May?"), Turn("primary", "Noted. Please go on."))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_observer_repeats_until_a_signal(
    start: Start, sidecar: Sidecar, session_id: str, number: signal.Signals
) -> None:
    """The observer finds every session with new turns, repeatedly; on SIGINT or SIGTERM it ends with 0."""
    other = f"{session_id}-2"
    observer = start("observer.py", "--every", "100ms")

    def seen(session: str) -> list[int | None]:
        return [run.observed_turn for run in client.list_runs(session) if run.state is RunState.WRITTEN]

    with ObserverClient(sidecar.target) as client, PrimaryClient(sidecar.target) as primary:
        for turns in (1, 2):
            for session in (session_id, other):
                primary.append_turns(session, [Turn("user", "Go on.")])
            eventually(lambda turns=turns: turns in seen(session_id) and turns in seen(other), 20)  # type: ignore[misc]
        observer.send_signal(number)
        _, err = observer.communicate(timeout=20)
        runs = [seen(session_id), seen(other)]

    assert (observer.returncode, err) == (0, "")
    assert runs == [[2, 1], [2, 1]], "one run per new turn, over nothing twice"


def test_primary_without_a_sidecar(start: Start) -> None:
    """The primary exits with 1 and names the command that starts a sidecar."""
    primary = start("primary.py", SESSION_NOTES_TARGET=f"127.0.0.1:{free_port()}")

    _, err = primary.communicate("Hello\n", timeout=20)

    assert primary.returncode == 1
    assert "make run" in err
    assert "Traceback" not in err


def test_hanging_sidecar_does_not_delay_answers(start: Start, proxy: Proxy, session_id: str) -> None:
    """The primary answers once the notes call times out, while turns stay pending in the recorder."""
    primary = start("primary.py", "--session", session_id, SESSION_NOTES_TARGET=proxy.target)
    stdin, stdout = primary.stdin, primary.stdout
    assert stdin is not None
    assert stdout is not None

    def answer_time(text: str) -> float:
        start_time = time.monotonic()
        stdin.write(f"{text}\n")
        stdin.flush()
        assert any(line.startswith("primary >") for line in stdout)
        return time.monotonic() - start_time

    answer_time("Hello")
    proxy.drop_replies()
    assert max(answer_time("Are you there?"), answer_time("Still?")) < 1.5
    proxy.reset()
    primary.communicate(timeout=20)
    assert primary.returncode == 0


def test_observer_without_a_sidecar(start: Start) -> None:
    """With --once, the observer exits with 1 and names the command that starts a sidecar."""
    observer = start("observer.py", "--once", SESSION_NOTES_TARGET=f"127.0.0.1:{free_port()}")

    _, err = observer.communicate(timeout=40)

    assert observer.returncode == 1
    assert "make run" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("program", [["primary.py"], ["observer.py", "--once"]])
def test_model_without_its_package(start: Start, program: list[str], tmp_path: Path) -> None:
    """If a model is set but its package is not installed, one line names the extra to install."""
    (tmp_path / "openai.py").write_text("raise ModuleNotFoundError('No module named openai', name='openai')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(*program, SESSION_NOTES_MODEL="some-model", PYTHONPATH=path)

    _, err = process.communicate("Hello\n", timeout=20)

    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert "'.[server,openai]'" in err


def test_script_is_played_with_pauses(run: Run, sidecar: Sidecar, session_id: str) -> None:
    """The primary pauses between the lines of a script, so that an observer can take notes."""
    script = EXAMPLES / "talk.txt"
    lines = len(script.read_text().splitlines())
    start_time = time.monotonic()

    output = run("primary.py", "--session", session_id, "--script", str(script), "--pause", "0.3")

    assert len(tool_results(output)) == lines
    assert time.monotonic() - start_time > 0.3 * (lines - 1)


@pytest.mark.parametrize("text", ["-1", "nan", "1e9", "5s", ""])
def test_invalid_pause(text: str) -> None:
    """A pause is a number of seconds from 0 to a day."""
    with pytest.raises(ValueError):  # noqa: PT011 - argparse prints its own message
        seconds(text)


def test_schedule() -> None:
    """A schedule is a number with a unit: ms, s or m."""
    assert [span(text).total_seconds() for text in ("500ms", "5s", "1.5s", "2m")] == [0.5, 5, 1.5, 120]


@pytest.mark.parametrize("text", ["5", "0s", "-1s", "s", "soon", "nans"])
def test_invalid_schedule(text: str) -> None:
    """A schedule needs a unit and must be positive."""
    with pytest.raises(ValueError):  # noqa: PT011 - argparse prints its own message
        span(text)
