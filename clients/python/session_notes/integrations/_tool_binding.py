"""The notes tool of a framework: what the model sees of it, and the session that each call reads."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypedDict, TypeVar

from session_notes.integrations._sessions import check_session_id, session_of
from session_notes.integrations.tools import DESCRIPTION, NAME, AsyncNotesTool, NotesTool

Tool = TypeVar("Tool", bound=NotesTool | AsyncNotesTool)


class NotesOptions(TypedDict, total=False):
    """The options of a tool besides its client and session; meanings and defaults as for `NotesTool`."""

    observer: str
    max_age: timedelta | None
    max_turns_behind: int | None
    name: str
    description: str


class ToolBinding(Generic[Tool]):
    """A notes tool whose session is looked up in the framework's context at each call.

    Args:
        make: Makes the tool of a session: `NotesTool` or `AsyncNotesTool` with its client.
        session_id: The session id, or a function that returns it for the framework's context.
        options: Passed on to the tool.

    Raises:
        InvalidArgument: If the session is neither a string nor a plain function.
    """

    def __init__(
        self, make: Callable[..., Tool], session_id: str | Callable[[Any], str], options: NotesOptions
    ) -> None:
        check_session_id(session_id)
        self.name = options.get("name", NAME)
        self.description = options.get("description", DESCRIPTION)
        self._make = make
        self._session_id = session_id
        self._options = options

    def tool_for(self, context: Any) -> Tool:
        """Return the tool of the session that a context belongs to."""
        return self._make(session_of(self._session_id, context), **self._options)
