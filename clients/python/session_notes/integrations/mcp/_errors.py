"""Read errors, and their descriptions for a model or its host."""

import logging

from session_notes import InvalidArgument, PermissionDenied, SessionNotesError, TooLarge, Unauthenticated, Unavailable

log = logging.getLogger(__name__)


class NoSuchSession(Exception):
    """The session was never written to, has expired or was deleted, or the URI is not that of a session."""


def describe_error(error: Exception) -> str:
    """Return the text for a failed read: a fixed text or the sidecar's, never that of an arbitrary exception."""
    match error:
        case NoSuchSession():
            return "no such session; check the id"
        case InvalidArgument() | TooLarge():
            return str(error)
        case Unavailable():
            return "the session-notes sidecar cannot be reached; continue without it"
        case Unauthenticated() | PermissionDenied():
            return "this MCP server is not allowed to read this data: its own token or certificate does not permit it"
    reason = error.reason if isinstance(error, SessionNotesError) else ""
    log.error("a read failed: %s %s", type(error).__name__, reason)
    return "session-notes failed with an internal error; continue without it"
