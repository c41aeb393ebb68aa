"""`notes get` and `notes write`."""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from session_notes.v1 import notes_pb2

from tests.cli.program import Cli
from tests.support import SessionCalls, struct

READING_KEYS = {
    "session_id", "observer", "ready", "readiness", "fresh", "age_seconds", "snapshot_age_seconds", "turns_behind",
    "observed_turn", "write_time", "expires_in_seconds", "notes", "run", "latest_run",
}  # fmt: skip


def test_written_notes_are_read(cli: Cli, session: SessionCalls) -> None:
    """Every part of the notes is written and read, with age in words and drift in turns."""
    session.append_turns(3)
    written = cli(
        "notes", "write", session.id, "--run-id", "r1", "--observed-turn", "1", "--summary", "Goals are clear.",
        "--coverage", "goals=1", "--coverage", "a=b=0.25", "--issue", "WARNING: No budget", "--issue", "time: short",
        "--follow-up", "Who decides?", "--extra", '{"deep": {"n": 2}}', "--ttl", "1h",
    )  # fmt: skip
    assert (written.code, written.err) == (0, "")
    assert written.out.startswith("accepted: ")
    assert "run 1 (r1) of default" in written.out
    assert session.get_notes().notes == notes_pb2.Notes(
        summary="Goals are clear.",
        coverage={"goals": 1, "a=b": 0.25},
        issues=[
            notes_pb2.Issue(text="No budget", severity=notes_pb2.SEVERITY_WARNING),
            notes_pb2.Issue(text="time: short"),
        ],
        follow_up_suggestions=["Who decides?"],
        extra=struct({"deep": {"n": 2}}),
    )

    read, stale = cli.run_all(
        ["notes", "get", session.id, "--max-age", "1m"],
        ["notes", "get", session.id, "--max-turns-behind", "0", "--current-turn", "2"],
    )
    assert (read.code, read.err) == (0, "")
    assert re.search(r"ready: written \d+ s ago, 2 turns behind, fresh", read.out)
    assert "expires in 1 h" in read.out
    for part in ("Goals are clear.", "goals", "100%", "25%", "warning  No budget", "time: short", "1. Who decides?"):
        assert part in read.out
    assert '{"deep": {"n": 2}}' in read.out
    assert stale.code == 0, "stale notes are a failure without --fresh"
    assert "1 turn behind, stale" in stale.out


def test_notes_as_a_prompt(cli: Cli, session: SessionCalls) -> None:
    """`--prompt` prints the text for a model and nothing else; without notes, nothing."""
    nothing = cli("notes", "get", session.id, "--prompt")
    assert (nothing.code, nothing.out) == (3, "")
    session.begin_run("r1")
    session.write_notes("r1", "Goals <are> clear.")
    prompt, both = cli.run_all(
        ["notes", "get", session.id, "--prompt"], ["notes", "get", session.id, "--prompt", "--json"]
    )
    assert (prompt.code, prompt.err) == (0, "")
    assert prompt.out.startswith('<session-notes observer="default" fresh="true">\n')
    assert prompt.out.endswith("\nSummary: Goals &lt;are&gt; clear.\n</session-notes>\n")
    assert both.code == 2
    assert "--json, not both" in both.err


def test_json_has_every_key(cli: Cli, session: SessionCalls) -> None:
    """JSON has every key: seconds as numbers, times in RFC 3339, enum values in lower case, and null for no value."""
    session.append_turns(2)
    session.begin_run("r1")
    written = cli(
        "notes", "write", session.id, "--run-id", "r1", "--issue", "critical:x", "--extra", '{"n": 2}', "--json"
    )
    assert written.json["outcome"] == "accepted"
    assert written.json["run"]["number"] == 1
    read, other = cli.run_all(
        ["notes", "get", session.id, "--json"], ["notes", "get", session.id, "--observer", "other", "--json"]
    )
    reading = read.json
    assert reading.keys() == READING_KEYS
    assert (reading["ready"], reading["readiness"], reading["fresh"]) == (True, "ready", True)
    assert 0 <= reading["age_seconds"] <= reading["snapshot_age_seconds"] < 60
    assert reading["expires_in_seconds"] > 80_000
    assert (reading["observed_turn"], reading["turns_behind"]) == (2, 0)
    assert reading["write_time"] == written.json["write_time"]
    assert datetime.fromisoformat(reading["write_time"]).tzinfo is not None
    assert reading["write_time"].endswith("Z")
    assert reading["notes"] == {
        "coverage": {},
        "issues": [{"text": "x", "severity": "critical", "turn": None}],
        "follow_up_suggestions": [],
        "summary": "",
        "extra": {"n": 2},
    }
    assert type(reading["notes"]["extra"]["n"]) is int
    assert reading["run"] == reading["latest_run"]
    assert (reading["run"]["state"], reading["run"]["failure"], reading["run"]["notes"]) == ("written", "", None)

    assert other.code == 3
    assert other.json.keys() == READING_KEYS
    assert (other.json["observer"], other.json["readiness"]) == ("other", "never_run")
    assert other.json["age_seconds"] is None
    assert other.json["notes"] is None


def test_not_ready_exits_with_3(cli: Cli, session: SessionCalls) -> None:
    """`notes get` exits with 3 and prints a reason if notes are not ready or, with --fresh, not fresh."""
    session.begin_run("r1", observer="failed")
    session.fail_run("r1", observer="failed", reason="the model is [bold]down[/bold]")
    session.begin_run("r1", observer="running")
    session.write_notes("r1", observed_turn=1)
    never, failed, running, stale, fresh = cli.run_all(
        ["notes", "get", session.id, "--observer", "never"],
        ["notes", "get", session.id, "--observer", "failed"],
        ["notes", "get", session.id, "--observer", "running"],
        ["notes", "get", session.id, "--fresh", "--current-turn", "9", "--max-turns-behind", "7"],
        ["notes", "get", session.id, "--fresh", "--current-turn", "9", "--max-turns-behind", "8"],
    )
    for result, reason in (
        (never, "not ready (never_run): this observer has not run"),
        (failed, "not ready (failed): "),
        (failed, "latest run 1 (r1): failed: the model is [bold]down[/bold]"),
        (running, "not ready (running): "),
        (stale, "8 turns behind, stale"),
    ):
        assert (result.code, result.err) == (3, "")
        assert reason in result.out
    assert fresh.code == 0


def test_outcomes(cli: Cli, session: SessionCalls) -> None:
    """`notes write` exits with 0 for repeated notes, and with 5 for superseded or different notes."""
    session.begin_run("slow")
    session.begin_run("quick")
    session.write_notes("quick", notes_pb2.Notes(summary="a summary"))
    again, late, other = cli.run_all(
        ["notes", "write", session.id, "--run-id", "quick", "--summary", "a summary"],
        ["notes", "write", session.id, "--run-id", "slow", "--summary", "late", "--json"],
        ["notes", "write", session.id, "--run-id", "quick", "--summary", "another"],
    )
    assert again.code == 0
    assert again.out.startswith("duplicate: ")
    assert (late.code, late.json["outcome"], late.json["run"]["state"]) == (5, "superseded", "superseded")
    assert other.code == 5
    assert other.error == "this run has already written other notes (RUN_ALREADY_WRITTEN)"


def test_file_accepts_json_output(cli: Cli, session: SessionCalls, tmp_path: Path) -> None:
    """`notes write --file` accepts the notes printed by `notes get --json`, in a file and on stdin."""
    content = notes_pb2.Notes(
        coverage={"goals": 0.5},
        issues=[notes_pb2.Issue(text="[i]x[/i]\n\u2028é", severity=notes_pb2.SEVERITY_INFO, turn=0)],
        follow_up_suggestions=["a", "b"],
        summary="two\nlines",
        extra=struct({"list": [1.5, None, True]}),
    )
    session.write_notes("r1", content)
    notes = json.dumps(cli("notes", "get", session.id, "--json").json["notes"])
    file = tmp_path / "notes.json"
    file.write_text(notes)
    assert cli("notes", "write", session.id, "--observer", "file", "--file", str(file)).code == 0
    assert cli("notes", "write", session.id, "--observer", "stdin", "--file", "-", stdin=notes).code == 0
    assert session.get_notes(observer="file").notes == content
    assert session.get_notes(observer="stdin").notes == content


@pytest.mark.parametrize(
    "rows",
    [
        [
            (["--summary", "x", "--extra", "{"], "", "--extra: not valid JSON"),
            (["--summary", "x", "--extra", '{"a": NaN}'], "", "--extra: not valid JSON: NaN is not JSON"),
            (["--extra", "[]"], "", "--extra: must be a JSON object"),
            (["--coverage", "goals"], "", "--coverage: write TOPIC=SHARE"),
            (["--coverage", "goals=2"], "", "notes.coverage"),
            ([], "", "nothing to write"),
            (["--summary", "x", "--ttl", "0s"], "", "'--ttl'"),
            (["--summary", "x", "--ttl", "5"], "", "'--ttl': write a number and a unit"),
            (["--summary", "x", "--observed-turn", "-1"], "", "--observed-turn: must be"),
            (["--summary", "x", "--observed-turn", "9" * 19], "", "--observed-turn must be"),
            (["--observer", "{}", "--summary", "x"], "", "--observer: "),
        ],
        [
            (["--file", "-"], "not json", "--file: not valid JSON"),
            (["--file", "-"], "[" * 100_000, "--file: not valid JSON"),
            (["--file", "/no/such/file"], "", "--file: /no/such/file: No such file"),
            (["--file", "-", "--summary", "x"], "{}", "--file: give the notes in a file or in options"),
            (["--file", "-"], '{"sumary": "x"}', "unknown key 'sumary'"),
            (["--file", "-"], '{"summary": 1}', "summary must be a string"),
            (["--file", "-"], '{"coverage": {"a": "1"}}', "coverage['a']"),
            (["--file", "-"], '{"issues": [{"severity": "info"}]}', "issues[0]"),
            (["--file", "-"], '{"issues": [{"text": "x", "severity": "bad"}]}', "issues[0].severity"),
            (["--file", "-"], '{"summary": "' + "x" * 300_000 + '"}', "notes is larger than 262144 bytes: 3000"),
        ],
    ],
    ids=["options", "file"],
)
def test_invalid_notes_are_named(cli: Cli, session: SessionCalls, rows: list[tuple[list[str], str, str]]) -> None:
    """Invalid options and files cause exit code 2 and a one-line error that names the option or field."""
    for arguments, stdin, message in rows:
        result = cli.in_process("notes", "write", session.id, *arguments, stdin=stdin)
        assert result.code == 2, result
        assert message in result.error
    assert not session.get_notes().ready
