"""Page tokens: opaque to callers, and of use only where they came from."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any


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


def _mark(scope: tuple[str, ...]) -> int:
    return zlib.crc32("\0".join(scope).encode())
