"""How the sidecar says that it will not start: a status that is not 0, and a message to act on."""

import os
import re
import resource
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from session_notes_server.rpc.grpc_options import connections_per_address
from session_notes_server.settings import Settings

from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, free_port, new_channel, program, status_of

SECRET = "sekrit-8c1f"


def serve(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Runs `serve` to its end, which must come soon: its exit status, and all it said, line ends as spaces.

    Should it start after all, it is stopped, with a store and data that were nobody's but this call's.
    """
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    with tempfile.TemporaryDirectory(prefix="session-notes-") as home:
        own = {"HOME": home, "XDG_DATA_HOME": home, "COLUMNS": "200"}
        own |= {"SESSION_NOTES_DATA_DIR": f"{home}/data", "SESSION_NOTES_LISTEN": f"127.0.0.1:{free_port()}"}
        process = subprocess.Popen(
            [*program(), "serve", *arguments],
            env=clean | own | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.terminate()
            said, _ = process.communicate(timeout=15)
            pytest.fail(f"it started: {said}")
        return process.returncode, " ".join(said.split())


def test_what_we_refuse_is_one_line_with_v_too() -> None:
    """A wrong address is no reason to show where in our code it was found."""
    done = subprocess.run(
        [*program(), "serve", "-v", "--metrics-listen", "9464"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--no-such-flag"], "--no-such-flag", id="an unknown flag"),
        pytest.param(["--redis-url", "http://localhost"], "redis://", id="a scheme that is no Redis"),
        pytest.param(["--redis-url", "localhost:6379"], "redis://", id="no scheme"),
        pytest.param(["--redis-url", "redis+sentinel://127.0.0.1:1"], "sentinel", id="a Sentinel without a service"),
        pytest.param(["--redis-url", "redis://127.0.0.1:port"], "redis", id="a port that is no number"),
        pytest.param(["--listen", "127.0.0.1:99999"], "99999", id="a port out of range"),
        pytest.param(["--listen", "127.0.0.1"], "127.0.0.1", id="no port"),
        pytest.param(["--listen", "unix:"], "unix:", id="a unix socket without a path"),
        pytest.param(["--listen", "unix:/" + "a" * 120], "107", id="a unix socket's path that is too long"),
        pytest.param(["--session-ttl", "soon"], "--session-ttl", id="a span that is none"),
        pytest.param(["--session-ttl", "0s"], "--session-ttl", id="sessions that expire at once"),
        pytest.param(["--session-ttl", "-1h"], "--session-ttl", id="a negative span"),
        pytest.param(["--session-ttl", "24"], "--session-ttl", id="a span without a unit"),
        pytest.param(["--prefix", "a{b}"], "prefix", id="a prefix that would take over the hash tag"),
        pytest.param(["--prefix", ""], "prefix", id="no prefix"),
        pytest.param(["--max-batch", "0"], "--max-batch", id="a limit of nothing"),
        pytest.param(["--listen", "unix:s"], "absolute", id="a unix socket's path that is relative"),
        pytest.param(["--data-dir", "/" + "a" * 120], "--data-dir", id="a data directory whose path is too long"),
        pytest.param(
            ["--metrics-listen", "127.0.0.1"], "cannot serve metrics on", id="an address for metrics without a port"
        ),
        pytest.param(["--log-format", "xml"], "'text', 'json'", id="a form of log that is none"),
        pytest.param(
            ["--listen", "0.0.0.0:0", "--insecure-listen", "--channelz"], "--channelz", id="channelz for strangers"
        ),
        pytest.param(["--tls-cert", "pem"], "--tls-key", id="a certificate without its key"),
        pytest.param(["--tls-roles", "roles"], "--tls-client-ca", id="roles of certificates that nobody needs"),
        pytest.param(["--redis-cert", "pem"], "--redis-key", id="a certificate for Redis without its key"),
        pytest.param(["--min-replicas-acked", "1"], "--redis-url", id="replicas of a store that has none"),
    ],
)
def test_a_bad_setting(arguments: list[str], said: str) -> None:
    """A setting that cannot be is wrong usage, 2: refused at the start, by name; nobody has to read a traceback, or to
    look for a variable that is not to blame."""
    status, text = serve(*arguments)
    assert status == 2
    assert said in text
    assert "SESSION_NOTES_" not in text
    assert "Traceback" not in text
    assert "unexpected" not in text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param("SESSION_NOTES_SESSION_TTL", "soon", "SESSION_NOTES_SESSION_TTL", id="a span that is none"),
        pytest.param("SESSION_NOTES_REDIS_URL", "http://localhost", "redis://", id="a scheme that is no Redis"),
        pytest.param("SESSION_NOTES_LISTEN", "nowhere", "nowhere", id="an address that is none"),
        pytest.param("SESSION_NOTES_LISTEN", "127.0.0.1:0 here", "cannot listen on here:", id="the second of two"),
        pytest.param("SESSION_NOTES_LOG_FORMAT", "xml", "SESSION_NOTES_LOG_FORMAT", id="a form of log that is none"),
        pytest.param("SESSION_NOTES_CHANNELZ", "perhaps", "SESSION_NOTES_CHANNELZ", id="neither yes nor no"),
    ],
)
def test_a_bad_variable(name: str, content: str, said: str) -> None:
    """A variable that cannot be is refused just as a flag."""
    status, text = serve(env={name: content})
    assert status == 2
    assert "Traceback" not in text
    assert said in text


def test_an_empty_variable_says_nothing() -> None:
    """A variable that is set to nothing, as compose and Kubernetes leave many a one, is as one that is not set."""
    _, shown = serve("--help")
    empty = dict.fromkeys(re.findall(r"\[env: (\w+)\]", shown), "")
    assert len(empty) > 20
    status, text = serve("--metrics-listen", "127.0.0.1", env=empty)
    assert status == 2
    assert text.startswith("error: cannot serve metrics on")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--data-dir", "/dev/null"], "/dev/null", id="a data directory that is none"),
        pytest.param(["--tokens-dir", "/no/such"], "/no/such does not exist", id="no directory of tokens"),
        pytest.param(["--tls-cert", "/no/such", "--tls-key", "/no/key"], "/no/such", id="no certificate there"),
        pytest.param(["--listen", "nowhere.invalid:1"], "nowhere.invalid", id="a host that nobody knows"),
    ],
)
def test_a_machine_that_does_not_fit(arguments: list[str], said: str) -> None:
    """A setting that could be, on a machine that lacks what it names, is 1: there, another try may well succeed."""
    refused_with(said, arguments)


def test_help_is_enough_to_start_with() -> None:
    """`--help` names every setting, with its variable and its default."""
    status, text = serve("--help")
    assert status == 0
    for setting in ("listen", "redis-url", "data-dir", "prefix", "session-ttl"):
        assert f"--{setting}" in text
        assert f"SESSION_NOTES_{setting.replace('-', '_').upper()}" in text
    for default in ("127.0.0.1:50051", "24h", "session-notes"):
        assert default in text


def test_a_taken_port_is_an_error() -> None:
    """A port already taken is an error, not a silent share; the message names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused_with(address, ["--listen", address])


def test_a_hint_is_in_the_words_of_make() -> None:
    """Started by `make run`, the hint says how make takes flags."""
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
    """Where too few files may be open it says so at once; with a few more, each address takes connections."""
    limit = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    ports = free_port(), free_port()
    listen = [word for port in ports for word in ("--listen", f"127.0.0.1:{port}")]
    command = [*limit, *program(), "serve", "--data-dir", str(tmp_path / "data"), *listen]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        if not starts:
            _, said = process.communicate(timeout=20)
            assert "(ulimit -n)" in said
            assert len(said.splitlines()) == 1
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
    """A limit that is none, or larger than what gRPC can count to, leaves as many connections as it can count."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert 10**8 < connections_per_address(Settings()) < 2**31


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_noticed_before_a_store_is_started(workers: str, tmp_path: Path) -> None:
    """Nothing is started for an address that cannot be had; the message says which it is: taken, or not of this
    machine."""
    data = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        others = ["--listen", address, "--data-dir", str(data), "--workers", workers]
        text = refused_with(f"cannot listen on {address}: it is in use.", others)
        assert "no address" not in text
    # 192.0.2.0/24 is for documentation.
    elsewhere = ["--listen", "192.0.2.1:50051", "--insecure-listen", "--data-dir", str(data)]
    text = refused_with("cannot listen on 192.0.2.1:50051: it is not an address of this machine.", elsewhere)
    assert "taken" not in text
    assert not data.exists()


def test_two_addresses_that_are_one(tmp_path: Path) -> None:
    """The same port twice is noticed, too."""
    port = free_port()
    refused_with("it is in use", ["--listen", f"127.0.0.1:{port}", "--listen", f"127.0.0.1:{port}"])


def test_another_sidecars_port_is_an_error(session_id: str) -> None:
    """The port of another sidecar is taken too, and that one is unharmed."""
    with Sidecar() as first, Sidecar() as other:
        other.terminate()
        refused_with(first.target, ["--listen", first.target, "--data-dir", str(other.data_dir)])
        unharmed(first, session_id)


def test_a_data_directory_has_one_owner(session_id: str) -> None:
    """A second sidecar on a data directory is refused, and told which directory; the first is unharmed."""
    with Sidecar() as first:
        before = first.store_pids()
        arguments = ["--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(first.data_dir)]
        text = refused_with(str(first.data_dir), arguments)
        # What to do instead.
        assert "--data-dir" in text
        unharmed(first, session_id)
        assert first.store_pids() == before


def test_a_unix_socket_has_one_owner(session_id: str, tmp_path: Path) -> None:
    """A unix socket that somebody listens on is taken: the second sidecar is refused, the first keeps its socket."""
    path = first_path = f"{tmp_path}/s"
    with Sidecar(listen=f"unix:{path}") as first:
        refused_with(first_path, ["--listen", f"unix:{path}", "--data-dir", f"{tmp_path}/data"])
        unharmed(first, session_id)


def test_a_file_in_the_place_of_a_socket_is_left_alone(tmp_path: Path) -> None:
    """A file that is no socket is not removed to make place for one."""
    file = tmp_path / "s"
    file.write_text("precious")
    refused_with(str(file), ["--listen", f"unix:{file}", "--data-dir", f"{tmp_path}/data"])
    assert file.read_text() == "precious"


def refused_with(said: str, arguments: Sequence[str], *, code: int = 1) -> str:
    """Asserts that `serve` exits with this code and an error that says this, and not as a traceback."""
    status, text = serve(*arguments)
    assert status == code
    assert said in text
    assert "Traceback" not in text
    return text


def unharmed(sidecar: Sidecar, session_id: str) -> None:
    """Asserts that a sidecar still serves."""
    assert sidecar.running
    with new_channel(sidecar.target) as channel:
        SessionCalls(channel, session_id).append_turns(1)


def test_a_password_is_not_in_the_log(session_id: str) -> None:
    """A Redis URL's password is never in the log: not at the start, not when Redis fails, not when it is wrong."""
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


def test_a_wrong_password_is_said_but_not_shown() -> None:
    """A wrong password: NOT_SERVING, and a log that says what is wrong without saying the password."""
    with StoreServer(valkey_program(), ["--requirepass", "another"]) as store:
        url = store.url.replace("redis://", f"redis://user-name:{SECRET}@")
        with Sidecar(url, flags=["--verbose"], wait=False) as sidecar:
            eventually(lambda: "password" in sidecar.log.lower() or "auth" in sidecar.log.lower())
            assert sidecar.health() == 2
            assert SECRET not in sidecar.log


@pytest.mark.parametrize("url", ["http://user:{}@127.0.0.1", "redis://:{}@127.0.0.1:port", "redis+sentinel://:{}@a:1"])
def test_a_password_is_not_in_a_refusal(url: str) -> None:
    """A URL that cannot be is refused without showing its password."""
    status, text = serve("--redis-url", url.format(SECRET))
    assert status == 2
    assert SECRET not in text
