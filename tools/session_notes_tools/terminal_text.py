"""Terminal-safe text: control characters and invisible characters are replaced by visible escapes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Controls, formats (bidi overrides, zero width, tags), surrogates, private use, line and paragraph separators.
_ACTIVE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# Letters and marks without a glyph: fillers, the grapheme joiner, variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_EMOJI_SELECTOR = "\ufe0f"
# Joiners in emoji and in Indic and Persian words, and the selector that turns a symbol into an emoji.
_JOINERS = "\u200c\u200d" + _EMOJI_SELECTOR


def python_escape(character: str) -> str:
    """Return the Python escape sequence of a character."""
    return ascii(character)[1:-1]


def visible(text: str, *, keep: str = "", escape: Callable[[str], str] = python_escape) -> str:
    """Escape characters that a terminal would interpret or not display.

    A joiner stays if it directly follows a non-ASCII letter, mark or symbol, where it is part of the glyph, as in a
    family emoji. Anywhere else it would be invisible.

    Args:
        text: Any text.
        keep: Control characters to leave unchanged.
        escape: Returns the replacement for a character.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    parts, previous = list[str](), ""
    for character in text:
        joins = character in _JOINERS and _can_be_joined(previous)
        parts.append(character if character in keep or joins or not _is_hidden(character) else escape(character))
        previous = character
    return "".join(parts)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _ACTIVE_CATEGORIES or _INVISIBLE.match(character) is not None


def _can_be_joined(character: str) -> bool:
    if character == _EMOJI_SELECTOR:
        return True
    return character > "\x7f" and unicodedata.category(character)[0] in "LMS" and not _is_hidden(character)
