"""The gRPC services, one module each, and the table of servicers for those of the contract."""

from __future__ import annotations

from session_notes_server.contract import SERVICES
from session_notes_server.rpc.services.notes import NotesServicer
from session_notes_server.rpc.services.state import StateServicer

SERVICERS = {
    "session_notes.v1.SessionNotes": NotesServicer,
    "session_notes.v1.SessionState": StateServicer,
}

if difference := SERVICERS.keys() ^ {service.full_name for service in SERVICES}:
    raise AssertionError(f"services without a servicer, or servicers without a service: {sorted(difference)}")
