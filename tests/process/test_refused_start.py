"""Refused starts: the exit code is not 0, and the error tells the operator what to do."""

import os
import re
import resource
import socket
import subprocess
from pathlib import Path

import grpc
import pytest
from session_notes_server.rpc.connections import connections_per_address
from session_notes_server.settings import DEFAULT_ADDRESS, Settings

from tests.refused_starts import SECRET, assert_refused, assert_serving, run_serve
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, free_port, new_channel, program, status_of


def test_an_error_is_one_line_with_verbose_too() -> None:
    """With `-v`, an invalid setting is still reported in one line, without a traceback."""
    done = subprocess.run(
        [*program(), "serve", "-v", "--metrics-listen", "9464"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["--no-such-flag"], "--no-such-flag", id="an unknown flag"),
        pytest.param(["--redis-url", "http://localhost"], "redis://", id="a scheme that is not Redis's"),
        pytest.param(["--redis-url", "localhost:6379"], "redis://", id="no scheme"),
        pytest.param(["--redis-url", "redis+sentinel://127.0.0.1:1"], "sentinel", id="a Sentinel without a service"),
        pytest.param(["--redis-url", "redis://127.0.0.1:port"], "redis", id="a port that is not a number"),
        pytest.param(["--listen", "127.0.0.1:99999"], "99999", id="a port out of range"),
        pytest.param(["--listen", "127.0.0.1"], "127.0.0.1", id="no port"),
        pytest.param(["--listen", "unix:"], "unix:", id="a unix socket without a path"),
        pytest.param(["--listen", "unix:/" + "a" * 120], "107", id="a unix socket's path that is too long"),
        pytest.param(["--session-ttl", "soon"], "--session-ttl", id="not a span"),
        pytest.param(["--session-ttl", "0s"], "--session-ttl", id="sessions that expire at once"),
        pytest.param(["--session-ttl", "-1h"], "--session-ttl", id="a negative span"),
        pytest.param(["--session-ttl", "24"], "--session-ttl", id="a span without a unit"),
        pytest.param(["--prefix", "a{b}"], "prefix", id="a prefix with a hash tag"),
        pytest.param(["--prefix", ""], "prefix", id="no prefix"),
        pytest.param(["--max-batch", "0"], "--max-batch", id="a limit of 0"),
        pytest.param(["--listen", "unix:s"], "absolute", id="a relative path of a unix socket"),
        pytest.param(["--data-dir", "/" + "a" * 120], "--data-dir", id="a data directory whose path is too long"),
        pytest.param(
            ["--metrics-listen", "127.0.0.1"], "cannot serve metrics on", id="an address for metrics without a port"
        ),
        pytest.param(["--log-format", "xml"], "'text', 'json'", id="an unknown log format"),
        pytest.param(
            ["--listen", "0.0.0.0:0", "--insecure-listen", "--channelz"],
            "--channelz",
            id="channelz on the network",
        ),
        pytest.param(["--tls-cert", "pem"], "--tls-key", id="a certificate without its key"),
        pytest.param(["--tls-roles", "roles"], "--tls-client-ca", id="roles without client certificates"),
        pytest.param(["--redis-cert", "pem"], "--redis-key", id="a certificate for Redis without its key"),
        pytest.param(["--min-replicas-acked", "1"], "--redis-url", id="replicas of the embedded store"),
    ],
)
def test_an_invalid_setting(arguments: list[str], text: str) -> None:
    """For an invalid setting, the exit code is 2, and the error names the flag and not its variable."""
    status, output = run_serve(*arguments)
    assert status == 2
    assert text in output
    assert "SESSION_NOTES_" not in output
    assert "Traceback" not in output
    assert "unexpected" not in output


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        pytest.param("SESSION_NOTES_SESSION_TTL", "soon", "SESSION_NOTES_SESSION_TTL", id="not a span"),
        pytest.param("SESSION_NOTES_REDIS_URL", "http://localhost", "redis://", id="a scheme that is not Redis's"),
        pytest.param("SESSION_NOTES_LISTEN", "nowhere", "nowhere", id="not an address"),
        pytest.param("SESSION_NOTES_LISTEN", "127.0.0.1:0 here", "cannot listen on here:", id="the second of two"),
        pytest.param("SESSION_NOTES_LOG_FORMAT", "xml", "SESSION_NOTES_LOG_FORMAT", id="an unknown log format"),
        pytest.param("SESSION_NOTES_CHANNELZ", "perhaps", "SESSION_NOTES_CHANNELZ", id="not a boolean"),
    ],
)
def test_an_invalid_variable(name: str, content: str, text: str) -> None:
    """An invalid variable is refused like an invalid flag."""
    status, output = run_serve(env={name: content})
    assert status == 2
    assert "Traceback" not in output
    assert text in output


def test_an_empty_variable_is_ignored() -> None:
    """An empty variable, which compose and Kubernetes often leave behind, counts as absent."""
    _, help_text = run_serve("--help")
    empty = dict.fromkeys(re.findall(r"\[env: (\w+)\]", help_text), "")
    assert len(empty) > 20
    status, text = run_serve("--metrics-listen", "127.0.0.1", env=empty)
    assert status == 2
    assert text.startswith("error: cannot serve metrics on")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["--data-dir", "/dev/null"], "/dev/null", id="a data directory that is a file"),
        pytest.param(["--tokens-dir", "/no/such"], "/no/such does not exist", id="no directory of tokens"),
        pytest.param(["--tls-cert", "/no/such", "--tls-key", "/no/key"], "/no/such", id="no certificate file"),
        pytest.param(["--listen", "nowhere.invalid:1"], "nowhere.invalid", id="an unknown host"),
    ],
)
def test_a_missing_file_or_address(arguments: list[str], text: str) -> None:
    """If a valid setting names something that this machine lacks, the exit code is 1."""
    assert_refused(text, arguments)


def test_help_lists_every_setting() -> None:
    """`--help` lists every setting with its variable and its default."""
    status, text = run_serve("--help")
    assert status == 0
    for setting in ("listen", "redis-url", "data-dir", "prefix", "session-ttl"):
        assert f"--{setting}" in text
        assert f"SESSION_NOTES_{setting.replace('-', '_').upper()}" in text
    for default in (DEFAULT_ADDRESS, "24h", "session-notes"):
        assert default in text


def test_a_taken_port_is_an_error() -> None:
    """A taken port is an error that names the address; the port is never shared silently."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_refused(address, ["--listen", address])


def test_a_hint_for_make() -> None:
    """Under `make run`, the hint shows how to pass flags through make."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        makefile = Path(__file__).parents[2]
        done = subprocess.run(
            ["make", "--no-print-directory", "-o", ".venv/run", "run", f"ARGS=--listen {address}"],
            cwd=makefile,
            env={**os.environ, "XDG_DATA_HOME": "/nowhere"},
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert f"cannot listen on {address}: it is in use" in done.stderr
    assert 'make run ARGS="--listen ..."' in done.stderr


@pytest.mark.parametrize(("files", "starts"), [(20, False), (64, True)])
def test_few_descriptors(files: int, starts: bool, tmp_path: Path) -> None:
    """Too low a limit on open files is reported at once; just above it, each address accepts connections."""
    limit = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    ports = free_port(), free_port()
    listen = [word for port in ports for word in ("--listen", f"127.0.0.1:{port}")]
    command = [*limit, *program(), "serve", "--data-dir", str(tmp_path / "data"), *listen]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        if not starts:
            _, output = process.communicate(timeout=20)
            assert "(ulimit -n)" in output
            assert len(output.splitlines()) == 1
            assert process.returncode == 1
            return
        try:
            for port in ports:
                with new_channel(f"127.0.0.1:{port}") as channel:
                    session = SessionCalls(channel, f"s{port}")
                    eventually(lambda: status_of(session.append_turns) is grpc.StatusCode.OK, 20)  # noqa: B023
        finally:
            process.terminate()


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, 2**31, 2**63 - 1])
def test_an_unlimited_number_of_descriptors(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit, or one above what gRPC can count, allows as many connections as gRPC can count."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert 10**8 < connections_per_address(Settings()) < 2**31


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_noticed_before_a_store_is_started(workers: str, tmp_path: Path) -> None:
    """For an address that cannot be bound, no store is started. The error distinguishes taken and foreign addresses."""
    data = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        others = ["--listen", address, "--data-dir", str(data), "--workers", workers]
        text = assert_refused(f"cannot listen on {address}: it is in use.", others)
        assert "not an address" not in text
    # 192.0.2.0/24 is reserved for documentation.
    elsewhere = ["--listen", "192.0.2.1:50051", "--insecure-listen", "--data-dir", str(data)]
    text = assert_refused("cannot listen on 192.0.2.1:50051: it is not an address of this machine.", elsewhere)
    assert "in use" not in text
    assert not data.exists()


def test_the_same_address_twice(tmp_path: Path) -> None:
    """The same address given twice is an error."""
    port = free_port()
    assert_refused("it is in use", ["--listen", f"127.0.0.1:{port}", "--listen", f"127.0.0.1:{port}"])


def test_another_sidecars_port_is_an_error(session_id: str) -> None:
    """The port of another sidecar is taken, and that sidecar is unharmed."""
    with Sidecar() as first, Sidecar() as other:
        other.terminate()
        assert_refused(first.target, ["--listen", first.target, "--data-dir", str(other.data_dir)])
        assert_serving(first, session_id)


def test_a_data_directory_has_one_owner(session_id: str) -> None:
    """A second sidecar on a data directory is refused with an error that names it; the first is unharmed."""
    with Sidecar() as first:
        before = first.store_pids()
        arguments = ["--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(first.data_dir)]
        text = assert_refused(str(first.data_dir), arguments)
        assert "--data-dir" in text, "the next step"
        assert_serving(first, session_id)
        assert first.store_pids() == before


def test_a_unix_socket_has_one_owner(session_id: str, tmp_path: Path) -> None:
    """A second sidecar on a unix socket is refused, and the first keeps its socket."""
    path = f"{tmp_path}/s"
    with Sidecar(listen=f"unix:{path}") as first:
        assert_refused(path, ["--listen", f"unix:{path}", "--data-dir", f"{tmp_path}/data"])
        assert_serving(first, session_id)


def test_a_file_in_the_place_of_a_socket_is_kept(tmp_path: Path) -> None:
    """A file that is not a socket is not removed to make room for one."""
    file = tmp_path / "s"
    file.write_text("precious")
    assert_refused(str(file), ["--listen", f"unix:{file}", "--data-dir", f"{tmp_path}/data"])
    assert file.read_text() == "precious"


def test_a_password_is_not_in_the_log(session_id: str) -> None:
    """The password in a Redis URL is never logged, neither at the start nor when Redis fails."""
    with StoreServer(valkey_program(), ["--requirepass", SECRET]) as store:
        url = store.url.replace("redis://", f"redis://:{SECRET}@")
        with Sidecar(url, flags=["--verbose"]) as sidecar, new_channel(sidecar.target) as channel:
            SessionCalls(channel, session_id).append_turns(1)
            store.kill()
            eventually(lambda: sidecar.health() != 1)
            store.start()
            sidecar.wait_until_serving()
            sidecar.terminate()
            assert SECRET not in sidecar.log


def test_a_wrong_password_is_reported_but_not_logged() -> None:
    """With a wrong password, health is NOT_SERVING, and the log names the cause without the password."""
    with StoreServer(valkey_program(), ["--requirepass", "another"]) as store:
        url = store.url.replace("redis://", f"redis://user-name:{SECRET}@")
        with Sidecar(url, flags=["--verbose"], wait=False) as sidecar:
            eventually(lambda: "password" in sidecar.log.lower() or "auth" in sidecar.log.lower())
            assert sidecar.health() == 2
            assert SECRET not in sidecar.log


@pytest.mark.parametrize("url", ["http://user:{}@127.0.0.1", "redis://:{}@127.0.0.1:port", "redis+sentinel://:{}@a:1"])
def test_a_password_is_not_in_a_refusal(url: str) -> None:
    """An invalid URL is refused without showing its password."""
    status, text = run_serve("--redis-url", url.format(SECRET))
    assert status == 2
    assert SECRET not in text
