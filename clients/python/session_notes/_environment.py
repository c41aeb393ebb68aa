"""The environment variables that clients read, and a warning about names that come close to one of them."""

import logging
import os

_PREFIX = "SESSION_NOTES_"
_NAMES = ("TARGET", "TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY")
_MOST_SLIPS = 2

_LOGGER = logging.getLogger("session_notes")
_warned: set[str] = set()


def variable(name: str) -> str | None:
    """Return a variable's value, by its name without the prefix; None where it is absent or empty."""
    return os.environ.get(_PREFIX + name) or None


def warn_of_misspelt_names() -> None:
    """Log one warning per variable that is probably meant for a client and has no effect.

    Names that are far from all of ours are left alone: the sidecar has variables of its own, and Kubernetes sets
    `SESSION_NOTES_PORT` and its like for a service that is called session-notes.
    """
    for name in os.environ:
        if name[:7].upper() != _PREFIX[:7] or name in _warned or not (name.isascii() and name.isidentifier()):
            continue
        nearest = _nearest(name.upper())
        if nearest is not None and nearest != name:
            _warned.add(name)
            _LOGGER.warning("the environment variable %s is unknown and has no effect; is it %s?", name, nearest)


def _nearest(name: str) -> str | None:
    known = [_PREFIX + one for one in _NAMES]
    longer = [one for one in known if name.startswith(one) and _is_suffix(name.removeprefix(one))]
    slips, nearest = min((_slips(name, one), one) for one in known)
    if slips <= _MOST_SLIPS:
        return nearest
    part = name.removeprefix(_PREFIX)
    shorter = [one for one in known if part != name and one.endswith("_" + part)]
    return max(longer + shorter, key=len, default=None)


def _is_suffix(end: str) -> bool:
    """Whether this is more of a client's name: `_FILE`, or letters. `SESSION_NOTES_TOKENS_DIR` is the sidecar's."""
    return end.startswith("_") or end.isalpha()


def _slips(one: str, other: str) -> int:
    """Count the letters to add, drop, change or swap with the next one to make one word of the other."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            slips = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                slips = min(slips, above[j - 2] + 1)
            row.append(slips)
    return row[-1]
