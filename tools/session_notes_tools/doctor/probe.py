"""A first word with whatever listens at an address, before gRPC is asked: that says little of what is wrong there."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

# How a client of HTTP/2 begins, with settings that are empty (RFC 9113, 3.4). A server answers with its own settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEAD_BYTES, _SETTINGS = 9, 4
_TLS_ALERT = b"\x15\x03"
_OTHERS = {
    b"HTTP/": "a web server",
    b"<": "a web server",
    b"-": "Redis or Valkey, as it seems",
    b"+": "Redis or Valkey, as it seems",
    b"SSH-": "an SSH server",
}
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target of gRPC's is. Port 0: `host` is the path of a unix socket."""

    host: str
    port: int

    @classmethod
    def of(cls, target: str) -> Self:
        """Read `host:port`, `unix:/path` and their longer forms; of several addresses the first.

        Raises:
            ValueError: it is none of these.
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
        """Connect to the first of its addresses that lets us.

        Raises:
            OSError: none does, or its name is not found; of several the last one's.
            TimeoutError: it takes too long.
        """
        if not self.port:
            return _connected(socket.AF_UNIX, self.host, seconds)
        deadline = time.monotonic() + seconds
        failure: OSError = TimeoutError()
        for family, *_, address in resolved(self.host, self.port, seconds):
            try:
                return _connected(family, address, max(deadline - time.monotonic(), 0.001))
            except OSError as error:
                failure = error
        raise failure


def resolved(host: str, port: int, seconds: float) -> list[Any]:
    """What a host's name stands for, as `getaddrinfo` has it.

    Asked for in a thread that nobody waits for in the end: nothing else ends a look-up while name servers are away.

    Raises:
        OSError: it stands for nothing.
        TimeoutError: nobody says so in time.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            answers.put(socket.gaierror(socket.EAI_NONAME, "not found"))

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return list(answer)


def who_else(connection: socket.socket) -> str:
    """Say hello in HTTP/2 → who answers, where it is nobody who speaks that; empty: all is well.

    Raises:
        TimeoutError: nobody answers.
        ConnectionError: it ends the connection, or answers as TLS would.
        ssl.SSLError: TLS has a last word, as where a certificate of ours is missing.
    """
    connection.sendall(_HELLO)
    heard = b""
    while len(heard) < _FRAME_HEAD_BYTES:
        more = connection.recv(_FRAME_HEAD_BYTES - len(heard))
        if not more:
            break
        heard += more
    if not heard or heard.startswith(_TLS_ALERT):
        raise ConnectionResetError
    for beginning, name in _OTHERS.items():
        if heard.startswith(beginning):
            return name
    is_settings = len(heard) == _FRAME_HEAD_BYTES and heard[3] == _SETTINGS
    return "" if is_settings else "something that does not speak HTTP/2"


def speaks_tls(place: Place, seconds: float) -> bool:
    """Whether TLS is spoken there, whatever the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with place.connect(seconds) as connection, context.wrap_socket(connection):
            return True
    except OSError:
        return False


def encrypted(place: Place, context: ssl.SSLContext, seconds: float) -> ssl.SSLSocket:
    """A connection over TLS, as gRPC's: certificate and name verified, HTTP/2 agreed upon.

    Raises:
        OSError: what `connect` and the handshake raise.
    """
    connection = place.connect(seconds)
    try:
        return context.wrap_socket(connection, server_hostname=place.host)
    except BaseException:
        connection.close()
        raise


def certificate(place: Place, context: ssl.SSLContext, seconds: float) -> dict[str, Any]:
    """The certificate shown there, by an authority we trust, be it for another name or another time; else nothing.

    Nothing is said over such a connection. The context is of no use afterwards.
    """
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        with encrypted(place, context, seconds) as connection:
            return dict(connection.getpeercert() or {})
    except OSError:
        return {}


def _connected(family: socket.AddressFamily, address: Any, seconds: float) -> socket.socket:
    connection = socket.socket(family)
    try:
        connection.settimeout(seconds)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection
