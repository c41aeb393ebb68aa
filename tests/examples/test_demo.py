"""What `make demo` shows is real, in order, and leaves nothing behind."""

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

SCENES = ["1  Not ready", "2  Ready, with its age", "3  Drift grows", "4  A newer run", "5  A slow old run is refused"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for the demo's temporary ones. Not below pytest's long paths: the store has a socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    yield folder
    shutil.rmtree(folder)


def returned(scene: str) -> list[dict[str, Any]]:
    """All that came back in a scene, oldest first."""
    read = json.JSONDecoder().raw_decode
    return [read(scene, label.end())[0] for label in re.finditer("^ returns  ", scene, re.MULTILINE)]


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes that work in a folder, where the system tells."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command or (process / "cwd").readlink().is_relative_to(folder):
                found.append(command)
    return found


def test_five_scenes_with_real_values(run: Callable[..., str], temporary: Path) -> None:
    shown = run("demo.py", "--fast", TMPDIR=str(temporary))

    positions = [shown.index(f"─ {title} ─") for title in SCENES]
    assert positions == sorted(positions)
    first, second, third, fourth, fifth = (
        shown[start:end] for start, end in zip(positions, [*positions[1:], len(shown)], strict=True)
    )

    assert returned(first) == [{"ready": False, "reason": "never_run"}]

    ready, later = returned(second)
    assert "run 1 over 2 turns" in second
    assert (ready["ready"], ready["turns_behind"]) == (True, 0)
    assert set(ready["notes"]["coverage"]) == {"goals", "budget", "timing", "decision"}
    assert 0 < ready["age_seconds"] <= later["age_seconds"]

    drift = returned(third)
    assert [(reading["turns_behind"], reading["fresh"]) for reading in drift] == [(1, True), (3, True), (5, False)]
    assert {reading["newer_run"] for reading in drift} == {"running"}
    assert later["age_seconds"] <= drift[0]["age_seconds"] <= drift[-1]["age_seconds"]

    newer, _ = returned(fourth)
    assert "run 3 over 8 turns" in fourth
    assert (newer["turns_behind"], newer["fresh"]) == (0, True)
    assert newer["notes"]["coverage"]["budget"] > ready["notes"]["coverage"]["budget"]

    write, reading = returned(fifth)
    assert write == {"outcome": "superseded", "run": 2}
    assert reading["ready"] is True
    assert "The reading is unchanged: from run 3" in fifth
    assert "run 3 written, run 2 superseded, run 1 written" in fifth

    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_halfway_it_leaves_nothing_behind(
    start: Callable[..., subprocess.Popen[str]], temporary: Path, number: signal.Signals
) -> None:
    demo = start("demo.py", TMPDIR=str(temporary), PYTHONUNBUFFERED="1")
    assert demo.stdout is not None
    next(line for line in demo.stdout if "Not ready" in line)

    demo.send_signal(number)
    _, err = demo.communicate(timeout=30)

    assert (demo.returncode, err.strip()) == (1, "stopped")
    assert list(temporary.iterdir()) == []
    eventually(lambda: processes_of(temporary) == [], 5)
