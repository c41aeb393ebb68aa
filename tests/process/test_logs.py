"""The log: lines for people or JSON for programs, a line a call at debug, and nothing of users in it."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from tests.process.test_workers import several, workers
from tests.stores import StoreServer, valkey_program
from tests.support import CANARY, SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused

JSON = ("--log-format", "json")
GET_NOTES = "session_notes.v1.SessionNotes.GetNotes"


def lines(sidecar: Sidecar) -> list[dict[str, Any]]:
    """All it has logged: every line is an object with the keys that are always there."""
    found = [json.loads(line) for line in sidecar.log.splitlines()]
    for line in found:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
        assert line["time"].endswith("Z")
        age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
        assert timedelta() <= age < timedelta(minutes=5)
        assert line["level"] in {"debug", "info", "warning", "error"}
    return found


def test_a_call_is_a_line_of_json() -> None:
    """With `--log-format json -v` each call is one line, with method, code and time taken as keys of their own."""
    with Sidecar(flags=[*JSON, "-v"]) as sidecar, new_channel(sidecar.target) as channel:
        calls = SessionCalls(channel, f"{CANARY}-{new_session_id()}")
        calls.get_notes()
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            calls.get_notes(observer=f"{CANARY} is no name")
        said = [line for line in lines(sidecar) if line.get("method") == GET_NOTES]
        assert [(line["level"], line["code"]) for line in said] == [("debug", "OK"), ("debug", "INVALID_ARGUMENT")]
        assert all(0 < line["duration_ms"] < 10_000 for line in said)
        assert all(
            set(line) == {"time", "level", "logger", "message", "method", "code", "duration_ms"} for line in said
        )


def test_changes_of_state_are_lines_of_json() -> None:
    """So is the store's coming and going, and, without -v, no call."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=JSON) as sidecar:
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, new_session_id()).get_notes()
        store.kill()
        eventually(lambda: "NOT_SERVING" in sidecar.log)
        sidecar.terminate()
        said = lines(sidecar)
        assert [line["level"] for line in said if "NOT_SERVING" in line["message"]] == ["warning"]
        assert said[-1]["message"] == "stopped"
        assert not any("method" in line for line in said)


def test_a_call_is_a_line_for_people() -> None:
    """By default a line is text: with -v each call's method, status and time."""
    with Sidecar(flags=["-v"]) as sidecar, new_channel(sidecar.target) as channel:
        SessionCalls(channel, new_session_id()).get_notes()
        (line,) = [line for line in sidecar.log.splitlines() if GET_NOTES in line]
        assert f"DEBUG   {GET_NOTES}: OK in " in line
        assert line.endswith(" ms")


FOREIGN = """
import logging, warnings
from session_notes_server.sidecar import log_setup
from session_notes_server.settings import LogFormat

log_setup.configure(verbose=True, log_format=LogFormat.JSON, process="worker 7")
logging.getLogger("asyncio").warning("of %s\\nlines", "two")
logging.getLogger("grpc._cython.cygrpc").debug("chatter")
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("grpc._cython.cygrpc").exception("raised")
"""


def test_lines_of_others_are_json_too() -> None:
    """What gRPC, asyncio and Python itself log is a line each of the same form, a traceback and line ends included."""
    done = subprocess.run([sys.executable, "-c", FOREIGN], capture_output=True, text=True, timeout=30, check=True)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["level"], line["process"]) for line in said] == [
        ("asyncio", "warning", "worker 7"),
        ("py.warnings", "warning", "worker 7"),
        ("grpc._cython.cygrpc", "error", "worker 7"),
    ]
    assert said[0]["message"] == "of two\nlines"
    assert "ZeroDivisionError" in said[2]["traceback"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out a port's connections")
def test_workers_log_alike() -> None:
    """Workers log in the same form, and say which of them it is."""
    with several(flags=JSON) as sidecar:
        eventually(lambda: {line.get("process") for line in lines(sidecar)} >= {"worker 1", "worker 2", None})
        os.kill(workers(sidecar)[0], signal.SIGKILL)
        eventually(lambda: any("serves again" in line["message"] for line in lines(sidecar)))
