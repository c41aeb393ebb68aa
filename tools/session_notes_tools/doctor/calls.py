"""What a sidecar says when it is called: its health, what it lets us do, how long a read takes, and a write and all."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes import TLS, Notes, ObserverClient, PrimaryClient, SessionNotesError, TokenFile
from session_notes.v1 import session_notes_pb2, session_notes_pb2_grpc, session_state_pb2, session_state_pb2_grpc
from session_notes_server.rpc.services.health import LIVE, READY

from session_notes_tools.doctor.findings import Finding, clock, ms, ok, problem, warning
from session_notes_tools.doctor.reachability import ELSE

READS = 5
# What a primary waits for its notes unless told.
_PATIENCE = timedelta(milliseconds=250)
_SESSION_TTL = timedelta(minutes=5)

Metadata: TypeAlias = tuple[tuple[str, str], ...] | None
"""Who we say we are."""

_DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def health(channel: grpc.Channel, seconds: float) -> Generator[Finding, None, bool | None]:
    """Ask whether it lives and is ready → whether it is ready; None: it is no sidecar."""
    stub = health_pb2_grpc.HealthStub(channel)
    said = {}
    for service in (LIVE, READY):
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=seconds)
        except grpc.RpcError as error:
            code = error.code()
            if code in _AWAY:
                yield problem("health", f"no answer to a call ({code.name})", "see the sidecar's log, or restart it")
            else:
                yield problem("health", f"a gRPC server, but none of ours ({code.name})", ELSE)
            return None
        said[service] = answer.status == health_pb2.HealthCheckResponse.SERVING
    ready = bool(said[READY])
    if ready:
        yield ok("health", "live and ready")
    elif said[LIVE]:
        yield problem(
            "health",
            "live, and not ready: its store does not answer",
            "its log says why in one line; to look at the store from here, give --redis-url as serve has it",
        )
    else:
        yield problem("health", "it is stopping", "wait for its next start")
    return ready


def who_we_are(
    channel: grpc.Channel, metadata: Metadata, seconds: float, *, certificate: bool
) -> Generator[Finding, None, bool]:
    """Find out what the token, or the certificate, lets us do → whether it lets us in."""

    def admitted(call: Any, request: Any, sent: Metadata) -> bool:
        # These requests are wrong on purpose: who may call is asked before, so that nothing is done in any case.
        try:
            call(request, timeout=seconds, metadata=sent)
        except grpc.RpcError as error:
            if error.code() in _DENIED:
                return False
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
        return True

    notes = session_notes_pb2_grpc.SessionNotesStub(channel)
    state = session_state_pb2_grpc.SessionStateStub(channel)
    try:
        anybody = admitted(notes.GetNotes, session_notes_pb2.GetNotesRequest(), None)
        if not (
            anybody if metadata is None else admitted(notes.GetNotes, session_notes_pb2.GetNotesRequest(), metadata)
        ):
            yield _not_let_in(metadata, certificate=certificate)
            return False
        observer = admitted(notes.BeginRun, session_notes_pb2.BeginRunRequest(), metadata)
        primary = admitted(state.UpdateSession, session_state_pb2.UpdateSessionRequest(), metadata)
        admin = admitted(state.ListSessions, session_state_pb2.ListSessionsRequest(page_size=-1), metadata)
    except grpc.RpcError as error:
        yield problem("credentials", f"no answer to a call ({error.code().name})", "see the sidecar's log")
        return False
    if anybody and not certificate:
        unused = "; the token given is not looked at" if metadata else ""
        yield ok("credentials", f"none needed: whoever can connect may call everything{unused}")
        return True
    what = "the token" if metadata else "our certificate"
    role = "admin" if admin else "primary" if primary else "observer" if observer else "a reader"
    yield ok("credentials", f"{what} lets us in as {role}")
    return True


def _not_let_in(metadata: Metadata, *, certificate: bool) -> Finding:
    if metadata:
        return problem(
            "credentials",
            "the token is not known there",
            "it must be a line of one of the files in the sidecar's --tokens-dir, or hashed in one",
        )
    if certificate:
        return problem(
            "credentials", "no name in our certificate has a role there", "add a line to the sidecar's --tls-roles"
        )
    return problem(
        "credentials",
        "it asks for a token, and there is none",
        "give --token-file FILE, or SESSION_NOTES_TOKEN_FILE",
    )


def reads(channel: grpc.Channel, metadata: Metadata, seconds: float) -> Finding:
    """How long GetNotes takes here, for a session that nobody has."""
    request = session_notes_pb2.GetNotesRequest(session_id=_name())
    stub = session_notes_pb2_grpc.SessionNotesStub(channel)
    taken = []
    for _ in range(READS):
        began = time.monotonic()
        try:
            stub.GetNotes(request, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            return problem("reads", f"GetNotes is answered {error.code().name}", "see the sidecar's log")
        taken.append(time.monotonic() - began)
    median = statistics.median(taken)
    says = f"GetNotes takes {ms(median)} (median of {READS}, the longest {ms(max(taken))})"
    if median * 2 > _PATIENCE.total_seconds():
        return warning(
            "reads",
            f"{says}; by default a primary waits {ms(_PATIENCE.total_seconds())}",
            "run the sidecar beside its callers, and Redis near it",
        )
    return ok("reads", says)


def round_trip(target: str, token: TokenFile | None, tls: TLS | None, timeout: timedelta) -> Iterator[Finding]:
    """Write, read and delete notes in a session of our own."""
    session_id, written = _name(), Notes(summary="written by session-notes doctor")
    try:
        with (
            PrimaryClient(target, token=token, tls=tls, timeout=timeout, state_timeout=timeout) as primary,
            ObserverClient(target, token=token, tls=tls, timeout=timeout) as observer,
        ):
            # Who may not remove it is to hear so before it is there.
            primary.delete_session(session_id)
            primary.update_session(session_id, ttl=_SESSION_TTL)
            try:
                began = time.time()
                result = observer.write_notes(session_id, written)
                ended = time.time()
                read = primary.get_notes(session_id)
            finally:
                primary.delete_session(session_id)
            left = primary.get_notes(session_id)
    except SessionNotesError as error:
        yield problem(
            "writes",
            f"notes cannot be written, read and deleted ({type(error).__name__})",
            "it takes the token of an admin; else see the sidecar's log",
        )
        return
    if read.notes != written or left.ready:
        yield problem("writes", "what is read is not what was written", "this is a bug: please report it")
        return
    yield ok("writes", "notes were written, read and deleted, in a session of this check's own")
    yield clock("the store's clock", result.write_time.timestamp() - (began + ended) / 2)


def _name() -> str:
    return f"doctor-{secrets.token_hex(8)}"
