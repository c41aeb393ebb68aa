"""The log: text or JSON lines, one line per call at debug level, and no user data."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from tests.stores import StoreServer, valkey_program
from tests.support import CANARY, SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused
from tests.worker_processes import sidecar_with_workers, workers

JSON = ("--log-format", "json")
GET_NOTES = "session_notes.v1.SessionNotes.GetNotes"


def lines(sidecar: Sidecar) -> list[dict[str, Any]]:
    """Return all log lines, each an object with the required keys."""
    objects = [json.loads(line) for line in sidecar.log.splitlines()]
    for line in objects:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
        assert line["time"].endswith("Z")
        age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
        assert timedelta() <= age < timedelta(minutes=5)
        assert line["level"] in {"debug", "info", "warning", "error"}
    return objects


def test_a_call_is_a_json_line() -> None:
    """With `--log-format json -v`, each call is one line with the keys method, code and duration_ms."""
    with Sidecar(flags=[*JSON, "-v"]) as sidecar, new_channel(sidecar.target) as channel:
        calls = SessionCalls(channel, f"{CANARY}-{new_session_id()}")
        calls.get_notes()
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            calls.get_notes(observer=f"{CANARY} is not a name")
        logged = [line for line in lines(sidecar) if line.get("method") == GET_NOTES]
        assert [(line["level"], line["code"]) for line in logged] == [("debug", "OK"), ("debug", "INVALID_ARGUMENT")]
        assert all(0 < line["duration_ms"] < 10_000 for line in logged)
        assert all(
            set(line) == {"time", "level", "logger", "message", "method", "code", "duration_ms"} for line in logged
        )


def test_a_state_change_is_a_json_line() -> None:
    """An outage of the store is a JSON line. Without -v, calls are not logged."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=JSON) as sidecar:
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, new_session_id()).get_notes()
        store.kill()
        eventually(lambda: "NOT_SERVING" in sidecar.log)
        sidecar.terminate()
        logged = lines(sidecar)
        assert [line["level"] for line in logged if "NOT_SERVING" in line["message"]] == ["warning"]
        assert logged[-1]["message"] == "stopped"
        assert not any("method" in line for line in logged)


def test_a_call_is_a_text_line() -> None:
    """By default, lines are text. With -v, each call is logged with its method, status and time."""
    with Sidecar(flags=["-v"]) as sidecar, new_channel(sidecar.target) as channel:
        SessionCalls(channel, new_session_id()).get_notes()
        (line,) = [line for line in sidecar.log.splitlines() if GET_NOTES in line]
        assert f"DEBUG   {GET_NOTES}: OK in " in line
        assert line.endswith(" ms")


OTHER_LOGGERS = """
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


def test_lines_of_libraries_are_json() -> None:
    """Lines of gRPC, asyncio and Python's warnings are JSON too, with tracebacks and line ends inside."""
    done = subprocess.run([sys.executable, "-c", OTHER_LOGGERS], capture_output=True, text=True, timeout=30, check=True)
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["level"], line["process"]) for line in logged] == [
        ("asyncio", "warning", "worker 7"),
        ("py.warnings", "warning", "worker 7"),
        ("grpc._cython.cygrpc", "error", "worker 7"),
    ]
    assert logged[0]["message"] == "of two\nlines"
    assert "ZeroDivisionError" in logged[2]["traceback"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares a port's connections")
def test_workers_log_in_the_same_format() -> None:
    """Workers log in the same format, with their names."""
    with sidecar_with_workers(flags=JSON) as sidecar:
        eventually(lambda: {line.get("process") for line in lines(sidecar)} >= {"worker 1", "worker 2", None})
        os.kill(workers(sidecar)[0], signal.SIGKILL)
        eventually(lambda: any("serves again" in line["message"] for line in lines(sidecar)))
