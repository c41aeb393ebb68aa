"""Turns prepared for storage: the closest turn that a sidecar accepts, and what had to be changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from session_notes import _encoding
from session_notes._limits import MAX_EXACT_NUMBER, MAX_JSON_DEPTH, MAX_TURN_BYTES
from session_notes._text import CUT, replace_surrogates, shorten
from session_notes._types import Turn

# Longest speaker that a recorder stores. The contract has no limit for it, but a very long one would leave no room for
# text.
_MAX_SPEAKER_BYTES = 256
# An `extra` up to this size is kept, and a long text is cut to make room for it. A larger one is dropped first.
_SMALL_EXTRA_BYTES = 4096
# Tag and length of the text field, for every text that may need cutting.
_TEXT_OVERHEAD = 4


class Storable:
    """A turn that can be stored.

    Attributes:
        turn: The turn. It shares no mutable object with the caller.
        size: Its serialized size in bytes.
        changes: What had to be changed, for the log.
    """

    __slots__ = ("changes", "size", "turn")

    def __init__(self, turn: Turn, size: int, changes: tuple[str, ...]) -> None:
        self.turn = turn
        self.size = size
        self.changes = changes


def prepare(turn: Turn, max_bytes: int = MAX_TURN_BYTES) -> Storable:
    """Return a turn that can be stored: with surrogates replaced, long text cut, an invalid `extra` left out.

    Raises:
        TypeError: If the turn's text is not a str.
    """
    if not isinstance(turn.text, str):
        raise TypeError(f"a text of type {type(turn.text).__name__}")
    changes: list[str] = []
    speaker = turn.speaker if isinstance(turn.speaker, str) else "" if turn.speaker is None else str(turn.speaker)
    speaker = _shortened(speaker, min(_MAX_SPEAKER_BYTES, max_bytes // 4), "speaker", changes)
    time, extra = turn.time, _valid_extra(turn, max_bytes, changes)
    try:
        _encoding.timestamp("time", time)
    except Exception:
        time = None
        changes.append("time left out: it is not a datetime with a time zone")
    text, room = turn.text, max_bytes - serialized_size(Turn(speaker, "", time, extra)) - _TEXT_OVERHEAD
    if extra and _exceeds(text, room) and serialized_size(Turn("", "", None, extra)) > _SMALL_EXTRA_BYTES:
        extra = {}
        changes.append("extra left out: too large next to the text")
        room = max_bytes - serialized_size(Turn(speaker, "", time)) - _TEXT_OVERHEAD
    result = Turn(speaker, _shortened(text, room, "text", changes), time, extra)
    return Storable(result, serialized_size(result), tuple(changes))


def serialized_size(turn: Turn) -> int:
    """Return the size of a turn on the wire, in bytes."""
    (message,) = _encoding.turn_messages([turn])
    return message.ByteSize()


def _valid_extra(turn: Turn, max_bytes: int, changes: list[str]) -> dict[str, Any]:
    if turn.extra is None or turn.extra == {}:
        return {}
    try:
        copy = _BoundedCopy(max_bytes)
        return copy.json_object(turn.extra, 1)
    except Exception:
        # `extra` may be any object, including a mapping that raises.
        changes.append("extra left out: not JSON, nested too deep, or too large")
        return {}


class _BoundedCopy:
    """A copy of a JSON-like object, up to a maximum size: copying a list that contains itself would never end."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes

    def json_object(self, content: Any, depth: int) -> dict[str, Any]:
        """Copy an object. Raise ValueError or TypeError if the sidecar would reject it."""
        if not isinstance(content, Mapping) or depth > MAX_JSON_DEPTH:
            raise ValueError
        return {self._text(key): self._value(item, depth) for key, item in content.items()}

    def _value(self, content: Any, depth: int) -> Any:
        self._spend(2)
        match content:
            case None | bool():
                return content
            case int() | float():
                if not math.isfinite(content) or abs(content) > MAX_EXACT_NUMBER:
                    raise ValueError
                self._spend(9)
                return content
            case str():
                return self._text(content)
            case Mapping():
                return self.json_object(content, depth + 1)
            case Sequence() if not isinstance(content, bytes | bytearray | memoryview) and depth < MAX_JSON_DEPTH:
                return [self._value(item, depth + 1) for item in content]
        raise TypeError

    def _text(self, content: Any) -> str:
        if not isinstance(content, str):
            raise TypeError
        self._spend(2 + len(content))
        return replace_surrogates(content)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError


def _exceeds(text: str, max_bytes: int) -> bool:
    return len(text) > max_bytes or len(text.encode(errors="replace")) > max_bytes


def _shortened(text: str, max_bytes: int, name: str, changes: list[str]) -> str:
    short, cut = shorten(text, max_bytes, CUT)
    if cut:
        changes.append(f"{name} cut")
    return short
