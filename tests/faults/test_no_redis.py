"""`--redis-url` at a port where something else listens: one line that says what, and it is not said for ever."""

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
def talking(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server that does one thing with each connection, and closes it."""
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


def _says(words: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(words)
        connection.recv(4096)

    return answer


def _listen(connection: socket.socket) -> None:
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
        lambda: talking(_says(b"SSH-2.0-OpenSSH_9\r\n")),
        "something other than Redis answers",
        "does not speak TLS",
    ),
    "silent": (lambda: talking(_listen), "it takes connections", "to a TLS handshake"),
    "closing": (lambda: talking(lambda _: None), "is it Redis", "is it Redis"),
    "full": (
        lambda: talking(_says(b"-ERR max number of clients reached\r\n")),
        "as many clients as it accepts",
        "does not speak TLS",
    ),
    "protected": (lambda: talking(_says(b"-DENIED Redis is in protected mode\r\n")), "DENIED", "does not speak TLS"),
    "tls": (lambda: talking(_tls), "rediss://", "its certificate is not trusted"),
}
"""A server, and what is said of it without TLS, and with."""


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("peer", PEERS)
def test_what_listens_there_is_said(peer: str, scheme: str) -> None:
    """Each kind of server that is no Redis of ours has its words."""
    serve, plain, tls = PEERS[peer]
    with serve() as port:
        target = RedisTarget.parse(f"{scheme}://127.0.0.1:{port}")
        seconds = 0.5 if peer == "silent" else 5
        with pytest.raises(Exception) as refused:  # noqa: PT011
            asyncio.run(target.open(target.addresses[0], timeout_seconds=seconds, silence_seconds=seconds))
    assert (plain if scheme == "redis" else tls) in describe_error(refused.value)


def test_it_is_not_said_for_ever() -> None:
    """An HTTP server: NOT_SERVING, one line at once, none for the next attempts, and doctor has the same words."""
    attempts = 0

    def answer(connection: socket.socket) -> None:
        nonlocal attempts
        attempts += 1
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with talking(answer) as port, sidecar_on(f"redis://127.0.0.1:{port}") as sidecar:
        eventually(lambda: "NOT_SERVING: an HTTP server answers" in sidecar.log)
        assert sidecar.health() == NOT_SERVING
        before = attempts
        eventually(lambda: attempts >= before + 4)
        lines = [line for line in sidecar.log.splitlines() if " WARNING " in line or " ERROR " in line]
        assert len(lines) == 1, lines
        ended = Cli(sidecar.target)("doctor", "--json", "--redis-url", f"redis://127.0.0.1:{port}")
        assert "an HTTP server answers" in ended.out


def test_an_unencoded_password_is_refused_at_the_start(tmp_path: Path) -> None:
    """The command itself ends at once, with the advice and without the password."""
    url = "redis://:p@ss/canary-91#1@127.0.0.1:6379"
    for command in (("serve", "--data-dir", str(tmp_path)), ("doctor",)):
        ended = Cli("127.0.0.1:1")(*command, "--redis-url", url)
        assert ended.code == 2
        assert "percent-encode" in ended.err
        assert "canary" not in ended.err
