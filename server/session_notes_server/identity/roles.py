"""Roles of callers. `rpc/authorization.py` lists the methods of each."""

from enum import StrEnum


class Role(StrEnum):
    """The role of a caller, which determines the methods that it may call."""

    PRIMARY = "primary"
    """Talks to the user: reads notes and owns the session's state."""

    OBSERVER = "observer"
    """Begins and ends runs, writes notes and reads the transcript."""

    ADMIN = "admin"
    """May call every method."""
