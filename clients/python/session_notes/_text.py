"""Text prepared for storage: valid Unicode of limited size."""

from __future__ import annotations

from session_notes._limits import MAX_FAILURE_BYTES

CUT = " […]"
"""End of a text that was cut."""

_ELLIPSIS = "…"


def shorten(text: str, max_bytes: int, mark: str) -> tuple[str, bool]:
    """Return the text as valid Unicode of at most `max_bytes` in UTF-8, and whether it was cut.

    A cut text ends with the mark, which counts towards the limit.
    """
    valid = replace_surrogates(text[: max(0, max_bytes) + 1])
    encoded = valid.encode()
    if len(encoded) <= max_bytes and len(text) <= max_bytes:
        return valid, False
    return encoded[: max(0, max_bytes - len(mark.encode()))].decode(errors="ignore") + mark, True


def replace_surrogates(text: str) -> str:
    """Return the text with U+FFFD for every lone surrogate. A pair of surrogates becomes one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text[:]


def failure_text(reason: object) -> str:
    """Return a run's failure as text that can be stored: at most 4 KiB. An exception becomes `Type: text`."""
    try:
        if isinstance(reason, BaseException):
            text = f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__
        else:
            text = "" if reason is None else str(reason)
    except Exception:
        text = type(reason).__name__
    return shorten(text, MAX_FAILURE_BYTES, _ELLIPSIS)[0]
