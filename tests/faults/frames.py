"""HTTP/2 frame by frame: a client that sends whatever a test tells it to."""

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from google.protobuf.message import Message

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
INITIAL_WINDOW_SIZE = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Frame(NamedTuple):
    """A frame as received."""

    kind: int
    flags: int
    stream: int
    body: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, body: bytes = b"") -> bytes:
    """Return a frame."""
    return len(body).to_bytes(3) + bytes([kind, flags]) + struct.pack(">I", stream) + body


def settings(values: Mapping[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, body=b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def reset(stream: int, code: int = 8) -> bytes:
    """Return an RST_STREAM frame: by default, the caller cancels the call."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def fields(pairs: Iterable[tuple[str, str]], *, indexed: bool = False) -> bytes:
    """Encode header fields as HPACK literals, `indexed` or not in the dynamic table."""
    first = b"\x40" if indexed else b"\0"
    return b"".join(first + _text(name) + _text(value) for name, value in pairs)


def request_fields(method: str, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """Encode the header fields of a call."""
    pseudo = {":method": "POST", ":scheme": "http", ":path": f"/{method}", ":authority": "localhost"}
    return fields([*pseudo.items(), ("content-type", "application/grpc"), ("te", "trailers"), *metadata])


def message(request: Message | bytes) -> bytes:
    """Return a message of gRPC behind its prefix."""
    body = request if isinstance(request, bytes) else request.SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


def call(stream: int, method: str, request: Message | bytes, *, flags: int = END_STREAM) -> bytes:
    """Return the frames of a call with a small request. Without END_STREAM, the caller does not end its side."""
    return frame(HEADERS, END_HEADERS, stream, request_fields(method)) + frame(DATA, flags, stream, message(request))


class Client:
    """A connection that speaks HTTP/2 by hand. It reads only when told to.

    Args:
        target: The sidecar's address: `host:port` or `unix:/path`.
        preface: The first bytes to send. By default, the connection is established, with windows of 64 KiB.
        receive_buffer: The size of the socket's receive buffer. None: the system's default.
    """

    def __init__(self, target: str, preface: bytes | None = None, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX if target.startswith("unix:") else socket.AF_INET)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        host, _, port = target.rpartition(":")
        self.socket.connect(str(Path(target.removeprefix("unix:"))) if host == "unix" else (host, int(port)))
        self.send(PREFACE + settings({}) if preface is None else preface)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send bytes, and return whether the connection still accepted them."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def frames(self) -> Iterator[Frame]:
        """Read frames, until the sidecar closes the connection."""
        with suppress(ConnectionError):
            while data := self.socket.recv(65536):
                self._received += data
                while len(self._received) >= 9 + (size := int.from_bytes(self._received[:3])):
                    head, body = self._received[:9], self._received[9 : 9 + size]
                    self._received = self._received[9 + size :]
                    yield Frame(head[3], head[4], int.from_bytes(head[5:]), body)

    def answers(self) -> bool:
        """Return whether the sidecar still answers a PING on this connection."""
        payload = os.urandom(8)
        self.send(frame(PING, body=payload))
        return any(received.kind == PING and received.body == payload for received in self.frames())

    def wait_for_close(self) -> int | None:
        """Read until the sidecar closes the connection, and return the code of its GOAWAY, if any."""
        code = None
        for received in self.frames():
            if received.kind == GOAWAY:
                code = int.from_bytes(received.body[4:8])
        return code


def _text(text: str) -> bytes:
    r"""Encode a string of HPACK. A surrogate such as `\udcff` is the byte 0xff, which is not UTF-8."""
    data = text.encode(errors="surrogateescape")
    return _integer(len(data), 7) + data


def _integer(number: int, bits: int) -> bytes:
    """Encode an integer of HPACK with a prefix of so many bits."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([number])
    encoded, number = bytearray([most]), number - most
    while number >= 128:
        encoded.append(number % 128 | 128)
        number //= 128
    return bytes(encoded) + bytes([number])
