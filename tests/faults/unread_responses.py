"""A client that never reads responses: its HTTP/2 flow-control windows stay at zero."""

import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Self

from google.protobuf.message import Message

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 1, 4
NO_WINDOW = struct.pack(">HI", 4, 0)


class UnreadResponses:
    """An HTTP/2 connection that makes calls and reads no byte of their responses.

    Args:
        target: The sidecar's address: `host:port` or `unix:/path`.
    """

    def __init__(self, target: str) -> None:
        if target.startswith("unix:"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(str(Path(target.removeprefix("unix:"))))
        else:
            host, _, port = target.rpartition(":")
            self._socket = socket.create_connection((host, int(port)))
        self._socket.settimeout(60)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, NO_WINDOW))
        self._stream = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, request: Message, count: int = 1) -> None:
        """Make calls, without a deadline."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{method}",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        headers = b"".join(b"\0" + _text(name) + _text(text) for name, text in fields.items())
        body = request.SerializeToString()
        message = b"\0" + struct.pack(">I", len(body)) + body
        for _ in range(count):
            self._stream += 2
            opening = _frame(HEADERS, END_HEADERS, self._stream, headers)
            self._socket.sendall(opening + _frame(DATA, END_STREAM, self._stream, message))

    def wait_for_resets(self, count: int = 1) -> None:
        """Read until the sidecar has reset a number of the calls."""
        with self._socket.makefile("rb") as stream:
            while count:
                head = stream.read(9)
                stream.read(int.from_bytes(head[:3]))
                count -= head[3] == RST_STREAM

    def wait_for_close(self) -> None:
        """Read until the sidecar closes the connection."""
        with suppress(ConnectionError):
            while self._socket.recv(65536):
                pass


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3) + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _text(text: str) -> bytes:
    """Encode an HPACK literal shorter than 127 bytes."""
    return bytes([len(text)]) + text.encode()
