"""The distributions: a self-contained wheel with types, and the sdist it is built from."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.integrations.base_image import ROOT
from tests.support import eventually


def run(*command: str | Path, status: int = 0) -> str:
    """Return the output of a program.

    Raises:
        AssertionError: If it exits with another status.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def wheel_in(folder: Path) -> Path:
    """Return the only wheel in a folder."""
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def client_environment(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its required packages."""
    home = tmp_path_factory.mktemp("client") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    install = ("-m", "pip", "--python", home / "bin/python", "install", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *install, wheel_in(distributions))
    return home


def test_metadata(distributions: Path) -> None:
    """twine accepts both distributions, and the long description renders."""
    files = sorted(distributions.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    assert "WARNING" not in run(sys.executable, "-m", "twine", "check", "--strict", *files)


def test_wheel_contents(distributions: Path) -> None:
    """The wheel has the three packages with types, stubs and Lua scripts, without tests, examples or bytecode."""
    names = set(zipfile.ZipFile(wheel_in(distributions)).namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "session_notes",
        "session_notes_server",
        "session_notes_tools",
    }
    assert {Path(name).suffix for name in names if "dist-info" not in name} == {".py", ".pyi", ".typed", ".lua"}
    assert {"session_notes/py.typed", "session_notes_server/py.typed", "session_notes_tools/py.typed"} <= names
    for module in ("session_notes", "notes", "session_state", "turn"):
        assert f"session_notes/v1/{module}_pb2.pyi" in names
    assert not {part for name in names for part in name.split("/")} & {"tests", "examples", "__pycache__"}


def test_sdist_contents(distributions: Path, tmp_path: Path) -> None:
    """The sdist has all committed sources, and its wheel equals one built from the checkout."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    from_checkout, from_sdist = (zipfile.ZipFile(wheel_in(folder)) for folder in (tmp_path, distributions))
    assert {name: from_checkout.read(name) for name in from_checkout.namelist()} == {
        name: from_sdist.read(name) for name in from_sdist.namelist()
    }
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    committed = run(
        "git", "-C", ROOT, "ls-files", "clients/python", "server", "tools", "protos", "tests", "docs", "deploy"
    )
    assert set(committed.split()) <= packed
    assert not [name for name in packed if name.startswith((".ci/", ".venv", "tokens/"))]


def test_builds_are_reproducible(distributions: Path, tmp_path: Path) -> None:
    """Another checkout, with other times and modes of its files, results in the same bytes."""
    checkout = tmp_path / "another checkout"
    for name in run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            (checkout / name).write_bytes((ROOT / name).read_bytes())
            (checkout / name).chmod(0o700 if os.access(ROOT / name, os.X_OK) else 0o600)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", checkout)
    rebuilt, built = (
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
        for folder in (tmp_path / "dist", distributions)
    )
    assert rebuilt == built


@pytest.mark.parametrize("tool", ["uv", "pipx"])
def test_installation_as_a_tool(tool: str, distributions: Path) -> None:
    """`uv tool install` and `pipx install` result in a command that serves, in a path with spaces."""
    home = Path(tempfile.mkdtemp(prefix="session notes "))  # Short, as it holds a unix socket.
    folders = {name: str(home / name) for name in ("UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "PIPX_HOME", "PIPX_BIN_DIR")}
    env = os.environ | folders | {"SESSION_NOTES_TARGET": f"unix:{home}/s"}
    install = {"uv": ["-m", "uv", "tool", "install", "--python", sys.executable], "pipx": ["-m", "pipx", "install"]}
    command = home / {"uv": "UV_TOOL_BIN_DIR", "pipx": "PIPX_BIN_DIR"}[tool] / "session-notes"
    try:
        subprocess.run([sys.executable, *install[tool], f"{wheel_in(distributions)}[server]"], env=env, check=True)
        python = next(home.glob("**/session-notes/bin/python"))
        assert run(python, "-P", "-m", "session_notes_tools", "--version") == run(command, "--version")
        serve = [str(command), "serve", "--data-dir", f"{home}/the data", "--listen", env["SESSION_NOTES_TARGET"]]
        with subprocess.Popen(serve, env=env) as sidecar:
            try:
                eventually(lambda: subprocess.run([str(command), "health"], env=env, check=False).returncode == 0, 30)
            finally:
                sidecar.terminate()
            assert sidecar.wait(30) == 0
    finally:
        shutil.rmtree(home)


def test_client_requirements(client_environment: Path) -> None:
    """A plain install has only gRPC, protobuf and gRPC's own requirements."""
    packages = run(
        sys.executable, "-m", "pip", "--python", client_environment / "bin/python", "list", "--format=freeze"
    )
    names = {line.partition("==")[0].partition(" @")[0] for line in packages.split("\n") if "=" in line or "@" in line}
    assert names == {"grpcio", "protobuf", "session-notes", "typing_extensions"}
    script = "import session_notes; print(session_notes.PrimaryClient.__name__)"
    assert run(client_environment / "bin/python", "-I", "-c", script).strip() == "PrimaryClient"


def test_command_without_the_extra(client_environment: Path) -> None:
    """Without the extra `server`, the command exits with 1 and names it."""
    output = run(client_environment / "bin/session-notes", "serve", status=1)
    assert "pip install '.[server]' in its checkout" in output
    assert "Traceback" not in output


TYPED = """
from session_notes import Notes, PrimaryClient, Turn
from session_notes.v1.notes_pb2 import Notes as Message

with PrimaryClient() as primary:
    reading = primary.get_notes("s1")
    reveal_type(reading.turns_behind)
    reveal_type(reading.notes)
    reveal_type(Message().summary)
    reading.ready + "no number"
    primary.append_turns("s1", "no turns")
"""


def test_types_of_the_installed_package(client_environment: Path, tmp_path: Path) -> None:
    """mypy uses the installed package's types, including generated code, and finds wrong uses."""
    script = tmp_path / "typed.py"
    script.write_text(TYPED)
    checker = (
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        tmp_path / "cache",
        "--python-executable",
        client_environment / "bin/python",
    )
    output = run(sys.executable, *checker, script, status=1)
    assert re.findall(r'Revealed type is "(.*)"', output.replace("builtins.", "")) == [
        "int | None",
        "session_notes._types.Notes | None",
        "str",
    ]
    assert re.findall(r"error: .*\[(.*)\]", output) == ["operator", "arg-type"]
