"""Page tokens: opaque to callers, and valid only for the listing that issued them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from session_notes_server.contract import is_id
from session_notes_server.rpc.validation import MAX_EXACT
from session_notes_server.store import ScanPosition

MAX_LISTED = 100_000
"""Number of listed sessions that the token of a list of due sessions carries, in 14 bytes each."""

_MAX_CURSOR = 2**64 - 1
_DIGEST = struct.Struct("<Q")


def token(scope: tuple[str, ...], position: Any) -> str:
    """Return the token for a position. Its scope is the method and the arguments of the listing."""
    text = json.dumps([_checksum(scope), position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position(scope: tuple[str, ...], page_token: str) -> Any:
    """Return the position in a token, unvalidated.

    Raises:
        ValueError: If the token does not belong to this scope.
    """
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        checksum, content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, RecursionError, TypeError) as error:
        raise ValueError("not a page token") from error
    if checksum != _checksum(scope):
        raise ValueError("a page token of another listing")
    return content


def run_number(content: Any) -> int:
    """Validate a position in a list of runs, and return it.

    The checksum guards against mistakes only. A caller can forge it, so every position must be validated in full.

    Raises:
        ValueError: If the content is not such a position.
    """
    return _number(content, MAX_EXACT)


def scan_position(content: Any) -> tuple[list[str], ScanPosition | None]:
    """Validate a position in a list of sessions, and return its pending ids and the position of the scan after them.

    Raises:
        ValueError: If the content is not such a position.
    """
    match content:
        case [[*pending], None] if pending and all(map(is_id, pending)):
            return pending, None
        case [[*pending], [str(nodes), node, cursor]] if all(map(is_id, pending)):
            return pending, ScanPosition(nodes, _number(node, MAX_EXACT), _number(cursor, _MAX_CURSOR))
    raise ValueError("not a position in a scan")


def due_position(content: Any) -> tuple[tuple[list[str], ScanPosition | None], list[int]]:
    """Validate a position in a list of due sessions, and return that of the scan, and digests of the listed sessions.

    Raises:
        ValueError: If the content is not such a position.
    """
    match content:
        case [*scan, str(listed)]:
            packed = base64.b64decode(listed, validate=True)
            if len(packed) <= MAX_LISTED * _DIGEST.size and len(packed) % _DIGEST.size == 0:
                return scan_position(scan), [digest for (digest,) in _DIGEST.iter_unpack(packed)]
    raise ValueError("not a position in a list of due sessions")


def pack_digests(digests: Sequence[int]) -> str:
    """Return the newest MAX_LISTED digests of sessions, as a token carries them."""
    newest = digests[-MAX_LISTED:]
    return base64.b64encode(struct.pack(f"<{len(newest)}Q", *newest)).decode()


def digest(session_id: str) -> int:
    """Return a digest of a session id. Two among a million ids are equal with a probability of 1 in 10^7."""
    return int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=_DIGEST.size).digest(), "little")


def _number(content: Any, maximum: int) -> int:
    if type(content) is not int or not 0 <= content <= maximum:  # isinstance would accept True.
        raise ValueError("not a number")
    return content


def _checksum(scope: tuple[str, ...]) -> int:
    return zlib.crc32("\0".join(scope).encode())
