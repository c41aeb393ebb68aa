"""Page tokens: opaque to callers, and valid only for the listing that issued them."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

from session_notes_server.rpc.validation import MAX_EXACT, is_id
from session_notes_server.store import ScanPosition

_MAX_CURSOR = 2**64 - 1


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


def _number(content: Any, maximum: int) -> int:
    if type(content) is not int or not 0 <= content <= maximum:  # isinstance would accept True.
        raise ValueError("not a number")
    return content


def _checksum(scope: tuple[str, ...]) -> int:
    return zlib.crc32("\0".join(scope).encode())
