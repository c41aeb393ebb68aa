"""Text as a terminal must show it: characters that would act on it, or hide, are made visible."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Controls, formats (bidi overrides, zero width, tags), surrogates, private use, separators of lines and paragraphs.
_ACTING = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# Letters and marks that show nothing: fillers, the grapheme joiner, variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Joiners of emoji and of Indic and Persian letters, and the selector that makes an emoji of a symbol.
_JOINERS = "\u200c\u200d\ufe0f"


def in_python(letter: str) -> str:
    """Return a character as Python writes it, by its number."""
    return ascii(letter)[1:-1]


def visible(text: str, *, keep: str = "", escape: Callable[[str], str] = in_python) -> str:
    """Return a text that a terminal shows and does not obey, and that reads as it was written.

    A joiner stays right behind a letter, mark or symbol outside ASCII. There it is part of what is shown, as in a
    family of emoji; anywhere else it would be something hidden.

    Args:
        text: Any text.
        keep: Controls that it may have.
        escape: What stands for a character that would act or hide.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    shown, before = list[str](), ""
    for letter in text:
        if letter in keep or not _hides(letter) or (letter in _JOINERS and _can_be_joined(before)):
            shown.append(letter)
        else:
            shown.append(escape(letter))
        before = letter
    return "".join(shown)


def _hides(letter: str) -> bool:
    return unicodedata.category(letter) in _ACTING or _INVISIBLE.match(letter) is not None


def _can_be_joined(letter: str) -> bool:
    return letter == "\ufe0f" or (letter > "\x7f" and unicodedata.category(letter)[0] in "LMS" and not _hides(letter))
