"""The session of a framework's run: a fixed id, or a function of the framework's context."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from session_notes import InvalidArgument
from session_notes._backlog import is_session_id
from session_notes._errors import invalid
from session_notes._recorder import WrongKind

Context = TypeVar("Context")


class NoSession(InvalidArgument):
    """The context of a run has no session.

    Args:
        message: A constant, so that it may be logged.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self._for_logs = message


def session_of(session_id: str | Callable[[Context], str], context: Context) -> str:
    """Return the session id of a context: `session_id` itself, or its result if it is a function."""
    return session_id(context) if callable(session_id) else session_id


def check_session_id(session_id: object) -> None:
    """Check that `session_id` is a valid session id or a plain function.

    Raises:
        InvalidArgument: If it is anything else, such as an id with a space or a coroutine function.
    """
    if not isinstance(session_id, str) and not callable(session_id):
        raise WrongKind(f"session_id must be a str, or a function that returns one, not {type(session_id).__name__}")
    if inspect.iscoroutinefunction(session_id):
        raise WrongKind("session_id must be a plain function, not a coroutine function")
    if isinstance(session_id, str) and not is_session_id(session_id):
        raise invalid("session_id", "must be 1 to 256 bytes of printable ASCII without space, '{' or '}'")
