"""The notes tool of a framework: its name and description, and the session of each call."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Generic, TypedDict, TypeVar

from session_notes import AsyncPrimaryClient, PrimaryClient, Severity
from session_notes.integrations._arguments import check_client
from session_notes.integrations._sessions import check_session_id, session_of
from session_notes.integrations.tools import AsyncNotesTool, NotesTool

Tool = TypeVar("Tool", bound=NotesTool | AsyncNotesTool)


class NotesOptions(TypedDict, total=False):
    """The options of a tool besides its client and session. `NotesTool` documents them."""

    observer: str
    observers: Sequence[str] | None
    min_severity: Severity | None
    max_age: timedelta | None
    max_snapshot_age: timedelta | None
    max_turns_behind: int | None
    name: str
    description: str


class ToolBinding(Generic[Tool]):
    """A notes tool that takes the session of each call from the framework's context.

    Args:
        tool: The class of the tool: `NotesTool` or `AsyncNotesTool`.
        client: Reads the notes.
        session_id: The session id, or a function that maps the framework's context to one.
        options: The options of the tool.

    Raises:
        InvalidArgument: If the client is of another kind, `session_id` is neither a session id nor a plain function, or
            an option is invalid.
    """

    def __init__(
        self,
        tool: type[Tool],
        client: PrimaryClient | AsyncPrimaryClient,
        session_id: str | Callable[[Any], str],
        options: NotesOptions,
    ) -> None:
        check_client(client, tool._CLIENT)
        check_session_id(session_id)
        self._tool: Callable[..., Tool] = tool
        self._client = client
        self._session_id = session_id
        self._options = options
        example = self._make("any")  # Rejects invalid options.
        self.name = example.name
        self.description = example.description

    def tool_for(self, context: Any) -> Tool:
        """Return the tool for the session of a context."""
        return self._make(session_of(self._session_id, context))

    def _make(self, session_id: str) -> Tool:
        return self._tool(self._client, session_id, **self._options)
