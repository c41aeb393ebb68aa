"""`session get`, `set`, `append`, `export`, `delete` and `list`."""

import json
import re
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from session_notes.v1 import turn_pb2

from tests.cli.program import Cli
from tests.peers import Forwarder
from tests.support import CANARY, SessionCalls, Sidecar, new_session_id, turns, value


def test_set(cli: Cli, session: SessionCalls) -> None:
    """Fields are set to JSON or text, removed or unchanged; a version mismatch and invalid arguments are errors."""
    session.update_session(set={"kept": 1, "gone": 2})
    done = cli(
        "session", "set", session.id, 'goal="refund"', "count=2", "list=[1, {}]", "no=null", "text=a=b [b]c[/b]",
        'digits="2"', "nan=NaN", "empty=", "--remove", "gone", "--expected-version", "1", "--ttl", "2h",
    )  # fmt: skip
    assert (done.code, done.out) == (0, f"{session.id} is at version 2\n")
    fields = {name: MessageToDict(content) for name, content in session.get_session().fields.items()}
    assert fields == {
        "kept": 1, "goal": "refund", "count": 2, "list": [1, {}], "no": None, "text": "a=b [b]c[/b]",
        "digits": "2", "nan": "NaN", "empty": "",
    }  # fmt: skip
    assert 7000 < session.get_session().expires_in.seconds <= 7200

    refused = cli("session", "set", session.id, "count=3", "--expected-version", "1")
    nothing = cli.in_process("session", "set", session.id)
    nameless = cli.in_process("session", "set", session.id, "count")
    twice = cli.in_process("session", "set", session.id, "a=1", "a=2")
    assert (refused.code, refused.error) == (5, "the session is at version 2, not 1 (VERSION_MISMATCH)")
    assert (nothing.code, nameless.code, twice.code) == (2, 2, 2)
    assert "nothing to change" in nothing.error
    assert "write NAME=VALUE, not 'count'" in nameless.error
    assert "twice" in twice.error
    in_json = cli("session", "set", session.id, "count=3", "--json").json
    assert (in_json["session_id"], in_json["version"]) == (session.id, 3)
    assert in_json["update_time"].endswith("Z")


def test_append(cli: Cli, session: SessionCalls, tmp_path: Path) -> None:
    """Turns are given as pairs or JSON lines; a mismatched turn count and invalid lines are errors."""
    appended = cli("session", "append", session.id, "user", "hello", "primary", "", "--expected-turn-count", "0")
    assert (appended.code, appended.out) == (0, f"{session.id} has 2 turns\n")
    file = tmp_path / "turns.jsonl"
    lines = [
        {"speaker": "user", "text": "[u]é[/u]", "time": "2026-01-31T13:00:00+01:00", "extra": {"n": 1}},
        {"speaker": "primary", "text": "bye", "time": None},
    ]
    file.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\r\n")
    assert cli("session", "append", session.id, "--file", str(file), "--json").json == {
        "session_id": session.id,
        "turn_count": 4,
    }
    stored = session.get_session(include_turns=True).turns
    assert stored[1] == turn_pb2.Turn(speaker="primary")
    assert (stored[2].text, stored[2].time.ToJsonString(), stored[2].extra["n"]) == (
        "[u]é[/u]",
        "2026-01-31T12:00:00Z",
        1,
    )
    assert not stored[3].HasField("time")

    refused = cli("session", "append", session.id, "user", "x", "--expected-turn-count", "2")
    odd = cli.in_process("session", "append", session.id, "user")
    none = cli.in_process("session", "append", session.id)
    assert (odd.code, none.code, refused.code) == (2, 2, 5)
    assert "no text follows the speaker 'user'" in odd.error
    assert "--file" in none.error
    assert refused.error == "the transcript has 4 turns, not 2 (TURN_COUNT_MISMATCH)"
    for stdin, reason in (
        ('{"speaker": "a", "text": "b"}\n{"speaker"', "line 2: not valid JSON"),
        ('{"speaker": "a"}', "line 1: text must be a string"),
        ('{"speaker": "a", "text": "b", "time": "2026-01-31T13:00:00"}', "line 1: time must be"),
    ):
        result = cli.in_process("session", "append", session.id, "--file", "-", stdin=stdin)
        assert result.code == 2
        assert reason in result.error
    assert session.get_session().turn_count == 4


def test_get(cli: Cli, session: SessionCalls) -> None:
    """`session get` prints fields, notes in words and numbered turns; it exits with 6 for an unknown session."""
    session.update_session(set={"goal": "[red]refund[/red]"})
    session.append_turns(turns(3))
    session.write_notes("r1", observed_turn=1, observer="coach")
    human, in_json, json_turns, missing = cli.run_all(
        ["session", "get", session.id, "--turns"],
        ["session", "get", session.id, "--json"],
        ["session", "get", session.id, "--json", "--turns"],
        ["session", "get", new_session_id(), "--json"],
    )
    assert (human.code, human.err) == (0, "")
    first, second, *rest = human.out.splitlines()
    assert first == f"{session.id}  version 1, 3 turns"
    assert second.endswith("expires in 24 h")
    assert '  goal  "[red]refund[/red]"' in rest
    assert any(line.startswith("  coach  ready: written ") and line.endswith("2 turns behind") for line in rest)
    assert rest[-1] == "  3  user  turn 3"
    document = in_json.json
    assert (document["version"], document["turn_count"], document["turns"]) == (1, 3, [])
    assert document["fields"] == {"goal": "[red]refund[/red]"}
    assert document["notes"]["coach"]["turns_behind"] == 2
    assert 80_000 < document["expires_in_seconds"] <= 86_400
    assert json_turns.json["turns"][2] == {"speaker": "user", "text": "turn 3", "time": None, "extra": {"by": CANARY}}
    assert missing.code == 6
    assert re.fullmatch("session .* does not exist", missing.error)


def test_turn_without_speaker(cli: Cli, session: SessionCalls) -> None:
    """A turn without a speaker shows a dash in its column."""
    session.append_turns([turn_pb2.Turn(text="hello")])
    assert cli("session", "get", session.id, "--turns").out.splitlines()[-1] == "  1  -  hello"


def test_export(cli: Cli, session: SessionCalls, tmp_path: Path) -> None:
    """`session export` prints everything stored of a session, or writes it to a new file that others cannot read."""
    session.update_session(set={"goal": "refund"})
    session.append_turns([turn_pb2.Turn(speaker="user", text="hello", extra=value({"mood": "calm"}).struct_value)])
    session.begin_run("r1", observer="tone")
    session.fail_run("r1", observer="tone", reason="no answer")
    session.write_notes("r2", observer="tone", observed_turn=1)
    session.write_notes("r3", "older", observed_turn=1)
    session.write_notes("r4", "newer", observed_turn=1)
    file = tmp_path / "export.json"
    printed, written, unknown = cli.run_all(
        ["session", "export", session.id],
        ["session", "export", session.id, "--output", str(file)],
        ["session", "export", new_session_id()],
    )
    assert (printed.code, printed.err) == (0, "")
    document = printed.json
    assert (document["session_id"], document["turn_count"], document["fields"]) == (session.id, 1, {"goal": "refund"})
    assert document["create_time"].endswith("Z")
    assert document["expires_in_seconds"] > 0
    (turn,) = document["turns"]
    assert (turn["speaker"], turn["text"], turn["extra"]) == ("user", "hello", {"mood": "calm"})
    assert document["notes"]["default"]["notes"]["summary"] == "newer"
    runs = {name: [(run["run_id"], run["state"]) for run in entries] for name, entries in document["runs"].items()}
    assert runs == {
        "default": [("r4", "written"), ("r3", "written")],
        "tone": [("r2", "written"), ("r1", "failed")],
    }
    assert document["runs"]["default"][1]["notes"]["summary"] == "older"
    assert document["runs"]["tone"][1]["failure"] == "no answer"

    assert (written.code, written.out, written.err) == (0, "", "")
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["runs"] == document["runs"]
    again = cli("session", "export", session.id, "--output", str(file))
    assert (again.code, again.error) == (2, "--output: the file exists already; name a new one")
    assert unknown.code == 6
    assert unknown.error.endswith("does not exist")


@pytest.mark.parametrize("changes", [1, 2, 3])
def test_export_of_a_session_in_use(sidecar: Sidecar, session: SessionCalls, changes: int) -> None:
    """An export begins anew when the session changes meanwhile. If it keeps changing, a warning says so."""
    session.append_turns(1)
    session.write_notes("run-0")
    left = list(range(changes))

    def change(method: str) -> None:
        if method == "ListRuns" and left:
            session.write_notes(f"run-{changes - len(left) + 1}")
            left.pop()

    forwarder = Forwarder(sidecar.target, change)
    try:
        exported = Cli(forwarder.target).in_process("session", "export", session.id)
    finally:
        forwarder.stop()
    document = exported.json
    runs = [run["run_id"] for run in document["runs"]["default"]]
    assert (exported.code, runs[0], len(runs)) == (0, f"run-{changes}", changes + 1)
    assert (document["notes"]["default"]["run"]["run_id"] == runs[0]) == (changes < 3)
    assert exported.err == ("" if changes < 3 else WARNING)


WARNING = (
    "warning: the session kept changing, so its runs may be newer than the rest; export it again once it is quiet\n"
)


def test_delete_asks_for_confirmation(cli: Cli, session: SessionCalls) -> None:
    """`session delete` asks on a terminal and requires --yes elsewhere; an unknown session is not an error."""
    session.append_turns(1)
    without_terminal = cli("session", "delete", session.id)
    assert without_terminal.code == 2
    assert "--yes" in without_terminal.error
    code, screen = cli.on_terminal("session", "delete", session.id, keys="n\n")
    assert code == 1
    assert f"Delete session {session.id} permanently? [y/N]: " in screen
    assert session.get_session().turn_count == 1
    code, screen = cli.on_terminal("session", "delete", session.id, keys="y\n")
    assert code == 0
    assert screen.rstrip().endswith("deleted")
    assert session.get_session().turn_count == 0
    again, in_json = cli.run_all(
        ["session", "delete", session.id, "--yes"], ["session", "delete", session.id, "-y", "--json"]
    )
    assert (again.code, again.out) == (0, f"{session.id} did not exist\n")
    assert in_json.json == {"session_id": session.id, "existed": False}


def test_list(cli: Cli, session: SessionCalls) -> None:
    """`session list` shows each session once, most recently changed first."""
    older = SessionCalls(session.channel, new_session_id())
    older.append_turns(2)
    session.update_session(set={"a": 1})
    session.write_notes("r1", observer="coach")
    table, in_json = cli.run_all(["session", "list"], ["session", "list", "--json"])
    head, *rows = table.out.splitlines()
    assert head == head.upper()
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert len(cells) == len(rows)
    assert list(cells).index(session.id) < list(cells).index(older.id)
    assert cells[session.id][:2] == ["1", "0"]
    assert cells[session.id][-1] == "coach"
    assert cells[older.id][:2] == ["0", "2"]
    by_id = {document["session_id"]: document for document in in_json.json}
    assert by_id[older.id]["turn_count"] == 2
    assert by_id[session.id]["observers"] == ["coach"]
    assert by_id[session.id]["update_time"].endswith("Z")
