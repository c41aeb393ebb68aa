"""The demo: scenes in order, real values, and no leftover files or processes."""

import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import eventually

SCENES = [
    "1  Not ready, and held back",
    "2  Ready, and in the prompt once",
    "3  Growing drift",
    "4  New turns only",
    "5  An obsolete run",
]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The demo's temporary folder, with a path that is short enough for the store's socket."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    yield folder
    shutil.rmtree(folder)


def results(scene: str, call: str = "get_notes") -> list[Any]:
    """Return the JSON that a scene prints as the results of a call, oldest first."""
    read = json.JSONDecoder().raw_decode
    calls = re.finditer(rf"^   calls  {re.escape(call)}\(.*\n returns  ", scene, re.MULTILINE)
    return [read(scene, found.end())[0] for found in calls]


def prompts(scene: str) -> list[str]:
    """Return the first lines of the texts for the prompt that a scene prints."""
    return re.findall(r"^   calls  feed\.next\(\)\n returns  (.*)$", scene, re.MULTILINE)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that use a folder, on systems with /proc."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command or (process / "cwd").readlink().is_relative_to(folder):
                commands.append(command)
    return commands


def test_scenes_show_real_values(run: Callable[..., str], temporary: Path) -> None:
    """Each scene prints the values that it explains, and the demo leaves neither files nor processes."""
    output = run("demo.py", "--fast", TMPDIR=str(temporary))

    positions = [output.index(f"─ {title} ─") for title in SCENES]
    assert positions == sorted(positions)
    first, second, third, fourth, fifth = (
        output[start:end] for start, end in zip(positions, [*positions[1:], len(output)], strict=True)
    )

    assert results(first) == [{"ready": False, "reason": "never_run"}]
    assert results(first, "list_runs") == [[]], "the submissions are held back"

    _, ready = results(second)
    assert "run 1 sees turns 1 to 4\n" in second
    assert (ready["ready"], ready["turns_behind"]) == (True, 0)
    assert ready["age_seconds"] > 0
    tag = '<session-notes observer="default" fresh="true">'
    assert prompts(second) == [tag, "None"]
    assert '- warning: "Can we start in May?" has not been answered (turn 1)' in second

    drift = results(third)
    assert [(reading["turns_behind"], reading["fresh"]) for reading in drift] == [(1, True), (3, False)]
    assert {reading["newer_run"] for reading in drift} == {"running"}
    assert ready["age_seconds"] <= drift[0]["age_seconds"] <= drift[-1]["age_seconds"]

    newer, _ = results(fourth)
    assert "run 3 sees turns 5 to 8 and the notes on turns 1 to 4\n" in fourth
    assert (newer["turns_behind"], newer["fresh"]) == (0, True)
    assert newer["notes"]["coverage"] == {"goals": 0.5, "budget": 1, "timing": 0.5, "decision": 0}
    assert prompts(fourth) == [f"{tag} …"]

    (renewal,) = results(fifth, "run.renew")
    assert renewal["obsolete"] is True
    assert renewal["turns_behind"] >= 4
    assert "run 2 stops: 3 of 4 topics are not paid for" in fifth
    assert results(fifth, "run.write") == [{"outcome": "superseded", "run": 2}]
    assert results(fifth)[0]["ready"] is True
    assert "The reading is unchanged, from run 3" in fifth
    assert "run 3 written, run 2 superseded, run 1 written" in fifth

    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_cleans_up(
    start: Callable[..., subprocess.Popen[str]], temporary: Path, number: signal.Signals
) -> None:
    """After SIGINT or SIGTERM the demo exits with 1 and leaves neither files nor processes."""
    demo = start("demo.py", TMPDIR=str(temporary), PYTHONUNBUFFERED="1")
    assert demo.stdout is not None
    next(line for line in demo.stdout if "Not ready" in line)

    demo.send_signal(number)
    _, err = demo.communicate(timeout=30)

    assert (demo.returncode, err.strip()) == (1, "stopped")
    assert list(temporary.iterdir()) == []
    eventually(lambda: processes_of(temporary) == [], 5)
