"""How a framework's tool learns which session to read: from the application, never from the model."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypedDict, TypeVar

T = TypeVar("T")


class NotesOptions(TypedDict, total=False):
    """What a tool may be told beside its client and session; meanings and defaults are those of `NotesTool`."""

    observer: str
    max_age: timedelta | None
    max_turns_behind: int | None
    name: str
    description: str


def session_of(session_id: str | Callable[[T], str], context: T) -> str:
    """The session: the one named, or the one that the application's function finds in the framework's context."""
    return session_id(context) if callable(session_id) else session_id
