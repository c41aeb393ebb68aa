"""The store: all operations. An operation on one session is one script, and therefore one atomic step."""

from __future__ import annotations

from session_notes_server.store.notes import NotesOperations
from session_notes_server.store.sessions import SessionOperations


class Store(NotesOperations, SessionOperations):
    """Sessions in Redis or Valkey.

    Every operation can raise StoreUnavailable. The arguments are those of `StoreBase`.
    """
