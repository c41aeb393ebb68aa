"""MCP resources: URIs for sessions, transcripts and notes."""

import json
import re
from urllib.parse import quote, unquote

from mcp import types

from session_notes import PermissionDenied
from session_notes.integrations.mcp._documents import Document
from session_notes.integrations.mcp._errors import NoSuchSession
from session_notes.integrations.mcp._reader import Reader

_JSON = "application/json"
_SESSIONS = "session-notes://sessions/"
_URI = re.compile(
    re.escape(_SESSIONS) + "(?P<session>[^/?#]+)(?:/(?P<transcript>transcript)|/notes/(?P<observer>[^/?#]+))?"
)


class Resources:
    """The resources of all sessions, or of one session.

    Args:
        reader: Reads the documents.
        session_id: The only session to serve; None: all sessions.
    """

    def __init__(self, reader: Reader, session_id: str | None) -> None:
        self._reader = reader
        self._session_id = session_id

    async def list_all(self) -> list[types.Resource]:
        """Return one resource per session, or all resources of the only session.

        If the client may not list sessions, return none. A host can still use the templates.
        """
        if self._session_id is not None:
            return [
                _resource(self._session_id, "", "The session", "Fields, turn count and every observer's notes."),
                _resource(self._session_id, "/transcript", "The transcript", "The session with its turns."),
                _resource(self._session_id, "/notes/default", "The notes", "The default observer's current notes."),
            ]
        try:
            sessions = (await self._reader.sessions())["sessions"]
        except PermissionDenied:
            return []
        return [
            _resource(session["session_id"], "", f"Session {session['session_id']}", f"{session['turn_count']} turns.")
            for session in sessions
        ]

    def templates(self) -> list[types.ResourceTemplate]:
        """Return a template for each kind of URI."""
        session = "{session_id}" if self._session_id is None else quote(self._session_id, safe="")
        templates = [("/notes/{observer}", "notes", "An observer's current notes on a session, with their age.")]
        if self._session_id is None:
            templates = [
                ("", "session", "A session: fields, turn count and every observer's notes."),
                ("/transcript", "transcript", "A session with its turns."),
                *templates,
            ]
        return [
            types.ResourceTemplate(
                uri_template=f"{_SESSIONS}{session}{suffix}", name=name, description=description, mime_type=_JSON
            )
            for suffix, name, description in templates
        ]

    async def read(self, uri: str) -> types.TextResourceContents:
        """Return the document at a URI.

        Raises:
            NoSuchSession: If the session does not exist or this server does not serve it, or the URI has another form.
            SessionNotesError: If the read fails.
        """
        text = json.dumps(await self._document(uri), ensure_ascii=False)
        return types.TextResourceContents(uri=uri, mime_type=_JSON, text=text)

    async def _document(self, uri: str) -> Document:
        match = _URI.fullmatch(uri)
        if match is None:
            raise NoSuchSession
        session_id = unquote(match["session"])
        if self._session_id not in {None, session_id}:
            raise NoSuchSession
        if match["observer"]:
            return await self._reader.notes(session_id, unquote(match["observer"]))
        return await self._reader.session(session_id, include_turns=bool(match["transcript"]))


def _resource(session_id: str, suffix: str, name: str, description: str) -> types.Resource:
    uri = f"{_SESSIONS}{quote(session_id, safe='')}{suffix}"
    return types.Resource(uri=uri, name=name, description=description, mime_type=_JSON)
