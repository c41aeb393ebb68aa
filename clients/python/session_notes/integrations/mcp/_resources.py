"""The resources: addresses of what can be read about a session."""

import json
import re
from urllib.parse import quote, unquote

from mcp import types

from session_notes import PermissionDenied
from session_notes.integrations.mcp._documents import Document
from session_notes.integrations.mcp._reads import NoSuchSession, Reads

_JSON = "application/json"
_SESSIONS = "session-notes://sessions/"
_ADDRESS = re.compile(
    re.escape(_SESSIONS) + "(?P<session>[^/?#]+)(?:/(?P<turns>transcript)|/notes/(?P<observer>[^/?#]+))?"
)


class Resources:
    """The resources of all sessions; of one alone where an id is given."""

    def __init__(self, reads: Reads, session_id: str | None) -> None:
        self._reads = reads
        self._session_id = session_id

    async def listed(self) -> list[types.Resource]:
        """Those that can be named: of each session one, or all of the one session.

        Of all sessions there is none for a caller that may not list sessions: the templates will do.
        """
        if self._session_id is not None:
            return [
                _resource(self._session_id, "", "The session", "Fields, turn count and every observer's notes."),
                _resource(self._session_id, "/transcript", "The transcript", "The session with its turns."),
                _resource(self._session_id, "/notes/default", "The notes", "The default observer's current notes."),
            ]
        try:
            sessions = (await self._reads.sessions())["sessions"]
        except PermissionDenied:
            return []
        return [
            _resource(one["session_id"], "", f"Session {one['session_id']}", f"{one['turn_count']} turns.")
            for one in sessions
        ]

    def templates(self) -> list[types.ResourceTemplate]:
        """The forms of all addresses."""
        session = "{session_id}" if self._session_id is None else quote(self._session_id, safe="")
        forms = [("/notes/{observer}", "notes", "An observer's current notes on a session, with their age.")]
        if self._session_id is None:
            forms = [
                ("", "session", "A session: fields, turn count and every observer's notes."),
                ("/transcript", "transcript", "A session with its turns."),
                *forms,
            ]
        return [
            types.ResourceTemplate(
                uri_template=f"{_SESSIONS}{session}{rest}", name=name, description=description, mime_type=_JSON
            )
            for rest, name, description in forms
        ]

    async def read(self, uri: str) -> types.TextResourceContents:
        """What is at an address.

        Raises:
            NoSuchSession: There is no such session, or it is none of this server's; or the address is no session's.
            SessionNotesError: It could not be read.
        """
        text = json.dumps(await self._document(uri), ensure_ascii=False)
        return types.TextResourceContents(uri=uri, mime_type=_JSON, text=text)

    async def _document(self, uri: str) -> Document:
        found = _ADDRESS.fullmatch(uri)
        if found is None:
            raise NoSuchSession
        session_id = unquote(found["session"])
        if self._session_id not in {None, session_id}:
            raise NoSuchSession
        if found["observer"]:
            return await self._reads.notes(session_id, unquote(found["observer"]))
        return await self._reads.session(session_id, turns=bool(found["turns"]))


def _resource(session_id: str, rest: str, name: str, description: str) -> types.Resource:
    uri = f"{_SESSIONS}{quote(session_id, safe='')}{rest}"
    return types.Resource(uri=uri, name=name, description=description, mime_type=_JSON)
