"""The data directory: any name, any owner that lets us write, and nothing in it that is not ours."""

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

from tests.process.test_refused_start import refused_with
from tests.stores import eventually, free_port
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id, program

ODD = 'a#b?c%41 d\ne"f'
FOREIGN = 12345


@pytest.mark.parametrize("flags", [[], pytest.param(["--workers", "2"], id="workers")])
def test_a_path_is_not_a_url(flags: list[str], session_id: str, tmp_path: Path) -> None:
    """A data directory and a unix socket are where their paths say, whatever these would mean in a URL."""
    if sys.platform != "linux" and flags:
        pytest.skip("only Linux shares out a port's connections")
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
def test_a_directory_that_is_not_ours_is_refused(name: str, tmp_path: Path) -> None:
    """A directory with files of something else is left as it is, its mode and its files, and the user is told so."""
    tmp_path.chmod(0o755)
    (tmp_path / name).write_text("precious")
    text = refused_with("holds files of something else", ["--data-dir", str(tmp_path)])
    assert f"--data-dir, such as {tmp_path}/session-notes" in text
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "precious"}


def test_an_empty_directory_keeps_its_mode(tmp_path: Path) -> None:
    """A directory made for us, a volume's own root for example, is used as it is; what we make in it is ours alone."""
    tmp_path.chmod(0o755)
    (tmp_path / "lost+found").mkdir(0o700)
    with Sidecar(data_dir=tmp_path), Path(tmp_path, "temp-mine").open("w") as file:
        file.write("precious")
    with Sidecar(data_dir=tmp_path) as sidecar:
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, new_session_id()).append_turns(1)
        ours = [path for path in tmp_path.iterdir() if path.name not in {"lost+found", "temp-mine"}]
        assert [path for path in ours if path.stat().st_mode & 0o077] == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (tmp_path / "temp-mine").read_text() == "precious"


def test_leftovers_of_our_own_are_removed() -> None:
    """Files that a killed rewrite left behind in a directory of ours go at the next start."""
    with Sidecar() as sidecar:
        sidecar.terminate()
        names = {"temp-rewriteaof-7.aof", "temp-rewriteaof-bg-7.aof", "temp-mended.aof", "temp-other.aof"}
        for name in names:
            (sidecar.data_dir / name).write_text("half")
        sidecar.start()
        assert [name for name in names if (sidecar.data_dir / name).exists()] == ["temp-other.aof"]


def test_a_directory_with_the_name_of_a_leftover_is_left_alone() -> None:
    """A directory in ours that is called like a leftover is not ours: it stays, and the store starts."""
    with Sidecar() as sidecar:
        sidecar.terminate()
        (sidecar.data_dir / "temp-rewriteaof-7.aof").mkdir()
        sidecar.start()
        assert (sidecar.data_dir / "temp-rewriteaof-7.aof").is_dir()


@pytest.mark.parametrize("name", ["sidecar.lock", "valkey.lock", "valkey.log"])
def test_a_file_of_another_user_is_refused_with_a_hint(name: str) -> None:
    """A volume that another user wrote before is refused with the words that an unwritable directory gets."""
    prefix = as_somebody(group=3000)
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
        assert f"must be writable for user {FOREIGN}" in done.stderr
    finally:
        shutil.rmtree(reachable)


def test_a_working_directory_that_is_deleted(tmp_path: Path) -> None:
    """A relative data directory in a working directory that is deleted is refused with a hint."""
    gone = tmp_path / "gone"
    gone.mkdir()
    command = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    serve = [*program(), "serve", "--listen", f"127.0.0.1:{free_port()}", "--data-dir", "data"]
    done = subprocess.run(
        ["/bin/sh", "-c", command, "sh", str(gone), *serve], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "write its whole path with --data-dir" in done.stderr


def test_another_programs_socket_is_left_alone(tmp_path: Path) -> None:
    """A socket that no sidecar made is not removed to listen in its place."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        refused_with("another file has this path", ["--listen", f"unix:{tmp_path}/s", "--data-dir", f"{tmp_path}/data"])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))


def as_somebody(*, group: int = 0, groups: tuple[int, ...] = ()) -> list[str]:
    """The start of a command that runs as another user, who may read what root has installed."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    others = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    reads = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return ["setpriv", "--reuid", str(FOREIGN), "--regid", str(group), *others, *reads]


@pytest.mark.parametrize(
    ("owner", "group", "mode", "user"),
    [
        pytest.param(0, 2000, 0o2775, {"group": 3000, "groups": (2000,)}, id="fsGroup"),
        pytest.param(0, 0, 0o775, {"group": 0}, id="an arbitrary user of group 0"),
        pytest.param(0, 0, 0o1777, {"group": 3000}, id="a directory for everybody"),
    ],
)
def test_a_volume_of_anothers(owner: int, group: int, mode: int, user: dict[str, Any], tmp_path: Path) -> None:
    """A volume's root belongs to root; whoever may write to it can keep data there."""
    prefix = as_somebody(**user)
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
    ("arguments", "said"),
    [
        pytest.param(["--data-dir", "/usr/share"], "files of something else", id="a directory of the system"),
        pytest.param(["--data-dir", "/var/session-notes"], "Permission denied", id="a parent that others own"),
        pytest.param(["--data-dir", "~/data"], "no home directory", id="a home directory that is none"),
        pytest.param([], "has no home directory", id="nothing said"),
    ],
)
def test_a_user_without_a_home(arguments: list[str], said: str) -> None:
    """Without HOME, and as a user whom the system does not know, `serve` refuses what it cannot use, with a hint."""
    done = subprocess.run([*as_somebody(), *program(), "serve", *arguments], **_homeless())
    assert said in done.stderr
    assert "--data-dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"], ["notes", "get", "--help"]])
def test_a_command_that_needs_no_home(arguments: list[str]) -> None:
    """Commands that keep nothing do without a home directory."""
    done = subprocess.run([*as_somebody(), *program(), *arguments], **_homeless())
    assert done.returncode == 0, done.stderr


def _homeless() -> dict[str, Any]:
    kept = ("HOME", "XDG_DATA_HOME")
    env = {name: text for name, text in os.environ.items() if name not in kept}
    return {"env": env, "capture_output": True, "text": True, "timeout": 20}
