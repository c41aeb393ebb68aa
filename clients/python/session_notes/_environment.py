"""Environment variables of the clients, and warnings about misspelt names."""

import os

from session_notes._logs import LOGGER

_PREFIX = "SESSION_NOTES_"
_NAMES = ("TARGET", "TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY")
_MAX_EDITS = 2

_warned: set[str] = set()


def variable(name: str) -> str | None:
    """Return the value of a variable, named without its prefix. None if it is absent or empty."""
    return os.environ.get(_PREFIX + name) or None


def warn_of_misspelt_names() -> None:
    """Log a warning for each variable that is probably a misspelt client variable, once per process.

    Names that resemble no client variable are ignored. The sidecar has variables with the same prefix, and Kubernetes
    sets `SESSION_NOTES_PORT` and others for a service called session-notes.
    """
    for name in os.environ:
        if name[:7].upper() != _PREFIX[:7] or name in _warned or not (name.isascii() and name.isidentifier()):
            continue
        nearest = _nearest(name.upper())
        if nearest is not None and nearest != name:
            _warned.add(name)
            LOGGER.warning("the environment variable %s is unknown and has no effect; is it %s?", name, nearest)


def _nearest(name: str) -> str | None:
    """Return the client variable that a name probably stands for."""
    variables = [_PREFIX + suffix for suffix in _NAMES]
    edits, nearest = min((_edit_distance(name, candidate), candidate) for candidate in variables)
    if edits <= _MAX_EDITS:
        return nearest
    suffix = name.removeprefix(_PREFIX)
    extended = [v for v in variables if name.startswith(v) and _is_suffix(name.removeprefix(v))]
    abbreviated = [v for v in variables if suffix != name and v.endswith("_" + suffix)]
    return max(extended + abbreviated, key=len, default=None)


def _is_suffix(end: str) -> bool:
    """Return whether this may extend a client variable: `_FILE` or letters, unlike SESSION_NOTES_TOKENS_DIR."""
    return end.startswith("_") or end.isalpha()


def _edit_distance(first: str, second: str) -> int:
    """Count the letters to insert, delete, replace or swap with the next one to turn one word into the other."""
    above: list[int] = []
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        two_above, above, row = above, row, [i]
        for j, other in enumerate(second, 1):
            distance = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                distance = min(distance, two_above[j - 2] + 1)
            row.append(distance)
    return row[-1]
