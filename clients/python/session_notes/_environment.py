"""Environment variables of the clients, and warnings about misspelt names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from session_notes._logs import warn

_PREFIX = "SESSION_NOTES_"
_NAMES = tuple(_PREFIX + name for name in ("TARGET", "TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY"))
_MAX_EDITS = 2
# Kubernetes sets these in every container, for a service named session-notes.
_KUBERNETES_NAME = r"SESSION_NOTES_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)"

_warned: set[str] = set()


def variable(name: str) -> str | None:
    """Return the value of a variable, named without its prefix. None if it is absent or empty."""
    return os.environ.get(_PREFIX + name) or None


def unknown_variables(known: Collection[str] = _NAMES, *, complete: bool = False) -> dict[str, str]:
    """Return a warning for each environment variable that is probably meant for session-notes and has no effect.

    Args:
        known: The variables that have an effect. By default those of the clients.
        complete: Whether `known` lists all variables of session-notes that this process reads. If so, every other name
            with the prefix `SESSION_NOTES_` is unknown. Otherwise, only names that resemble a known name are.
    """
    warnings = dict[str, str]()
    for name in os.environ:
        if name[:7].upper() != _PREFIX[:7] or name in known or not (name.isascii() and name.isidentifier()):
            continue
        if re.fullmatch(_KUBERNETES_NAME, name):
            continue
        nearest = _nearest(name.upper(), known)
        if nearest or (complete and name.startswith(_PREFIX)):
            hint = f"; is it {nearest}?" if nearest else ""
            warnings[name] = f"the environment variable {name} is unknown and has no effect{hint}"
    return warnings


def warn_of_misspelt_names() -> None:
    """Log each variable that is probably a misspelt client variable, once per process."""
    for name, warning in unknown_variables().items():
        if name not in _warned:
            _warned.add(name)
            warn("%s", warning)


def _nearest(name: str, known: Collection[str] = _NAMES) -> str | None:
    """Return the known variable that a name probably stands for."""
    edits, nearest = min((_edit_distance(name, candidate), candidate) for candidate in known)
    if edits <= _MAX_EDITS:
        return nearest
    suffix = name.removeprefix(_PREFIX)
    extended = [v for v in known if name.startswith(v) and _is_suffix(name.removeprefix(v))]
    abbreviated = [v for v in known if suffix != name and v.endswith("_" + suffix)]
    return max(extended + abbreviated, key=len, default=None)


def _is_suffix(end: str) -> bool:
    """Return whether a typo may have added this: `_FILE` or letters, unlike the `S_DIR` of `TOKENS_DIR`."""
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
