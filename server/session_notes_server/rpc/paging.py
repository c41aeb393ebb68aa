"""Page tokens: opaque to callers, and of use only where they came from."""

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
    """A token for a position within a scope (the method and what it lists)."""
    text = json.dumps([_mark(scope), position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position(scope: tuple[str, ...], page_token: str) -> Any:
    """The position a token of this scope holds.

    Raises:
        ValueError: the token is none of this scope.
    """
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        mark, found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, RecursionError, TypeError) as error:
        raise ValueError("not a page token") from error
    if mark != _mark(scope):
        raise ValueError("a page token of something else")
    return found


def run_number(found: Any) -> int:
    """The position in a list of runs, as it was found in a token.

    Our mark on a token keeps others' tokens out, and can be made by anybody: what it marks can be anything.

    Raises:
        ValueError: it is none.
    """
    return _number(found, MAX_EXACT)


def place_in_scan(found: Any) -> tuple[list[str], ScanPosition | None]:
    """Read the position in a list of sessions, as it was found in a token: ids that wait, where the scan goes on.

    Raises:
        ValueError: It is none.
    """
    match found:
        case [[*waiting], None] if waiting and all(map(is_id, waiting)):
            return waiting, None
        case [[*waiting], [str(nodes), node, cursor]] if all(map(is_id, waiting)):
            return waiting, ScanPosition(nodes, _number(node, MAX_EXACT), _number(cursor, _MAX_CURSOR))
    raise ValueError("not a place in a scan")


def _number(found: Any, most: int) -> int:
    if type(found) is not int or not 0 <= found <= most:  # True is an int, too.
        raise ValueError("not a number")
    return found


def _mark(scope: tuple[str, ...]) -> int:
    return zlib.crc32("\0".join(scope).encode())
