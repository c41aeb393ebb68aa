"""Turns made storable: text that a sidecar takes, of a size that it takes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from session_notes import _calls, _wire
from session_notes._text import shortened, whole_characters
from session_notes._types import Turn

MAX_TURN_BYTES = 64 * 1024
"""How large a turn may be, serialized, in a sidecar with its default settings."""

CUT = " […]"
"""What stands at the end of a text that was cut."""

_MAX_SPEAKER_BYTES = 256
# An extra up to this size stays, and a long text is cut to leave room for it. A larger one gives way to the text.
_SMALL_EXTRA_BYTES = 4096
_MAX_DEPTH = 16
_MAX_EXACT = 2**53 - 1
# A text's tag, and its length as it is written for every text that can be too long.
_TEXT_OVERHEAD = 4


class Storable(NamedTuple):
    """A turn that can be stored.

    Attributes:
        turn: The turn; it shares nothing with the caller that could still change.
        size: Its size in bytes, serialized.
        flaws: What had to be changed, in words for a log.
    """

    turn: Turn
    size: int
    flaws: tuple[str, ...]


def storable(turn: Turn, limit: int = MAX_TURN_BYTES) -> Storable:
    """Return the turn as it can be stored: halves of characters replaced, long text cut, a bad `extra` left out.

    Raises:
        TypeError: The turn's text is no text.
    """
    if not isinstance(turn.text, str):
        raise TypeError(f"a text of type {type(turn.text).__name__}")
    flaws: list[str] = []
    speaker = turn.speaker if isinstance(turn.speaker, str) else "" if turn.speaker is None else str(turn.speaker)
    speaker = _shortened(speaker, min(_MAX_SPEAKER_BYTES, limit // 4), "speaker", flaws)
    time, extra = turn.time, _extra_of(turn, limit, flaws)
    try:
        _wire.timestamp("time", time)
    except Exception:
        time = None
        flaws.append("time left out: it has no time zone, or is none")
    text, room = turn.text, limit - _size(Turn(speaker, "", time, extra)) - _TEXT_OVERHEAD
    if extra and _too_long(text, room) and _size(Turn("", "", None, extra)) > _SMALL_EXTRA_BYTES:
        extra = {}
        flaws.append("extra left out: too large next to the text")
        room = limit - _size(Turn(speaker, "", time)) - _TEXT_OVERHEAD
    made = Turn(speaker, _shortened(text, room, "text", flaws), time, extra)
    return Storable(made, _size(made), tuple(flaws))


def _extra_of(turn: Turn, limit: int, flaws: list[str]) -> dict[str, Any]:
    if turn.extra is None or turn.extra == {}:
        return {}
    try:
        copy = _Copy(limit)
        return dict(copy.object(turn.extra, 1))
    except Exception:
        # It is the caller's, and may be anything: a mapping that raises, too.
        flaws.append("extra left out: no JSON, nested too deep, or too large")
        return {}


class _Copy:
    """A copy of something JSON-like, which ends where it grows too large: a list may hold itself, many times."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def object(self, content: Any, depth: int) -> dict[str, Any]:
        """Copy an object; raise ValueError or TypeError where the sidecar would refuse it."""
        if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
            raise ValueError
        return {self._text(key): self._value(item, depth) for key, item in content.items()}

    def _value(self, content: Any, depth: int) -> Any:
        self._spend(2)
        match content:
            case None | bool():
                return content
            case int() | float():
                if not math.isfinite(content) or abs(content) > _MAX_EXACT:
                    raise ValueError
                self._spend(9)
                return content
            case str():
                return self._text(content)
            case Mapping():
                return self.object(content, depth + 1)
            case Sequence() if not isinstance(content, bytes | bytearray | memoryview) and depth < _MAX_DEPTH:
                return [self._value(item, depth + 1) for item in content]
        raise TypeError

    def _text(self, content: Any) -> str:
        if not isinstance(content, str):
            raise TypeError
        self._spend(2 + len(content))
        return whole_characters(content)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError


def messages(turns: Sequence[Turn]) -> list[Any]:
    """Return turns as they are sent."""
    request: Any = _calls.append_turns("-", turns, None).request
    return list(request.turns)


def _size(turn: Turn) -> int:
    (message,) = messages([turn])
    return int(message.ByteSize())


def _too_long(text: str, room: int) -> bool:
    return len(text) > room or len(text.encode(errors="replace")) > room


def _shortened(text: str, room: int, name: str, flaws: list[str]) -> str:
    """Return the text in whole characters and at most `room` bytes."""
    short, cut = shortened(text, room, CUT)
    if cut:
        flaws.append(f"{name} cut")
    return short
