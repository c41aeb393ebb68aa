"""Probes of an address over plain sockets, since gRPC reports little about the cause of a failure."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

# The client preface of HTTP/2 with empty settings (RFC 9113, 3.4). A server replies with its own settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEADER_BYTES, _SETTINGS_FRAME = 9, 4
_TLS_ALERT = b"\x15\x03"
_OTHER_SERVERS = {
    b"HTTP/": "a web server",
    b"<": "a web server",
    b"-": "probably Redis or Valkey",
    b"+": "probably Redis or Valkey",
    b"SSH-": "an SSH server",
}
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """The address of a gRPC target.

    Attributes:
        host: The host, or the path of a unix socket.
        port: The port; 0 for a unix socket.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, target: str) -> Self:
        """Parse `host:port`, `unix:/path` and their longer forms. Of several addresses, the first is used.

        Raises:
            ValueError: If the target has another form.
        """
        if target.startswith("unix:"):
            return cls(target.removeprefix("unix:").removeprefix("//"), 0)
        if target.startswith("unix-abstract:"):
            return cls("\0" + target.removeprefix("unix-abstract:"), 0)
        for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
            target = target.removeprefix(scheme)
        host, _, port = target.partition(",")[0].rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def connect(self, seconds: float) -> socket.socket:
        """Connect to the first IP address of the host that accepts.

        Raises:
            OSError: If none accepts, or if the name does not resolve. Of several errors, the last is raised.
            TimeoutError: If it takes longer than `seconds`.
        """
        if not self.port:
            return _connect(socket.AF_UNIX, self.host, seconds)
        deadline = time.monotonic() + seconds
        failure: OSError = TimeoutError()
        for family, *_, address in resolve(self.host, self.port, seconds):
            try:
                return _connect(family, address, max(deadline - time.monotonic(), 0.001))
            except OSError as error:
                failure = error
        raise failure


def resolve(host: str, port: int, seconds: float) -> list[Any]:
    """Return the addresses of a host, as `getaddrinfo` does, within a time limit.

    The lookup runs in a daemon thread, since it cannot be interrupted while name servers do not respond.

    Raises:
        OSError: If the name does not resolve.
        TimeoutError: If the lookup takes longer than `seconds`.
    """
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def resolve_host() -> None:
        try:
            results.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            results.put(socket.gaierror(socket.EAI_NONAME, "not found"))

    threading.Thread(target=resolve_host, daemon=True).start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, OSError):
        raise result
    return list(result)


def other_server(connection: socket.socket) -> str:
    """Send the HTTP/2 preface, and identify a server that does not speak HTTP/2.

    Returns:
        The kind of server; empty if it speaks HTTP/2.

    Raises:
        TimeoutError: If there is no reply.
        ConnectionError: If the server closes the connection or replies with a TLS alert.
        ssl.SSLError: If TLS fails late, for example because a client certificate is missing.
    """
    connection.sendall(_PREFACE)
    reply = b""
    while len(reply) < _FRAME_HEADER_BYTES:
        received = connection.recv(_FRAME_HEADER_BYTES - len(reply))
        if not received:
            break
        reply += received
    if not reply or reply.startswith(_TLS_ALERT):
        raise ConnectionResetError
    for beginning, name in _OTHER_SERVERS.items():
        if reply.startswith(beginning):
            return name
    is_settings = len(reply) == _FRAME_HEADER_BYTES and reply[3] == _SETTINGS_FRAME
    return "" if is_settings else "a server that does not speak HTTP/2"


def speaks_tls(address: SocketAddress, seconds: float) -> bool:
    """Return whether the server speaks TLS. Any certificate is accepted."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with address.connect(seconds) as connection, context.wrap_socket(connection):
            return True
    except OSError:
        return False


def connect_tls(address: SocketAddress, context: ssl.SSLContext, seconds: float) -> ssl.SSLSocket:
    """Connect over TLS as gRPC does, verifying the certificate and the name in it and negotiating HTTP/2.

    Raises:
        OSError: If the connection or the handshake fails.
    """
    connection = address.connect(seconds)
    try:
        return context.wrap_socket(connection, server_hostname=address.host)
    except BaseException:
        connection.close()
        raise


def peer_certificate(address: SocketAddress, context: ssl.SSLContext, seconds: float) -> dict[str, Any]:
    """Return the server's certificate, whatever its name and dates; empty unless a trusted authority signed it.

    No data is sent over the connection. Do not use the context afterwards: it no longer checks names and dates.
    """
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        with connect_tls(address, context, seconds) as connection:
            return dict(connection.getpeercert() or {})
    except OSError:
        return {}


def _connect(family: socket.AddressFamily, address: Any, seconds: float) -> socket.socket:
    connection = socket.socket(family)
    try:
        connection.settimeout(seconds)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection
