"""`top --once` and `top --json`."""

import re
import subprocess
import sys

import grpc

from tests.cli.program import Cli
from tests.support import SessionCalls, free_port, new_session_id, notes


def row_of(text: str, session_id: str) -> str:
    """Return a session's line with single spaces."""
    return next(" ".join(line.split()) for line in text.splitlines() if line.startswith(session_id))


def test_once(cli: Cli, session: SessionCalls, channel: grpc.Channel) -> None:
    """Text and JSON agree, ids are whole, and FRESH is shown only if a bound is given."""
    session.append_turns(3)
    content = notes("Clear.")
    session.begin_run("r1", observer="coach", observed_turn=1)
    session.write_notes("r1", content, observer="coach")
    session.begin_run("r2", observer="coach")
    quiet = SessionCalls(channel, new_session_id())
    quiet.append_turns(1)
    # Without a terminal, --once is implied.
    shown, bounded, as_json = cli.run_all(["top", "--once"], ["top", "--max-turns-behind", "1"], ["top", "--json"])

    assert (shown.code, shown.err, bounded.code, as_json.code) == (0, "", 0, 0)
    assert shown.out.split("\n")[0].split() == (
        ["SESSION", "OBSERVER", "READINESS", "AGE", "BEHIND", "RUNS", "TURNS", "SIZE", "EXPIRES", "IDLE"]
    )
    size = content.ByteSize()
    assert re.fullmatch(rf"{session.id} coach ready \d+s 2 1 busy 3 {size} 23h \d+s", row_of(shown.out, session.id)), (
        shown.out
    )
    assert re.fullmatch(rf"{quiet.id} - never run - - - 1 - 23h \d+s", row_of(shown.out, quiet.id)), shown.out
    assert re.search(r"ready \d+s 2 no 1 busy", row_of(bounded.out, session.id)), bounded.out

    rows = {row["session_id"]: row for row in as_json.json}
    row = rows[session.id]
    assert 0 <= row.pop("age_seconds") < 60
    assert 86000 < row.pop("expires_in_seconds") <= 86400
    assert row.pop("update_time").endswith("Z")
    latest = row.pop("latest_run")
    assert (latest["run_id"], latest["state"]) == ("r2", "running")
    assert row == {
        "session_id": session.id,
        "observer": "coach",
        "readiness": "ready",
        "turns_behind": 2,
        "fresh": True,
        "running_runs": 1,
        "turn_count": 3,
        "notes_bytes": size,
    }
    assert rows[quiet.id]["observer"] is None
    assert rows[quiet.id]["readiness"] == "never_run"


def test_errors_of_once(cli: Cli) -> None:
    """An outage is an error, not an empty table, and too short an interval is rejected."""
    outage = cli("top", "--once", "--target", f"127.0.0.1:{free_port()}")
    too_short = cli.in_process("top", "--once", "--interval", "1ms")
    assert (outage.code, too_short.code) == (4, 2)
    assert outage.error.startswith("no sidecar answers at 127.0.0.1:")
    assert "at least 100ms" in too_short.error


def test_imports_of_other_commands() -> None:
    """The command line imports textual, rich and the clients only when a command needs them."""
    script = (
        "import sys; from session_notes_tools.command_line import app; "
        "print(sorted({'textual', 'session_notes', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
