"""`session-notes replay` as a person runs it: real programs, a real sidecar."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from session_notes import Notes, ObserverClient, PrimaryClient, SessionNotesError, Turn
from session_notes_tools.replay.promises import PROMISES

from tests.replay.histories import DIALOGUE
from tests.support import CANARY, Sidecar, eventually, free_port, leaks, program


@dataclass
class Replayed:
    """How a replay ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)

    def broken(self) -> dict[str, str]:
        """Promise → its examples, of those that were broken."""
        return {one["promise"]: str(one["examples"]) for one in self.told["promises"] if one["broken"]}


def start(*arguments: str | Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*program(), "replay", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    )


def ended(process: subprocess.Popen[str], timeout: float = 100) -> Replayed:
    out, err = process.communicate(timeout=timeout)
    assert not leaks(err), err
    return Replayed(process.returncode, out, err)


def replay(*arguments: str | Path, **env: str) -> Replayed:
    return ended(start(*arguments, **env))


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    """Two dialogues, of 4 and of 12 turns."""
    turns = [{"speaker": turn.speaker, "text": f"{turn.text} {CANARY}", "slots": turn.slots} for turn in DIALOGUE.turns]
    # The slots of the first part are gone in the second: the primary has to remove fields.
    other = [{**turn, "slots": {"Taxis.when": str(number)}} for number, turn in enumerate(turns * 2)]
    path = tmp_path / "transcripts.jsonl"
    dialogues = [{"dialogue_id": "1", "turns": turns}, {"dialogue_id": "ü", "turns": turns + other}]
    path.write_text("".join(json.dumps(dialogue) + "\n" for dialogue in dialogues))
    return path


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files that nobody else uses; short, for a unix socket has to fit in."""
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def working_in(folder: Path) -> list[str]:
    """The processes that were told of a folder, or stand in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command or (process / "cwd").readlink().is_relative_to(folder):
                found.append(command)
        except OSError:
            continue
    return found


def sessions_on(sidecar: Sidecar) -> list[str]:
    with PrimaryClient(sidecar.target) as primary:
        return [one.session_id for one in primary.list_sessions() if one.session_id.startswith("replay-")]


def test_a_temporary_sidecar_serves_and_goes(transcripts: Path, temporary: Path) -> None:
    """Without --target it starts one of its own, whatever the environment says of another, and leaves nothing."""
    done = replay(
        transcripts, "--sessions", "12", "--turn-interval", "100ms", SESSION_NOTES_REDIS_URL="redis://nobody:1"
    )
    assert done.code == 0, done.err
    assert "temporary sidecar" in done.err
    for promise in PROMISES:
        assert promise in done.out
    assert "BROKEN" not in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    assert list(temporary.iterdir()) == []
    assert working_in(temporary) == []


def test_what_it_tells_adds_up(sidecar: Sidecar, transcripts: Path) -> None:
    """--json prints one document; the sessions on a sidecar of somebody else are deleted in the end."""
    done = replay(transcripts, "--sessions", "12", "--target", sidecar.target, "--turn-interval", "150ms", "--json")
    assert done.code == 0, done.err + done.out
    told = done.told
    assert (told["ok"], told["target"], told["sessions"], told["turns"]) == (True, sidecar.target, 12, 6 * (4 + 12))
    reads = told["reads"]
    assert sum(count for readiness, count in reads.items() if readiness != "fresh") == told["turns"]
    assert reads["ready"] > 0
    runs = told["runs"]
    assert runs["begun"] == runs["accepted"] + runs["superseded"] + runs["failed"] + runs["abandoned"]
    assert told["latency_ms"]["AppendTurns"]["calls"] == told["turns"]
    assert [one["promise"] for one in told["promises"]] == list(PROMISES)
    assert not any(one["broken"] for one in told["promises"])
    assert sessions_on(sidecar) == []


def test_keep_keeps(sidecar: Sidecar, transcripts: Path) -> None:
    done = replay(transcripts, "--target", sidecar.target, "--turn-interval", "0s", "--keep", "--json")
    assert done.code == 0, done.err
    (gone,) = (one for one in done.told["promises"] if one["promise"] == "deleted is gone")
    assert gone["checks"] == 0
    kept = sessions_on(sidecar)
    assert len(kept) == 2
    with PrimaryClient(sidecar.target) as primary:
        for session_id in kept:
            assert primary.get_session(session_id).turn_count in (4, 12)
            primary.delete_session(session_id)
    assert replay(transcripts, "--keep").code == 2


def test_a_meddler_is_found_out(sidecar: Sidecar, transcripts: Path) -> None:
    """Whoever else writes to the sessions breaks promises: the exit code is 1, and the table says which and where."""
    process = start(transcripts, "--target", sidecar.target, "--turn-interval", "300ms", "--json")
    played = eventually(lambda: sessions_on(sidecar), 30)
    with PrimaryClient(sidecar.target) as primary, ObserverClient(sidecar.target, observer="replay") as observer:
        primary.append_turns(played[0], [Turn("meddler", "Me, too.")])
        observer.write_notes(played[0], Notes(summary="of nobody"), observed_turn=1)
    done = ended(process)
    assert done.code == 1, done.err
    broken = done.broken()
    assert "TurnCountMismatch" in broken["no call is refused"]
    assert played[0] in broken["nothing lost: the transcript"]
    assert played[0] in broken["nothing foreign, nothing torn"]
    assert not done.told["ok"]
    assert sessions_on(sidecar) == []


def test_a_bad_file_is_refused_before_anything_starts(tmp_path: Path, temporary: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"dialogue_id": "1", "turns": [{"speaker": "user", "text": "Hi"}]}\n{"dialogue_id": 2}\n')
    done = replay(bad, "--target", f"127.0.0.1:{free_port()}")
    assert (done.code, done.out) == (2, "")
    assert "bad.jsonl, line 2" in done.err
    assert len(done.err.splitlines()) == 1
    assert list(temporary.iterdir()) == []


def test_a_sidecar_that_is_not_there_is_said_in_one_line(transcripts: Path) -> None:
    target = f"127.0.0.1:{free_port()}"
    done = replay(transcripts, "--target", target)
    assert (done.code, done.out) == (4, "")
    assert target in done.err
    assert len(done.err.splitlines()) == 1


def test_a_sidecar_that_restarts_meanwhile_loses_nothing(transcripts: Path) -> None:
    """What was not answered is tried again, and nothing counts twice."""
    with Sidecar() as sidecar:
        process = start(transcripts, "--target", sidecar.target, "--turn-interval", "300ms", "--json")
        eventually(lambda: sessions_on(sidecar), 30)
        sidecar.restart()
        done = ended(process)
        assert done.code == 0, done.err + done.out
        assert done.told["turns"] == 4 + 12
        assert sessions_on(sidecar) == []


def test_a_sidecar_that_dies_meanwhile_is_said_in_one_line(transcripts: Path) -> None:
    with Sidecar() as sidecar:
        process = start(transcripts, "--target", sidecar.target, "--turn-interval", "1s")
        eventually(lambda: sessions_on(sidecar), 30)
        sidecar.kill()
        done = ended(process)
    assert (done.code, done.out) == (4, "")
    assert "Traceback" not in done.err
    # And that the sessions may still be there.
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["not all sessions could be deleted", "error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_broken_off_it_leaves_nothing(number: int, transcripts: Path, temporary: Path) -> None:
    """Ctrl-C in the middle: the sidecar, its store and both programs go, and so do the files."""
    process = start(transcripts, "--turn-interval", "1s")
    assert process.stderr is not None
    target = process.stderr.readline().split()[-1]
    with PrimaryClient(target) as primary:
        assert eventually(lambda: list(primary.list_sessions()), 30)
        process.send_signal(number)
        done = ended(process)
        with pytest.raises(SessionNotesError):
            list(primary.list_sessions(timeout=timedelta(milliseconds=100)))
    assert done.code == 1
    assert done.err.splitlines() == ["error: stopped before the end"]
    assert list(temporary.iterdir()) == []
    assert working_in(temporary) == []


def test_broken_off_it_deletes_its_sessions(sidecar: Sidecar, transcripts: Path) -> None:
    process = start(transcripts, "--target", sidecar.target, "--turn-interval", "1s")
    eventually(lambda: sessions_on(sidecar), 30)
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 1
    assert sessions_on(sidecar) == []
