"""Text made valid and short enough to be stored."""


def shortened(text: str, most_bytes: int, mark: str) -> tuple[str, bool]:
    """Return the text in whole characters and at most so many bytes, a cut one with a mark, and whether it was cut."""
    short = whole_characters(text[: max(0, most_bytes) + 1])
    encoded = short.encode()
    if len(encoded) <= most_bytes and len(text) <= most_bytes:
        return short, False
    return encoded[: max(0, most_bytes - len(mark.encode()))].decode(errors="ignore") + mark, True


def whole_characters(text: str) -> str:
    """Return the text with U+FFFD for every lone half of a character; two halves become one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text[:]
