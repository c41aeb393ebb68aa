"""The session of a framework's run: a fixed id, or a function of the framework's context."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from session_notes import InvalidArgument
from session_notes._recorder import WrongKind

Context = TypeVar("Context")


class NoSession(InvalidArgument):
    """The context of a run has no session. The message is a constant, so it may be logged."""


def session_of(session_id: str | Callable[[Context], str], context: Context) -> str:
    """Return the session id of a context: `session_id` itself, or its result if it is a function."""
    return session_id(context) if callable(session_id) else session_id


def check_session_id(session_id: object) -> None:
    """Check that `session_id` is a string or a plain function.

    Raises:
        InvalidArgument: If it is anything else, such as a coroutine function.
    """
    if not isinstance(session_id, str) and not callable(session_id):
        raise WrongKind(f"session_id must be a str, or a function that returns one, not {type(session_id).__name__}")
    if inspect.iscoroutinefunction(session_id):
        raise WrongKind("session_id must be a plain function, not a coroutine function")
