"""The store: every operation. Each that concerns one session is one script, and so one atomic step."""

from __future__ import annotations

from session_notes_server.store.notes import NotesOperations
from session_notes_server.store.sessions import SessionOperations


class Store(NotesOperations, SessionOperations):
    """Sessions in Redis or Valkey.

    Every operation can raise the executor's StoreUnavailable. The arguments are those of `StoreBase`.
    """
