"""What is checked of a sidecar, from the outside in: its address, TLS, gRPC, health, who we are to it, its contract."""

from __future__ import annotations

import errno
import secrets
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from session_notes import TLS, Notes, ObserverClient, PrimaryClient, SessionNotesError, TokenFile
from session_notes._channel import open_channel
from session_notes._credentials import Credentials
from session_notes.v1 import (
    error_reason_pb2,
    notes_pb2,
    session_notes_pb2,
    session_notes_pb2_grpc,
    session_state_pb2,
    session_state_pb2_grpc,
    turn_pb2,
)

from session_notes_server.doctor import probe
from session_notes_server.doctor.findings import Finding, clock, ms, ok, problem, skipped, warning
from session_notes_server.health import LIVE, READY
from session_notes_server.store import reason

READS = 5
EXPIRY_SOON = timedelta(days=14)
# What a primary waits for its notes unless told.
_PATIENCE = timedelta(milliseconds=250)
_SESSION_TTL = timedelta(minutes=5)

_Metadata: TypeAlias = tuple[tuple[str, str], ...] | None
_CONTRACT = (error_reason_pb2, notes_pb2, turn_pb2, session_notes_pb2, session_state_pb2)
_START = "start it with session-notes serve, or say where it is with --target or SESSION_NOTES_TARGET"
_ELSE = f"something else may be listening there; {_START}"
_ITS_OWNER = "the socket is its owner's alone: run this, and your clients, as the user of the sidecar"
_DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the sidecar is asked with.

    Attributes:
        target: Where it is.
        token: Reads the token to call with; None: none is given but what the environment has.
        tls: How to encrypt; None: not at all.
        timeout: How long each step may take.
    """

    target: str
    token: Callable[[], TokenFile | None]
    tls: Callable[[], TLS | None]
    timeout: timedelta

    @property
    def seconds(self) -> float:
        """The same, in seconds."""
        return self.timeout.total_seconds()


def checked(asked: Asked, *, write: bool) -> Iterator[Finding]:
    """Check a sidecar, as far as one gets.

    Args:
        asked: Which, and how.
        write: Whether to write and delete notes, too, in a session of our own. Else nothing is changed there.
    """
    try:
        token = asked.token()
        credentials = Credentials(asked.target, token, asked.tls())
        channel = open_channel(asked.target, credentials.tls)
    except SessionNotesError as error:
        # Of the clients' own checks, whose texts hold names of files and options alone.
        yield problem("options", str(error), "see session-notes doctor --help, under Common options")
        return
    with channel:
        reached = yield from _reached(asked, credentials.tls)
        if not reached:
            return
        serving = yield from _health(channel, asked.seconds)
        if serving is None:
            return
        sent = credentials.metadata()
        metadata = tuple(sent) if sent else None
        certificate = credentials.tls is not None and credentials.tls.cert is not None
        known = yield from _who_we_are(channel, metadata, asked.seconds, certificate=certificate)
        if not known:
            return
        yield _contract(channel, metadata, asked.seconds)
        if serving:
            yield _reads(channel, metadata, asked.seconds)
            if write:
                yield from _round_trip(asked, token, credentials.tls)
        else:
            yield skipped("reads", "not tried while it is not ready")


def _reached(asked: Asked, tls: TLS | None) -> Generator[Finding, None, bool]:
    """Look at the address, the connection and what is spoken over it → whether gRPC can be."""
    try:
        place = probe.Place.of(asked.target)
    except ValueError:
        yield problem("address", f"{asked.target} is no address", "write host:port or unix:/path")
        return False
    began = time.monotonic()
    try:
        connection = place.connect(asked.seconds)
    except OSError as error:
        yield _unreachable(asked.target, error)
        return False
    yield ok("address", f"{asked.target} takes connections, after {ms(time.monotonic() - began)}")
    if tls is None:
        with connection:
            said = _spoken_in_plain_text(connection, place, asked.seconds)
    else:
        connection.close()
        said = yield from _spoken_over_tls(place, tls, asked.seconds)
    if said is not None:
        yield said
        return False
    yield ok("protocol", "HTTP/2, as gRPC has it" + ("" if tls else "; without TLS"))
    return True


def _unreachable(target: str, error: OSError) -> Finding:
    if isinstance(error, TimeoutError):
        return problem(
            "address", f"nobody answers at {target}", "see whether the address is right, and no firewall is in between"
        )
    advice = _ITS_OWNER if error.errno == errno.EACCES else _START
    if isinstance(error, socket.gaierror):
        advice = "see whether the name is right, and known on this machine"
    return problem("address", f"no connection to {target}: {reason(error)}", advice)


def _spoken_in_plain_text(connection: socket.socket, place: probe.Place, seconds: float) -> Finding | None:
    """What is wrong with what is spoken there, if anything is."""
    try:
        other = probe.who_else(connection)
    except TimeoutError:
        return problem("protocol", "it takes connections and says nothing", _ELSE)
    except OSError:
        if place.port and probe.speaks_tls(place, seconds):
            return problem("protocol", "TLS is spoken there", "give --tls-ca FILE, the authority of its certificate")
        return problem("protocol", "it ends the connection at once", _ELSE)
    return problem("protocol", f"there is {other}, and no sidecar", _ELSE) if other else None


def _spoken_over_tls(place: probe.Place, tls: TLS, seconds: float) -> Generator[Finding, None, Finding | None]:
    """Look at the certificate → what is wrong with what is spoken over TLS, if anything is."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert and tls.key:
            context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError):
        return problem(
            "certificate",
            "what --tls-ca, --tls-cert or --tls-key name holds no certificate or no key to it",
            "they are PEM files; a key must not be encrypted",
        )
    context.set_alpn_protocols(["h2"])
    try:
        connection = probe.encrypted(place, context, seconds)
    except ssl.SSLCertVerificationError as error:
        return _not_trusted(place, context, error, seconds)
    except TimeoutError:
        return problem("protocol", "it takes connections and does not answer in TLS", _ELSE)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return _not_taken(tls)
        return problem("protocol", "no TLS is spoken there", "leave --tls-ca out, or start the sidecar with --tls-cert")
    with connection:
        yield _certificate_in_order(connection.getpeercert() or {})
        try:
            other = probe.who_else(connection)
        except TimeoutError:
            return problem("protocol", "it takes connections and says nothing", _ELSE)
        except OSError:
            # In TLS 1.3 our certificate is looked at when all seems done; gRPC then ends the connection without a word.
            return _not_taken(tls)
    return problem("protocol", f"there is {other}, and no sidecar", _ELSE) if other else None


def _not_taken(tls: TLS) -> Finding:
    if tls.cert:
        return problem(
            "protocol",
            "it does not take our certificate",
            "--tls-cert must be of the authority that the sidecar has for --tls-client-ca, and not expired",
        )
    return problem("protocol", "it asks for a certificate of ours", "give --tls-cert and --tls-key")


def _certificate_in_order(shown: dict[str, Any]) -> Finding:
    ends = _when(shown["notAfter"])
    left = ends - datetime.now(UTC)
    says = f"for {_names(shown)}, until {ends:%Y-%m-%d}"
    if left < EXPIRY_SOON:
        return warning("certificate", f"{says}: {_days(left)} more", "renew it; the sidecar reads it again by itself")
    return ok("certificate", says)


def _not_trusted(
    place: probe.Place, context: ssl.SSLContext, error: ssl.SSLCertVerificationError, seconds: float
) -> Finding:
    """A certificate that is not for us, or not now, or of an authority nobody told us of."""
    shown = probe.certificate(place, context, seconds)
    if not shown:
        return problem(
            "certificate",
            f"it is not trusted: {error.verify_message.rstrip('.')}",
            "--tls-ca must name the authority that signed it",
        )
    begins, ends, now = _when(shown["notBefore"]), _when(shown["notAfter"]), datetime.now(UTC)
    if now > ends:
        return problem("certificate", f"it has expired {_days(now - ends)} ago, on {ends:%Y-%m-%d}", "renew it")
    if now < begins:
        return problem(
            "certificate", f"it counts from {begins:%Y-%m-%d} on", "see whether the clock of this machine is right"
        )
    return problem(
        "certificate",
        f"it is for {_names(shown)}, and not for {place.host}",
        "call the sidecar by a name in its certificate, or have a certificate made for this one",
    )


def _when(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _names(shown: dict[str, Any]) -> str:
    return ", ".join(name for _, name in shown.get("subjectAltName", ())) or "no name at all"


def _days(span: timedelta) -> str:
    return "1 day" if span.days == 1 else f"{span.days} days" if span.days else f"{span // timedelta(hours=1)} h"


def _health(channel: grpc.Channel, seconds: float) -> Generator[Finding, None, bool | None]:
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
                yield problem("health", f"a gRPC server, but none of ours ({code.name})", _ELSE)
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


def _who_we_are(
    channel: grpc.Channel, metadata: _Metadata, seconds: float, *, certificate: bool
) -> Generator[Finding, None, bool]:
    """Find out what the token, or the certificate, lets us do → whether it lets us in."""

    def admitted(call: Any, request: Any, sent: _Metadata) -> bool:
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


def _not_let_in(metadata: _Metadata, *, certificate: bool) -> Finding:
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


def _contract(channel: grpc.Channel, metadata: _Metadata, seconds: float) -> Finding:
    """Compare what the sidecar can do with what this version knows: no RPC tells a version's number."""
    mine = f"this is {version('session-notes')}"
    files = [module.DESCRIPTOR.name for module in _CONTRACT]
    requests = [reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in files]
    try:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = list(stub.ServerReflectionInfo(iter(requests), timeout=seconds, metadata=metadata))
        theirs = _parts(
            FileDescriptorProto.FromString(file)
            for answer in answers
            for file in answer.file_descriptor_response.file_descriptor_proto
        )
    except (grpc.RpcError, DecodeError):
        return skipped("contract", f"{mine}; the sidecar does not tell what it can do")
    ours = _parts(_described(module) for module in _CONTRACT)
    if missing := sorted(ours - theirs):
        return warning(
            "contract",
            f"{mine}; the sidecar is older, and lacks {_some(missing)}",
            "update the sidecar before its clients",
        )
    if more := sorted(theirs - ours):
        return warning(
            "contract", f"{mine}; the sidecar is newer, and has {_some(more)} too", "update this, if you use it"
        )
    return ok("contract", f"{mine}; the sidecar can do all that it knows, and no more")


def _described(module: Any) -> FileDescriptorProto:
    described = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(described)
    return described


def _parts(files: Iterable[FileDescriptorProto]) -> set[str]:
    """The names of all RPCs, fields and values of enums in our own files."""
    found: set[str] = set()
    for file in files:
        if not file.package.startswith("session_notes."):
            continue
        found |= {f"{service.name}.{method.name}" for service in file.service for method in service.method}
        found |= {f"{message.name}.{field.name}" for message in file.message_type for field in message.field}
        found |= {value.name for enum in file.enum_type for value in enum.value}
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _reads(channel: grpc.Channel, metadata: _Metadata, seconds: float) -> Finding:
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


def _round_trip(asked: Asked, token: TokenFile | None, tls: TLS | None) -> Iterator[Finding]:
    """Write, read and delete notes in a session of our own."""
    session_id, written = _name(), Notes(summary="written by session-notes doctor")
    wait = asked.timeout
    try:
        with (
            PrimaryClient(asked.target, token=token, tls=tls, timeout=wait, state_timeout=wait) as primary,
            ObserverClient(asked.target, token=token, tls=tls, timeout=wait) as observer,
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
