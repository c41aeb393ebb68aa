"""The cost of `import session_notes`, and the target that its clients use."""

import ast
import graphlib
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

LAZY_MODULES = {f"session_notes.{module}" for module in session_notes._LAZY.values()}


def python(program: str) -> str:
    """Return the output of a Python program in a new process."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_is_light() -> None:
    """Importing the client imports only grpcio, protobuf and the standard library, and only the necessary parts."""
    program = "import sys; before = set(sys.modules); import session_notes; print(*set(sys.modules) - before)"
    imported = set(python(program).split())
    grpcs_own = set(python(program.replace("session_notes", "grpc.aio")).split())
    packages = {name.partition(".")[0] for name in imported - grpcs_own} - sys.stdlib_module_names
    assert packages <= {"google", "session_notes"}
    unneeded = {"google.protobuf.json_format", "uuid", "random", "session_notes.status.v1.status_pb2", "redis"}
    assert not (unneeded | LAZY_MODULES) & imported
    assert not {name for name in imported if name.endswith("_pb2_grpc")}, "the clients need no stubs"


def test_every_public_name_can_be_imported() -> None:
    """Every name in `__all__` exists and is listed by `dir`, including those that are imported at their first use."""
    listed = python("import session_notes; print(*dir(session_notes))").split()
    assert set(session_notes.__all__) <= set(listed)
    python("from session_notes import *")
    with pytest.raises(AttributeError, match="no attribute 'NoClient'"):
        session_notes.NoClient  # type: ignore[attr-defined]  # noqa: B018


def test_only_the_transport_imports_grpc() -> None:
    """Only the modules that open channels, send calls and translate errors import grpc."""
    package = Path(session_notes.__file__).parent
    users = {path.name for path in package.glob("*.py") if "import grpc" in path.read_text()}
    assert users == {"_channel.py", "_errors.py", "_retries.py", "_transport.py", "_async_transport.py"}


def imports_at_import(module: Path) -> set[str]:
    """Return the private modules that a module imports at its own import, not later or for types only."""
    names: set[str] = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "session_notes":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("session_notes._"):
            names.add((node.module or "").split(".")[1])
    return names


def test_no_circular_imports() -> None:
    """The modules of the package have no circular imports."""
    package = Path(session_notes.__file__).parent
    imported = {path.stem: imports_at_import(path) for path in package.glob("_*.py") if path.stem != "__init__"}
    assert len(imported) > 30
    graphlib.TopologicalSorter(imported).prepare()


def test_the_environment_provides_the_target(
    sidecar: Sidecar, unreachable: str, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a target, SESSION_NOTES_TARGET is used. A target takes precedence."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    with PrimaryClient() as primary:
        assert primary.append_turns(session_id, [Turn("user", "x")]) == 1
    monkeypatch.setenv("SESSION_NOTES_TARGET", unreachable)
    with PrimaryClient(sidecar.target) as primary:
        assert primary.get_session(session_id).turn_count == 1
    with PrimaryClient() as primary, pytest.raises(Unavailable):
        primary.get_notes(session_id)


def test_a_unix_socket_is_a_target(session_id: str) -> None:
    """`unix:/path` is a valid target."""
    with (
        tempfile.TemporaryDirectory() as home,
        Sidecar(listen=f"unix:{home}/sidecar.sock") as sidecar,
        PrimaryClient(sidecar.target) as primary,
    ):
        assert primary.append_turns(session_id, [Turn("user", "x")]) == 1


def test_calls_bypass_an_http_proxy(
    sidecar: Sidecar, unreachable: str, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that http_proxy sets for the internet does not get the sidecar's calls."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://{unreachable}")
    with PrimaryClient(sidecar.target) as primary:
        assert json.dumps(primary.get_notes(session_id).as_tool_result())
    assert os.environ["http_proxy"]
