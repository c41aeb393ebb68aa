"""The environment variables that clients read, and warnings about names that come close to a variable."""

import logging
import os
import re
from collections.abc import Collection

_PREFIX = "SESSION_NOTES_"
_NAMES = tuple(_PREFIX + name for name in ("TARGET", "TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY"))
_MOST_SLIPS = 2
# Kubernetes sets these in every container, for a service named session-notes.
_OF_KUBERNETES = re.compile(r"SESSION_NOTES_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")

_LOGGER = logging.getLogger("session_notes")
_warned: set[str] = set()


def variable(name: str) -> str | None:
    """Return a variable's value, by its name without the prefix; None where it is absent or empty."""
    return os.environ.get(_PREFIX + name) or None


def unknown_variables(known: Collection[str] = _NAMES, *, complete: bool = False) -> dict[str, str]:
    """Return a warning for each environment variable that is probably meant for session-notes and has no effect.

    Args:
        known: The variables that have an effect; by default those that clients read.
        complete: Whether `known` names all variables of session-notes that this process reads. Every other name with
            the prefix `SESSION_NOTES_` is then unknown; else only names that come close to a known one are.
    """
    warnings = dict[str, str]()
    for name in os.environ:
        if name[:7].upper() != _PREFIX[:7] or name in known or not (name.isascii() and name.isidentifier()):
            continue
        if _OF_KUBERNETES.fullmatch(name):
            continue
        nearest = _nearest(name.upper(), known)
        if nearest or (complete and name.startswith(_PREFIX)):
            hint = f"; is it {nearest}?" if nearest else ""
            warnings[name] = f"the environment variable {name} is unknown and has no effect{hint}"
    return warnings


def warn_of_misspelt_names() -> None:
    """Log each variable that is probably meant for a client and has no effect, once per process."""
    for name, warning in unknown_variables().items():
        if name not in _warned:
            _warned.add(name)
            _LOGGER.warning("%s", warning)


def _nearest(name: str, known: Collection[str] = _NAMES) -> str | None:
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
