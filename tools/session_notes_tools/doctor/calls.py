"""Checks that call a sidecar: its health, the caller's permissions, the latency of reads, a round trip of notes."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes import (
    DEFAULT_NOTES_TIMEOUT,
    TLS,
    Notes,
    ObserverClient,
    PrimaryClient,
    SessionNotesError,
    TokenFile,
)
from session_notes.v1 import session_notes_pb2, session_notes_pb2_grpc, session_state_pb2, session_state_pb2_grpc
from session_notes_server.settings import ENGINE_METADATA, HEALTH_LIVE, HEALTH_READY

from session_notes_tools.doctor.findings import Finding, clock, ms, ok, problem, skipped, warning
from session_notes_tools.doctor.reachability import OTHER_SERVER

READS = 5
_SESSION_TTL = timedelta(minutes=5)

Metadata: TypeAlias = tuple[tuple[str, str], ...] | None
"""The metadata of a call, with the token if there is one."""

_DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_UNAVAILABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def check_health(channel: grpc.Channel, seconds: float) -> Generator[Finding, None, bool | None]:
    """Check whether the sidecar is live and ready, and which engine serves its calls.

    Returns:
        Whether it is ready; None if it does not respond or is not a sidecar.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    serving, engine = {}, None
    for service in (HEALTH_LIVE, HEALTH_READY):
        try:
            response, call = stub.Check.with_call(health_pb2.HealthCheckRequest(service=service), timeout=seconds)
        except grpc.RpcError as error:
            code = error.code()
            if code in _UNAVAILABLE:
                yield problem("health", f"no response to a call ({code.name})", "see the sidecar's log, or restart it")
            else:
                yield problem("health", f"a gRPC server, but not a sidecar ({code.name})", OTHER_SERVER)
            return None
        serving[service] = response.status == health_pb2.HealthCheckResponse.SERVING
        engine = dict(call.trailing_metadata()).get(ENGINE_METADATA)
    ready = bool(serving[HEALTH_READY])
    if ready:
        yield ok("health", "live and ready")
    elif serving[HEALTH_LIVE]:
        yield problem(
            "health",
            "live but not ready, because its store is unavailable",
            "see its log for the cause; to check the store from here, give the same --redis-url as for `serve`",
        )
    else:
        yield problem("health", "it is shutting down", "wait until it has restarted")
    yield ok("engine", engine) if engine else skipped("engine", "unknown: the sidecar is older, and does not name it")
    return ready


def check_credentials(
    channel: grpc.Channel, metadata: Metadata, seconds: float, *, certificate: bool
) -> Generator[Finding, None, bool]:
    """Determine the role of the token or the certificate.

    Returns:
        Whether the caller may read notes.
    """

    def admitted(method: Any, request: Any, sent: Metadata) -> bool:
        # The requests are deliberately invalid. Permissions are checked first, and no call has an effect.
        try:
            method(request, timeout=seconds, metadata=sent)
        except grpc.RpcError as error:
            if error.code() in _DENIED:
                return False
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
        return True

    notes = session_notes_pb2_grpc.SessionNotesStub(channel)
    state = session_state_pb2_grpc.SessionStateStub(channel)
    try:
        anonymous = admitted(notes.GetNotes, session_notes_pb2.GetNotesRequest(), None)
        reader = (
            anonymous if metadata is None else admitted(notes.GetNotes, session_notes_pb2.GetNotesRequest(), metadata)
        )
        if not reader:
            yield _denied(metadata, certificate=certificate)
            return False
        observer = admitted(notes.BeginRun, session_notes_pb2.BeginRunRequest(), metadata)
        primary = admitted(state.UpdateSession, session_state_pb2.UpdateSessionRequest(), metadata)
        admin = admitted(state.ListSessions, session_state_pb2.ListSessionsRequest(page_size=-1), metadata)
    except grpc.RpcError as error:
        yield problem("credentials", f"no response to a call ({error.code().name})", "see the sidecar's log")
        return False
    if anonymous and not certificate:
        unused = "; your token is ignored" if metadata else ""
        yield ok("credentials", f"none required: every caller may call every method{unused}")
        return True
    credential = "the token" if metadata else "your certificate"
    role = "admin" if admin else "primary" if primary else "observer" if observer else "reader"
    yield ok("credentials", f"{credential} has the role {role}")
    return True


def _denied(metadata: Metadata, *, certificate: bool) -> Finding:
    if metadata:
        return problem(
            "credentials",
            "the sidecar does not know the token",
            "add the token or its hash to a file in the sidecar's --tokens-dir, on a line of its own",
        )
    if certificate:
        return problem(
            "credentials", "no name in your certificate has a role", "add a line to the sidecar's --tls-roles"
        )
    return problem(
        "credentials",
        "it requires a token, and none was given",
        "give --token-file FILE or set SESSION_NOTES_TOKEN_FILE",
    )


def check_reads(channel: grpc.Channel, metadata: Metadata, seconds: float) -> Finding:
    """Measure GetNotes for a session that does not exist."""
    request = session_notes_pb2.GetNotesRequest(session_id=_new_session_id())
    stub = session_notes_pb2_grpc.SessionNotesStub(channel)
    durations = []
    for _ in range(READS):
        began = time.monotonic()
        try:
            stub.GetNotes(request, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                return skipped("reads", "the token is limited to sessions with certain prefixes")
            return problem("reads", f"GetNotes fails with {error.code().name}", "see the sidecar's log")
        durations.append(time.monotonic() - began)
    median, timeout = statistics.median(durations), DEFAULT_NOTES_TIMEOUT.total_seconds()
    says = f"GetNotes takes {ms(median)} (median of {READS}, maximum {ms(max(durations))})"
    if median * 2 > timeout:
        return warning(
            "reads",
            f"{says}; the default timeout of a primary is {ms(timeout)}",
            "run the sidecar next to its callers and close to Redis",
        )
    return ok("reads", says)


def check_round_trip(target: str, token: TokenFile | None, tls: TLS | None, timeout: timedelta) -> Iterator[Finding]:
    """Write, read and delete notes in a temporary session."""
    session_id, notes = _new_session_id(), Notes(summary="written by session-notes doctor")
    try:
        with (
            PrimaryClient(target, token=token, tls=tls, timeout=timeout, state_timeout=timeout) as primary,
            ObserverClient(target, token=token, tls=tls, timeout=timeout) as observer,
        ):
            # Deleting first ensures that a caller without permission to delete fails before the session exists.
            primary.delete_session(session_id)
            primary.update_session(session_id, ttl=_SESSION_TTL)
            try:
                began = time.time()
                result = observer.write_notes(session_id, notes)
                ended = time.time()
                reading = primary.get_notes(session_id)
            finally:
                primary.delete_session(session_id)
            after_deletion = primary.get_notes(session_id)
    except SessionNotesError as error:
        yield problem(
            "writes",
            f"writing, reading and deleting notes failed ({type(error).__name__})",
            "use an admin's token without prefixes; if you already do, see the sidecar's log",
        )
        return
    if reading.notes != notes or after_deletion.ready:
        yield problem(
            "writes",
            "the notes read differ from those written, or outlive their session",
            "this is a bug: please report it",
        )
        return
    yield ok("writes", "notes were written, read and deleted in a temporary session")
    yield clock("the store's clock", result.write_time.timestamp() - (began + ended) / 2)


def _new_session_id() -> str:
    return f"doctor-{secrets.token_hex(8)}"
