"""What `import session_notes` costs, and where its clients look for a sidecar."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import session_notes
from session_notes import PrimaryClient, Turn, Unavailable

from tests.support import Sidecar


def python(program: str) -> str:
    """What a program of its own prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_is_light() -> None:
    """Nothing beyond grpcio, protobuf and Python itself is imported, and of these nothing that is not needed."""
    program = "import sys; before = set(sys.modules); import session_notes; print(*set(sys.modules) - before)"
    imported = set(python(program).split())
    grpcs_own = set(python(program.replace("session_notes", "grpc.aio")).split())
    packages = {name.partition(".")[0] for name in imported - grpcs_own} - sys.stdlib_module_names
    assert packages <= {"google", "session_notes"}
    unneeded = {"google.protobuf.json_format", "uuid", "random", "session_notes.status.v1.status_pb2", "redis"}
    assert not unneeded & imported
    assert not {name for name in imported if name.endswith("_pb2_grpc")}, "the clients need no stubs"


def test_nothing_but_the_transport_knows_grpc() -> None:
    """One module makes channels, one sends, one translates errors."""
    package = Path(session_notes.__file__).parent
    users = {path.name for path in package.glob("*.py") if "import grpc" in path.read_text()}
    assert users == {"_channel.py", "_errors.py", "_retries.py", "_transport.py", "_async_transport.py"}


def test_the_environment_names_the_sidecar(
    sidecar: Sidecar, nobody: str, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a target, SESSION_NOTES_TARGET counts; a target wins over it."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    with PrimaryClient() as primary:
        assert primary.append_turns(session_id, [Turn("user", "x")]) == 1
    monkeypatch.setenv("SESSION_NOTES_TARGET", nobody)
    with PrimaryClient(sidecar.target) as primary:
        assert primary.get_session(session_id).turn_count == 1
    with PrimaryClient() as primary, pytest.raises(Unavailable):
        primary.get_notes(session_id)


def test_a_unix_socket_is_a_target(session_id: str) -> None:
    """`unix:/path` is an address like any other."""
    with (
        tempfile.TemporaryDirectory() as home,
        Sidecar(listen=f"unix:{home}/sidecar.sock") as sidecar,
        PrimaryClient(sidecar.target) as primary,
    ):
        assert primary.append_turns(session_id, [Turn("user", "x")]) == 1


def test_a_proxy_for_the_world_is_not_for_the_sidecar(
    sidecar: Sidecar, nobody: str, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An http_proxy that is set for everything else does not come in between."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://{nobody}")
    with PrimaryClient(sidecar.target) as primary:
        assert json.dumps(primary.get_notes(session_id).as_tool_result())
    assert os.environ["http_proxy"]
