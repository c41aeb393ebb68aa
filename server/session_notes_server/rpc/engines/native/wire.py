"""gRPC's encoding of headers, statuses and messages; see gRPC over HTTP/2 in the gRPC documentation.

Headers are pairs of bytes, as in HTTP/2. Metadata is pairs of a key and a str, or bytes for keys that end in `-bin`.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias
from urllib.parse import quote

import grpc

from session_notes_server.rpc import errors

Header: TypeAlias = tuple[bytes, bytes]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

PREFIX_BYTES = 5
"""Before each message: a flag (whether it is compressed) and its length in four bytes."""

RESPONSE: list[Header] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK: list[Header] = [(b"grpc-status", b"0")]

ENCODINGS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""Supported encodings of compressed messages, with zlib's number for each format."""

ACCEPT_ENCODING: Header = (b"grpc-accept-encoding", b"identity, deflate, gzip")

# Headers of the protocol itself, which are no metadata. Pseudo-headers are excluded by their colon.
_RESERVED = frozenset({b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"})
_STATUS_HEADERS = {code: (b"grpc-status", b"%d" % code.value[0]) for code in grpc.StatusCode}
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNIT_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Printable ASCII except the percent sign, which quotes all other bytes.
_PLAIN_MESSAGE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
# The two kinds of alternative names, and the only one of a subject.
_NAMES = {"DNS": "peer_dns", "URI": "peer_uri", "commonName": "x509_common_name"}
_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[\x20-\x7e]*")


def is_grpc(content_type: bytes) -> bool:
    """Return whether a content type is that of gRPC with protobuf messages."""
    return content_type.partition(b";")[0] in {b"application/grpc", b"application/grpc+proto"}


def timeout_seconds(value: bytes) -> float | None:
    """Return the seconds of a `grpc-timeout`, or None if it is malformed."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNIT_SECONDS[match[2]] if match else None


def metadata(headers: Sequence[Header]) -> tuple[tuple[str, str | bytes], ...]:
    """Return the metadata in the headers of a request. A binary value that is not base64 is left out."""
    pairs = list[tuple[str, str | bytes]]()
    for name, value in headers:
        if name[:1] == b":" or name in _RESERVED:
            continue
        key = name.decode("latin-1")
        if not key.endswith("-bin"):
            pairs.append((key, value.decode("latin-1")))
            continue
        for part in value.split(b","):  # Values of one key may be joined.
            part = part.strip()
            try:
                pairs.append((key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)))
            except binascii.Error:
                continue
    return tuple(pairs)


def headers(pairs: Metadata) -> list[Header]:
    """Return metadata as headers.

    Raises:
        ValueError: If a key or a value may not be sent.
    """
    encoded = list[Header]()
    for key, value in pairs:
        if not _KEY.fullmatch(key) or (key.startswith("grpc-") and not key.endswith("-bin")):
            raise ValueError("not a key of metadata")
        if key.endswith("-bin"):
            raw = value if isinstance(value, bytes) else value.encode()
            encoded.append((key.encode(), base64.b64encode(raw).rstrip(b"=")))
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not _TEXT.fullmatch(text):
            raise ValueError("not a value of metadata")
        encoded.append((key.encode(), text.encode()))
    return encoded


def status(code: grpc.StatusCode, message: str, pairs: Metadata = ()) -> list[Header]:
    """Return the trailers of a call that ends with a status."""
    trailers = [_STATUS_HEADERS[code]]
    if message:
        trailers.append((b"grpc-message", quote(message, safe=_PLAIN_MESSAGE).encode()))
    return [*trailers, *headers(pairs)]


def decompress(data: bytes, encoding: bytes, limit: int) -> bytes:
    """Decompress a message.

    Raises:
        StatusError: If the result would exceed `limit` bytes, of which no more are decompressed, or if the data is not
            exactly one message in this encoding.
    """
    decompressor = zlib.decompressobj(ENCODINGS[encoding])
    try:
        message = decompressor.decompress(data, limit + 1)
    except zlib.error:
        raise errors.malformed_message() from None
    if len(message) > limit:
        del message  # The traceback refers to this frame.
        raise errors.too_large("", limit=limit, actual=limit + 1)
    if not decompressor.eof or decompressor.unused_data:
        raise errors.malformed_message()
    return message


def names(certificate: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """Return the names in a certificate, as `ssl` decodes it, by gRPC's names for their kinds."""
    found = dict[str, list[bytes]]()
    for kind, name in chain(certificate.get("subjectAltName", ()), *certificate.get("subject", ())):
        if kind in _NAMES:
            found.setdefault(_NAMES[kind], []).append(name.encode())
    return found
