"""Another kind of server at `--redis-url` is named in a single log line."""

import asyncio
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
import trustme
from session_notes_server.store import RedisTarget, describe_error

from tests.cli.program import Cli
from tests.faults.deployments import sidecar_on
from tests.support import eventually

NOT_SERVING = 2


@contextmanager
def http_server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_server() -> Iterator[int]:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@contextmanager
def tcp_server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Run a server that passes each connection to a function and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    with suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _greet(greeting: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(greeting)
        connection.recv(4096)

    return answer


def _stay_silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def _tls(connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    try:
        context.wrap_socket(connection, server_side=True).recv(4096)
    except ssl.SSLError:
        connection.recv(4096)


PEERS = {
    "http": (http_server, "an HTTP server answers", "does not speak TLS"),
    "grpc": (grpc_server, "a gRPC or HTTP/2 server answers", "does not speak TLS"),
    "ssh": (
        lambda: tcp_server(_greet(b"SSH-2.0-OpenSSH_9\r\n")),
        "something other than Redis answers",
        "does not speak TLS",
    ),
    "silent": (lambda: tcp_server(_stay_silent), "it accepts connections", "to the TLS handshake"),
    "closing": (lambda: tcp_server(lambda _: None), "is it Redis", "is it Redis"),
    "full": (
        lambda: tcp_server(_greet(b"-ERR max number of clients reached\r\n")),
        "its maximum number of clients",
        "does not speak TLS",
    ),
    "protected": (
        lambda: tcp_server(_greet(b"-DENIED Redis is in protected mode\r\n")),
        "DENIED",
        "does not speak TLS",
    ),
    "tls": (lambda: tcp_server(_tls), "rediss://", "its certificate is not trusted"),
}
"""By kind of server: how to run it, and its description without TLS and with TLS."""


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("peer", PEERS)
def test_another_kind_of_server_is_named(peer: str, scheme: str) -> None:
    """The error of a connection to another kind of server names it."""
    serve, plain, tls = PEERS[peer]
    with serve() as port:
        target = RedisTarget.parse(f"{scheme}://127.0.0.1:{port}")
        seconds = 0.5 if peer == "silent" else 5
        with pytest.raises(Exception) as error:  # noqa: PT011
            asyncio.run(target.open(target.addresses[0], timeout_seconds=seconds, silence_seconds=seconds))
    assert (plain if scheme == "redis" else tls) in describe_error(error.value)


def test_another_kind_of_server_is_logged_once() -> None:
    """An HTTP server as the store is NOT_SERVING, with one log line over many attempts; `doctor` reports the same."""
    attempts = 0

    def answer(connection: socket.socket) -> None:
        nonlocal attempts
        attempts += 1
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with tcp_server(answer) as port, sidecar_on(f"redis://127.0.0.1:{port}") as sidecar:
        eventually(lambda: "NOT_SERVING: an HTTP server answers" in sidecar.log)
        assert sidecar.health() == NOT_SERVING
        before = attempts
        eventually(lambda: attempts >= before + 4)
        lines = [line for line in sidecar.log.splitlines() if " WARNING " in line or " ERROR " in line]
        assert len(lines) == 1, lines
        result = Cli(sidecar.target)("doctor", "--json", "--redis-url", f"redis://127.0.0.1:{port}")
        assert "an HTTP server answers" in result.out


def test_an_unencoded_password_is_rejected_at_the_start(tmp_path: Path) -> None:
    """A URL with an unencoded password ends the command at once, with advice but without the password."""
    url = "redis://:p@ss/canary-91#1@127.0.0.1:6379"
    for command in (("serve", "--data-dir", str(tmp_path)), ("doctor",)):
        result = Cli("127.0.0.1:1")(*command, "--redis-url", url)
        assert result.code == 2
        assert "percent-encode" in result.err
        assert "canary" not in result.err
