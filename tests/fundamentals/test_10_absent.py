"""Rule 10: by design there is no watch, no subscription, no callback, no long poll."""

import time

from session_notes.v1 import session_notes_pb2, session_state_pb2

from tests.support import SERVICES, SessionCalls

RPCS = {
    "SessionNotes": {
        "GetNotes",
        "BatchGetNotes",
        "BeginRun",
        "WriteNotes",
        "FailRun",
        "RenewRun",
        "ListDueSessions",
        "ListRuns",
    },
    "SessionState": {"GetSession", "UpdateSession", "AppendTurns", "DeleteSession", "ListSessions"},
}


def test_the_services_have_exactly_these_rpcs() -> None:
    """The contract has exactly these two services with exactly these RPCs."""
    services = {
        **session_notes_pb2.DESCRIPTOR.services_by_name,
        **session_state_pb2.DESCRIPTOR.services_by_name,
    }
    assert {name: set(service.methods_by_name) for name, service in services.items()} == RPCS
    assert {service.full_name for service in services.values()} == set(SERVICES)


def test_no_rpc_streams() -> None:
    """Every RPC has one request and one response."""
    for file in (session_notes_pb2, session_state_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert not method.client_streaming, method.full_name
                assert not method.server_streaming, method.full_name


def test_a_read_does_not_wait_for_notes(session: SessionCalls) -> None:
    """GetNotes returns immediately while a run is in flight: it is not a long poll."""
    session.begin_run("run-1")
    before = time.monotonic()
    assert session.get_notes(timeout=2).ready is False
    assert time.monotonic() - before < 1
