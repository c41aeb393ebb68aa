"""`session-notes replay` as a user runs it, with real processes and a real sidecar."""

import json
import signal
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from session_notes import Notes, ObserverClient, PrimaryClient, SessionNotesError, Turn
from session_notes._brakes import DEFAULT_BRAKES
from session_notes_tools.replay.brakes import TURN_INTERVAL, scaled
from session_notes_tools.replay.promises import PROMISES

from tests.replay.command import finish, replay, start
from tests.replay.histories import DIALOGUE
from tests.support import CANARY, Sidecar, eventually, free_port


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    """Two dialogues, of 4 and of 12 turns."""
    turns = [{"speaker": turn.speaker, "text": f"{turn.text} {CANARY}", "slots": turn.slots} for turn in DIALOGUE.turns]
    # The second part lacks the slots of the first, so that the primary has to remove fields.
    others = [{**turn, "slots": {"Taxis.when": str(number)}} for number, turn in enumerate(turns * 2)]
    path = tmp_path / "transcripts.jsonl"
    dialogues = [{"dialogue_id": "1", "turns": turns}, {"dialogue_id": "ü", "turns": turns + others}]
    path.write_text("".join(json.dumps(dialogue) + "\n" for dialogue in dialogues))
    return path


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files; its path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder or run in it."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command or (process / "cwd").readlink().is_relative_to(folder):
                commands.append(command)
        except OSError:
            continue
    return commands


def replayed_sessions(sidecar: Sidecar) -> list[str]:
    """Return the ids of a replay's sessions on a sidecar."""
    with PrimaryClient(sidecar.target) as primary:
        ids = [summary.session_id for summary in primary.list_sessions()]
    return [session_id for session_id in ids if session_id.startswith("replay-")]


def test_a_temporary_sidecar_leaves_nothing_behind(transcripts: Path, temporary: Path) -> None:
    """Without --target a replay ignores the environment's settings, and its temporary sidecar leaves nothing behind."""
    result = replay(
        transcripts, "--sessions", "12", "--turn-interval", "100ms", SESSION_NOTES_REDIS_URL="redis://unused:1"
    )
    assert result.code == 0, result.err
    assert "temporary sidecar" in result.err
    for promise in PROMISES:
        assert promise in result.out
    assert "BROKEN" not in result.out
    assert max(map(len, result.out.splitlines())) <= 100
    assert list(temporary.iterdir()) == []
    assert processes_in(temporary) == []


def test_the_numbers_of_a_report_agree(sidecar: Sidecar, transcripts: Path) -> None:
    """The counts in a JSON report add up, and a replay deletes its sessions from the sidecar at --target."""
    result = replay(transcripts, "--sessions", "12", "--target", sidecar.target, "--turn-interval", "150ms", "--json")
    assert result.code == 0, result.err + result.out
    report = result.report
    assert (report["ok"], report["target"], report["sessions"]) == (True, sidecar.target, 12)
    assert report["turns"] == 6 * (4 + 12)
    reads = report["reads"]
    assert sum(count for readiness, count in reads.items() if readiness != "fresh") == report["turns"]
    assert reads["ready"] > 0
    runs = report["runs"]
    assert runs["begun"] == runs["accepted"] + runs["superseded"] + runs["failed"] + runs["abandoned"]
    assert report["latency_ms"]["AppendTurns"]["calls"] == report["turns"]
    submissions, turns_read = report["submissions"], report["turns_read"]
    assert submissions["submitted"] == report["turns"] == submissions["runs"] + submissions["coalesced"]
    assert 0 < submissions["runs"] <= runs["begun"]
    assert report["turns"] <= turns_read["read"] < turns_read["whole"]
    assert [promise["promise"] for promise in report["promises"]] == list(PROMISES)
    assert not any(promise["broken"] for promise in report["promises"])
    assert replayed_sessions(sidecar) == []


def test_brakes_save_runs(transcripts: Path) -> None:
    """By default, the brakes hold and runs are fewer than turns. With --no-brakes, no run has to wait for a brake."""
    braked = replay(transcripts, "--sessions", "4", "--turn-interval", "200ms", "--json")
    unbraked = replay(transcripts, "--sessions", "4", "--turn-interval", "200ms", "--no-brakes", "--json")
    checks = []
    for result in (braked, unbraked):
        assert result.code == 0, result.err + result.out
        checks += [part["checks"] for part in result.report["promises"] if part["promise"] == "brakes hold"]
    assert checks[0] > 0 == checks[1]
    assert braked.report["submissions"]["held_back"] > 0 == unbraked.report["submissions"]["held_back"]
    assert braked.report["submissions"]["runs"] < unbraked.report["submissions"]["runs"]


def test_the_brakes_are_the_defaults_in_proportion() -> None:
    """A replay as fast as a conversation has the default brakes, and one twice as fast has brakes half as long."""
    for share in (1, 2):
        spans = scaled(TURN_INTERVAL.total_seconds() / share)
        assert spans["min_interval"].total_seconds() * share == DEFAULT_BRAKES.min_interval
        assert spans["quiet_for"].total_seconds() * share == DEFAULT_BRAKES.quiet_for
        assert spans["min_new_turns"] == DEFAULT_BRAKES.min_new_turns


def test_keep_leaves_the_sessions(sidecar: Sidecar, transcripts: Path) -> None:
    """--keep leaves the sessions on the sidecar, and is a usage error without --target."""
    result = replay(transcripts, "--target", sidecar.target, "--turn-interval", "0s", "--keep", "--json")
    assert result.code == 0, result.err
    (deletion,) = (promise for promise in result.report["promises"] if promise["promise"] == "deleted is gone")
    assert deletion["checks"] == 0
    session_ids = replayed_sessions(sidecar)
    assert len(session_ids) == 2
    with PrimaryClient(sidecar.target) as primary:
        for session_id in session_ids:
            assert primary.get_session(session_id).turn_count in (4, 12)
            primary.delete_session(session_id)
    assert replay(transcripts, "--keep").code == 2


def test_writes_of_another_client_break_promises(sidecar: Sidecar, transcripts: Path) -> None:
    """Another client's writes to a replayed session give exit code 1 and a report with the promise and the session."""
    process = start(transcripts, "--target", sidecar.target, "--turn-interval", "300ms", "--json")
    session_id = eventually(lambda: replayed_sessions(sidecar), 30)[0]
    with PrimaryClient(sidecar.target) as primary, ObserverClient(sidecar.target, observer="replay") as observer:
        primary.append_turns(session_id, [Turn("intruder", "Me, too.")])
        observer.write_notes(session_id, Notes(summary="foreign"), observed_turn=1)
    result = finish(process)
    assert result.code == 1, result.err
    broken = result.broken()
    assert "TurnCountMismatch" in broken["no call is rejected"]
    assert session_id in broken["nothing lost: the transcript"]
    assert session_id in broken["nothing foreign, nothing torn"]
    assert not result.report["ok"]
    assert replayed_sessions(sidecar) == []


def test_a_bad_file_is_rejected_before_the_start(tmp_path: Path, temporary: Path) -> None:
    """A bad line ends the command with exit code 2 and one line on stderr before any process starts."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"dialogue_id": "1", "turns": [{"speaker": "user", "text": "Hi"}]}\n{"dialogue_id": 2}\n')
    result = replay(bad, "--target", f"127.0.0.1:{free_port()}")
    assert (result.code, result.out) == (2, "")
    assert "bad.jsonl, line 2" in result.err
    assert len(result.err.splitlines()) == 1
    assert list(temporary.iterdir()) == []


def test_an_unreachable_sidecar_is_reported_in_one_line(transcripts: Path) -> None:
    """A target without a sidecar ends the command with exit code 4 and one line that names the target."""
    target = f"127.0.0.1:{free_port()}"
    result = replay(transcripts, "--target", target)
    assert (result.code, result.out) == (4, "")
    assert target in result.err
    assert len(result.err.splitlines()) == 1


def test_a_restart_of_the_sidecar_loses_nothing(transcripts: Path) -> None:
    """Calls without a response are retried across a restart, and no write counts twice."""
    with Sidecar() as sidecar:
        process = start(transcripts, "--target", sidecar.target, "--turn-interval", "300ms", "--json")
        eventually(lambda: replayed_sessions(sidecar), 30)
        sidecar.restart()
        result = finish(process)
        assert result.code == 0, result.err + result.out
        assert result.report["turns"] == 4 + 12
        assert replayed_sessions(sidecar) == []


def test_the_death_of_the_sidecar_is_reported(transcripts: Path) -> None:
    """A sidecar that dies ends the command with exit code 4, and stderr mentions the sessions left on it."""
    with Sidecar() as sidecar:
        process = start(transcripts, "--target", sidecar.target, "--turn-interval", "1s")
        eventually(lambda: replayed_sessions(sidecar), 30)
        sidecar.kill()
        result = finish(process)
    assert (result.code, result.out) == (4, "")
    assert "Traceback" not in result.err
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["not all sessions could be deleted", "error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_replay_leaves_nothing_behind(number: int, transcripts: Path, temporary: Path) -> None:
    """Ctrl-C and SIGTERM end the temporary sidecar, its store and both processes, and remove their files."""
    process = start(transcripts, "--turn-interval", "1s")
    assert process.stderr is not None
    target = process.stderr.readline().split()[-1]
    with PrimaryClient(target) as primary:
        assert eventually(lambda: list(primary.list_sessions()), 30)
        process.send_signal(number)
        result = finish(process)
        with pytest.raises(SessionNotesError):
            list(primary.list_sessions(timeout=timedelta(milliseconds=100)))
    assert result.code == 1
    assert result.err.splitlines() == ["error: interrupted before the end"]
    assert list(temporary.iterdir()) == []
    assert processes_in(temporary) == []


def test_an_interrupted_replay_deletes_its_sessions(sidecar: Sidecar, transcripts: Path) -> None:
    """Ctrl-C deletes the sessions of a replay from the sidecar at --target."""
    process = start(transcripts, "--target", sidecar.target, "--turn-interval", "1s")
    eventually(lambda: replayed_sessions(sidecar), 30)
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 1
    assert replayed_sessions(sidecar) == []
