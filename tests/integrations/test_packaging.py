"""What is published: a wheel that stands alone, with its types, and no more than that."""

import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.integrations.container import ROOT


def run(*command: str | Path, status: int = 0) -> str:
    """What a program says; an AssertionError where it ends in another way."""
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd="/")
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def wheel_in(folder: Path) -> Path:
    """The only wheel in a folder."""
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def fresh(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what that alone brings."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    install = ("-m", "pip", "--python", home / "bin/python", "install", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *install, wheel_in(distributions))
    return home


def test_twine_takes_both(distributions: Path) -> None:
    """Metadata are in order, and the long description renders."""
    files = sorted(distributions.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    assert "WARNING" not in run(sys.executable, "-m", "twine", "check", "--strict", *files)


def test_the_wheel_holds_the_two_packages_alone(distributions: Path) -> None:
    """Code, types, generated stubs and scripts of the store; no tests, no examples, no byte code."""
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


def test_the_sdist_makes_the_same_wheel(distributions: Path, tmp_path: Path) -> None:
    """A wheel from the checkout is, file by file, the one from the sdist, which has the sources that are committed."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    ours, theirs = (zipfile.ZipFile(wheel_in(folder)) for folder in (tmp_path, distributions))
    assert {name: ours.read(name) for name in ours.namelist()} == {
        name: theirs.read(name) for name in theirs.namelist()
    }
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    committed = run("git", "-C", ROOT, "ls-files", "clients/python", "server", "protos", "tests", "docs", "deploy")
    assert set(committed.split()) <= packed
    assert not [name for name in packed if name.startswith((".ci/", ".venv", "tokens/"))]


def test_the_client_brings_grpc_and_protobuf_alone(fresh: Path) -> None:
    """A plain install is light: gRPC and protobuf, and what gRPC needs itself."""
    listed = run(sys.executable, "-m", "pip", "--python", fresh / "bin/python", "list", "--format=freeze")
    names = {line.partition("==")[0].partition(" @")[0] for line in listed.split("\n") if "=" in line or "@" in line}
    assert names == {"grpcio", "protobuf", "session-notes", "typing_extensions"}
    said = "import session_notes; print(session_notes.PrimaryClient.__name__)"
    assert run(fresh / "bin/python", "-I", "-c", said).strip() == "PrimaryClient"


def test_the_command_says_what_it_needs(fresh: Path) -> None:
    """Without the extra `server` the command ends with 1, and says what to install."""
    said = run(fresh / "bin/session-notes", "serve", status=1)
    assert "pip install '.[server]' in its checkout" in said
    assert "Traceback" not in said


def test_the_extra_brings_the_command(installed: Path) -> None:
    """With it the version is the one of pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert list(installed.glob(f"lib/python*/site-packages/session_notes-{version}.dist-info"))
    assert (installed / "bin/session-notes").exists()


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


def test_types_are_known_where_it_is_installed(fresh: Path, tmp_path: Path) -> None:
    """mypy sees the types of the installed package, those of generated code too, and finds a wrong use."""
    script = tmp_path / "typed.py"
    script.write_text(TYPED)
    checker = ("-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "--python-executable", fresh / "bin/python")
    said = run(sys.executable, *checker, script, status=1)
    assert re.findall(r'Revealed type is "(.*)"', said.replace("builtins.", "")) == [
        "int | None",
        "session_notes._types.Notes | None",
        "str",
    ]
    assert re.findall(r"error: .*\[(.*)\]", said) == ["operator", "arg-type"]
