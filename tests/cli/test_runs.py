"""`runs begin`, `runs fail`, `runs list` and `runs due`."""

from session_notes.v1 import notes_pb2

from tests.cli.program import Cli
from tests.support import SessionCalls


def test_begin(cli: Cli, session: SessionCalls) -> None:
    """`runs begin` prints the run, and the transcript on request; the same id returns the same run."""
    session.append_turns(2)
    begun = cli("runs", "begin", session.id, "--run-id", "r1", "--lease", "1m", "--transcript")
    assert (begun.code, begun.err) == (0, "")
    assert "run 1 (r1) of default: running, sees 2 turns" in begun.out
    assert "  2  user  turn 2\n" in begun.out
    again, busy, other = cli.run_all(
        ["runs", "begin", session.id, "--run-id", "r1", "--transcript", "--json"],
        ["runs", "begin", session.id, "--only-if-idle"],
        ["runs", "begin", session.id, "--observer", "other", "--observed-turn", "1", "--json"],
    )
    assert again.json["run"]["number"] == 1
    assert [turn["text"] for turn in again.json["transcript"]] == ["turn 1", "turn 2"]
    assert busy.code == 5
    assert "r1" in busy.error
    assert (other.json["run"]["observer"], other.json["run"]["observed_turn"]) == ("other", 1)
    assert other.json["run"]["end_time"] is None


def test_fail(cli: Cli, session: SessionCalls) -> None:
    """`runs fail` records the reason; it exits with 6 for an unknown run, and with 5 for one that has written notes."""
    session.begin_run("r1")
    session.begin_run("r2")
    session.write_notes("written")
    failed, in_json, unknown, written = cli.run_all(
        ["runs", "fail", session.id, "r1", "--reason", "out of [red]quota[/red]"],
        ["runs", "fail", session.id, "r2", "--json"],
        ["runs", "fail", session.id, "r3"],
        ["runs", "fail", session.id, "written"],
    )
    assert (failed.code, failed.out) == (0, "run 1 (r1) of default: failed\n")
    assert (in_json.json["run"]["run_id"], in_json.json["run"]["state"]) == ("r2", "failed")
    assert (unknown.code, unknown.error) == (6, "the observer has no run with this id (RUN_NOT_FOUND)")
    assert (written.code, written.error) == (5, "this run has already written notes (RUN_ALREADY_WRITTEN)")
    assert session.list_runs().runs[-1].failure == "out of [red]quota[/red]"


def test_list(cli: Cli, session: SessionCalls) -> None:
    """`runs list` prints one line per run, newest first, however long the failure is; --notes adds the notes."""
    session.begin_run("r1", observed_turn=1)
    session.begin_run("r2")
    session.fail_run("r2", reason="the [b]model[/b] " + "went away " * 30 + "\nat last")
    session.write_notes("r1", notes_pb2.Notes(summary="so far", coverage={"goals": 0.5}))
    table, with_notes, in_json, json_notes, empty = cli.run_all(
        ["runs", "list", session.id],
        ["runs", "list", session.id, "--notes"],
        ["runs", "list", session.id, "--json"],
        ["runs", "list", session.id, "--json", "--notes"],
        ["runs", "list", session.id, "--observer", "other"],
    )
    head, second, first = table.out.splitlines()
    assert head.split() == ["NUMBER", "RUN", "STATE", "SAW", "BEGAN", "ENDED", "FAILURE"]
    assert second.startswith("2       r2   failed ")
    assert "the [b]model[/b] went away " in second
    assert second.endswith("at last")
    assert first.startswith("1       r1   written  1 turn")
    assert with_notes.out.startswith(head)
    assert "run 1 (r1)\n  so far\n" in with_notes.out
    assert [(run["number"], run["state"], run["notes"]) for run in in_json.json] == [
        (2, "failed", None),
        (1, "written", None),
    ]
    assert [run["notes"] and run["notes"]["summary"] for run in json_notes.json] == [None, "so far"]
    assert (empty.code, empty.out) == (0, f"no runs on {session.id}\n")


def test_due(cli: Cli, session: SessionCalls) -> None:
    """`runs due` lists the sessions with new turns, within the bounds, for one observer."""
    session.append_turns(3)
    session.write_notes("r1", observed_turn=1)
    table, in_json, few, recent, loud, invalid = cli.run_all(
        ["runs", "due"],
        ["runs", "due", "--min-turns-behind", "2", "--min-interval", "0s", "--min-quiet", "0s", "--json"],
        ["runs", "due", "--min-turns-behind", "3", "--json"],
        ["runs", "due", "--min-interval", "1h", "--json"],
        ["runs", "due", "--min-quiet", "1h", "--observer", "other", "--json"],
        ["runs", "due", "--min-turns-behind", "-1"],
    )
    assert table.out.splitlines()[0].split() == ["SESSION", "TURNS", "BEHIND", "QUIET", "FOR", "LATEST", "RUN"]
    (row,) = [line.split() for line in table.out.splitlines() if line.startswith(session.id)]
    assert (row[1:3], row[-1]) == (["3", "2"], "written")
    (entry,) = [entry for entry in in_json.json if entry["session_id"] == session.id]
    assert (entry["turn_count"], entry["turns_behind"], entry["latest_run"]["run_id"]) == (3, 2, "r1")
    assert entry["quiet_seconds"] >= 0
    for listed in (few, recent, loud):
        assert session.id not in {entry["session_id"] for entry in listed.json}
    assert invalid.code == 2
    assert invalid.error.startswith("--min-turns-behind: ")
