"""Who may call what: the one table of methods and roles, and the one place that asks it.

Denied by default: a method without a row is nobody's, and an RPC of ours without a row keeps the sidecar from starting.
`grpc.health.v1` alone is not asked about: probes have no credentials, and all they learn is whether the sidecar serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection
from session_notes.v1 import session_notes_pb2, session_state_pb2

from session_notes_server.identity.callers import CertificateRoles, Role, Tokens
from session_notes_server.rpc import errors
from session_notes_server.rpc.admission import Gate
from session_notes_server.telemetry.call_log import Account
from session_notes_server.telemetry.metrics.counting import Metrics

_BOTH = frozenset({Role.PRIMARY, Role.OBSERVER, Role.ADMIN})
_PRIMARY = frozenset({Role.PRIMARY, Role.ADMIN})
_OBSERVER = frozenset({Role.OBSERVER, Role.ADMIN})
_ADMIN = frozenset({Role.ADMIN})

_REFLECTION = f"{reflection.SERVICE_NAME}.ServerReflectionInfo"
_CHANNELZ = tuple(
    f"grpc.channelz.v1.Channelz.{name}"
    for name in (
        *("GetTopChannels", "GetServers", "GetServer", "GetServerSockets"),
        *("GetChannel", "GetSubchannel", "GetSocket"),
    )
)

ALLOWED: dict[str, frozenset[Role]] = {
    "session_notes.v1.SessionNotes.GetNotes": _BOTH,
    "session_notes.v1.SessionNotes.BatchGetNotes": _BOTH,
    "session_notes.v1.SessionNotes.BeginRun": _OBSERVER,
    "session_notes.v1.SessionNotes.WriteNotes": _OBSERVER,
    "session_notes.v1.SessionNotes.FailRun": _OBSERVER,
    "session_notes.v1.SessionNotes.ListRuns": _BOTH,
    # With the transcript, which observers are there to read.
    "session_notes.v1.SessionState.GetSession": _BOTH,
    "session_notes.v1.SessionState.UpdateSession": _PRIMARY,
    "session_notes.v1.SessionState.AppendTurns": _PRIMARY,
    "session_notes.v1.SessionState.DeleteSession": _PRIMARY,
    # Names every session, also those that the caller has nothing to do with.
    "session_notes.v1.SessionState.ListSessions": _ADMIN,
    _REFLECTION: _BOTH,
    # Names everybody who is connected.
    **dict.fromkeys(_CHANNELZ, _ADMIN),
}


def _check_table() -> None:
    services = (
        session_notes_pb2.DESCRIPTOR.services_by_name["SessionNotes"],
        session_state_pb2.DESCRIPTOR.services_by_name["SessionState"],
    )
    methods = {method.full_name for service in services for method in service.methods} | {_REFLECTION, *_CHANNELZ}
    if unsaid := methods ^ ALLOWED.keys():
        raise RuntimeError(f"who may call is not said, or said of nothing: {sorted(unsaid)}")


_check_table()


class Access:
    """Lets calls through, or not. With neither tokens nor identities, everybody who can connect may call everything.

    Args:
        tokens: Known tokens.
        identities: Known names of client certificates.
    """

    def __init__(self, tokens: Tokens | None = None, identities: CertificateRoles | None = None) -> None:
        self._tokens = tokens
        self._identities = identities

    def admit(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Return if the caller may call the method, by its full name.

        Raises:
            StatusError: UNAUTHENTICATED or PERMISSION_DENIED.
        """
        if self._tokens is None and self._identities is None:
            return
        role = self._role(context)
        if role is None:
            raise errors.unauthenticated()
        if role not in ALLOWED.get(method, ()):
            raise errors.permission_denied(method)

    def _role(self, context: grpc.aio.ServicerContext[Any, Any]) -> Role | None:
        if self._tokens is not None:
            sent = [text for key, text in context.invocation_metadata() or () if key == "authorization"]
            if sent:
                # A token that is not known is a mistake or an attack, whatever the certificate says.
                scheme, _, token = str(sent[0]).partition(" ")
                token = token.strip()
                return self._tokens.role_of(token) if token and len(sent) == 1 and scheme.lower() == "bearer" else None
        return self._identities.role_of(_names(context)) if self._identities is not None else None


def _names(context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[str]:
    """The names in the certificate that the caller has shown: DNS and URI of its SAN, and its CN."""
    properties = context.auth_context()
    for key in ("peer_dns", "peer_uri", "x509_common_name"):
        for name in properties.get(key, ()):
            yield name.decode(errors="replace")


class GuardedReflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # grpc_reflection has no types
    """Reflection for those who have a role; what the sidecar can do is nobody else's business.

    Args:
        access: Who has one.
        gate: How many may ask at once.
        service_names: The services to tell about.
        metrics: Where calls are counted, if that is wanted.
    """

    def __init__(self, access: Access, gate: Gate, service_names: list[str], metrics: Metrics | None = None) -> None:
        super().__init__(service_names)
        self._access = access
        self._gate = gate
        self._account = Account(_REFLECTION, metrics)

    async def ServerReflectionInfo(
        self, request_iterator: AsyncIterable[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Answer questions about the services, as grpcurl asks them."""
        with self._account.call(context):
            try:
                call = self._gate.enter(context)
                self._access.admit(_REFLECTION, context)
            except errors.StatusError as error:
                await context.abort(error.code, error.message, error.trailing_metadata())
            async for answer in super().ServerReflectionInfo(request_iterator, context):
                call.answering()
                yield answer
                call.answered()
            call.answering()
