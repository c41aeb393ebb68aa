"""The data directory: any path, any owner if the sidecar can write to it, and no foreign files."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from tests.refused_starts import assert_refused
from tests.stores import eventually, free_port
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id, program

ODD = 'a#b?c%41 d\ne"f'
FOREIGN = 12345


@pytest.mark.parametrize("flags", [[], pytest.param(["--workers", "2"], id="workers")])
def test_a_path_is_not_a_url(flags: list[str], session_id: str, tmp_path: Path) -> None:
    """Paths of the data directory and the unix socket are not parsed as URLs."""
    if sys.platform != "linux" and flags:
        pytest.skip("only Linux shares a port's connections")
    home = Path("/tmp") / f"{ODD}{os.getpid()}"
    home.mkdir(mode=0o700)
    try:
        with Sidecar(data_dir=home / "data", flags=["--listen", f"unix:{home}/s", *flags]) as sidecar:
            assert (home / "data" / "valkey.sock").is_socket()
            eventually((home / "s").is_socket)
            with new_channel(f"unix:{quote(str(home / 's'))}") as channel:
                SessionCalls(channel, session_id).append_turns(1)
            sidecar.restart()
            with new_channel(sidecar.target) as channel:
                assert SessionCalls(channel, session_id).get_session().turn_count == 1
        assert {path.name for path in home.iterdir()} <= {"data", "s", "s.lock"}
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize("name", ["temp-1.aof", "temp-rewriteaof-7.aof", "notes.txt"])
def test_a_directory_with_foreign_files_is_refused(name: str, tmp_path: Path) -> None:
    """A directory with foreign files is refused, and keeps its mode and its files."""
    tmp_path.chmod(0o755)
    (tmp_path / name).write_text("precious")
    text = assert_refused("contains files of another program", ["--data-dir", str(tmp_path)])
    assert f"--data-dir, such as {tmp_path}/session-notes" in text
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "precious"}


def test_an_empty_directory_keeps_its_mode(tmp_path: Path) -> None:
    """An existing directory, such as a volume's root, keeps its mode; files created in it have mode 600."""
    tmp_path.chmod(0o755)
    (tmp_path / "lost+found").mkdir(0o700)
    with Sidecar(data_dir=tmp_path), Path(tmp_path, "temp-mine").open("w") as file:
        file.write("precious")
    with Sidecar(data_dir=tmp_path) as sidecar:
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, new_session_id()).append_turns(1)
        created = [path for path in tmp_path.iterdir() if path.name not in {"lost+found", "temp-mine"}]
        assert [path for path in created if path.stat().st_mode & 0o077] == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (tmp_path / "temp-mine").read_text() == "precious"


def test_leftovers_are_removed() -> None:
    """Temporary files of a killed rewrite are removed at the next start."""
    with Sidecar() as sidecar:
        sidecar.terminate()
        names = {"temp-rewriteaof-7.aof", "temp-rewriteaof-bg-7.aof", "temp-mended.aof", "temp-other.aof"}
        for name in names:
            (sidecar.data_dir / name).write_text("half")
        sidecar.start()
        assert [name for name in names if (sidecar.data_dir / name).exists()] == ["temp-other.aof"]


def test_a_directory_named_like_a_leftover_is_kept() -> None:
    """A directory with the name of a temporary file is kept, and the store starts."""
    with Sidecar() as sidecar:
        sidecar.terminate()
        (sidecar.data_dir / "temp-rewriteaof-7.aof").mkdir()
        sidecar.start()
        assert (sidecar.data_dir / "temp-rewriteaof-7.aof").is_dir()


@pytest.mark.parametrize("name", ["sidecar.lock", "valkey.lock", "valkey.log"])
def test_a_file_of_another_user_is_refused_with_a_hint(name: str) -> None:
    """A volume with a file of another user is refused with the hint for an unwritable directory."""
    prefix = as_other_user(group=3000)
    reachable = Path(f"/tmp/volume-{os.getpid()}")
    reachable.mkdir()
    try:
        reachable.chmod(0o777)
        for file in {name, "sidecar.lock"}:
            (reachable / file).touch(0o600)
            os.chown(reachable / file, 0 if file == name else FOREIGN, 3000)
        command = [*prefix, *program(), "serve", "--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(reachable)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode != 0
        assert f"must be writable by user {FOREIGN}" in done.stderr
    finally:
        shutil.rmtree(reachable)


def test_a_deleted_working_directory(tmp_path: Path) -> None:
    """A relative data directory in a deleted working directory is refused with a hint."""
    gone = tmp_path / "gone"
    gone.mkdir()
    command = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    serve = [*program(), "serve", "--listen", f"127.0.0.1:{free_port()}", "--data-dir", "data"]
    done = subprocess.run(
        ["/bin/sh", "-c", command, "sh", str(gone), *serve], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "give an absolute path with --data-dir" in done.stderr


def test_a_foreign_socket_is_kept(tmp_path: Path) -> None:
    """The socket of another program is not removed to listen in its place."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        assert_refused("another file", ["--listen", f"unix:{tmp_path}/s", "--data-dir", f"{tmp_path}/data"])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))


def as_other_user(*, group: int = 0, groups: tuple[int, ...] = ()) -> list[str]:
    """Return the start of a command that runs as another user, who can read files that root installed."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    others = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    capabilities = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return ["setpriv", "--reuid", str(FOREIGN), "--regid", str(group), *others, *capabilities]


@pytest.mark.parametrize(
    ("owner", "group", "mode", "user"),
    [
        pytest.param(0, 2000, 0o2775, {"group": 3000, "groups": (2000,)}, id="fsGroup"),
        pytest.param(0, 0, 0o775, {"group": 0}, id="an arbitrary user of group 0"),
        pytest.param(0, 0, 0o1777, {"group": 3000}, id="a directory with the sticky bit"),
    ],
)
def test_a_volume_of_root(owner: int, group: int, mode: int, user: dict[str, Any], tmp_path: Path) -> None:
    """A volume's root belongs to root; any user that may write to it can use it as the data directory."""
    prefix = as_other_user(**user)
    reachable = Path(f"/tmp/volume-{os.getpid()}")
    reachable.mkdir()
    try:
        os.chown(reachable, owner, group)
        reachable.chmod(mode)
        (reachable / "lost+found").mkdir(mode=0o700)
        target = f"127.0.0.1:{free_port()}"
        command = [*prefix, *program(), "serve", "--listen", target, "--data-dir", str(reachable)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "HOME": "/"}) as process:
            try:
                eventually(lambda: process.poll() is not None or _answers(target), 20)
                assert process.poll() is None, process.stderr and process.stderr.read()
            finally:
                process.terminate()
        assert stat.S_IMODE(reachable.stat().st_mode) == mode
    finally:
        shutil.rmtree(reachable)


def _answers(target: str) -> bool:
    with new_channel(target) as channel:
        try:
            return SessionCalls(channel, new_session_id()).append_turns(1) == 1
        except grpc.RpcError:
            return False


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["--data-dir", "/usr/share"], "files of another program", id="a directory of the system"),
        pytest.param(["--data-dir", "/var/session-notes"], "Permission denied", id="a parent of another user"),
        pytest.param(["--data-dir", "~/data"], "no home directory", id="no home directory"),
        pytest.param([], "has no home directory", id="the default"),
    ],
)
def test_a_user_without_a_home(arguments: list[str], text: str) -> None:
    """Without HOME and for an unknown user, `serve` refuses a data directory that it cannot use, with a hint."""
    done = subprocess.run([*as_other_user(), *program(), "serve", *arguments], **_homeless())
    assert text in done.stderr
    assert "--data-dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"], ["notes", "get", "--help"]])
def test_a_command_that_needs_no_home(arguments: list[str]) -> None:
    """Commands that store nothing need no home directory."""
    done = subprocess.run([*as_other_user(), *program(), *arguments], **_homeless())
    assert done.returncode == 0, done.stderr


def _homeless() -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_DATA_HOME")}
    return {"env": env, "capture_output": True, "text": True, "timeout": 20}
