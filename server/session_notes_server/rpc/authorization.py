"""Authorization: the table of methods and roles, and the check of every call against it.

Access is denied by default. No role may call a method without a row, and a contract method without a row prevents the
sidecar from starting. Only `grpc.health.v1` is exempt, because probes have no credentials and learn only whether the
sidecar is serving.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from session_notes_server.contract import SERVICES
from session_notes_server.identity.callers import CertificateRoles, Tokens
from session_notes_server.identity.roles import Role
from session_notes_server.rpc import errors

_EVERY_ROLE = frozenset({Role.PRIMARY, Role.OBSERVER, Role.ADMIN})
_PRIMARY = frozenset({Role.PRIMARY, Role.ADMIN})
_OBSERVER = frozenset({Role.OBSERVER, Role.ADMIN})
_ADMIN = frozenset({Role.ADMIN})

ALLOWED: dict[str, frozenset[Role]] = {
    "session_notes.v1.SessionNotes.GetNotes": _EVERY_ROLE,
    "session_notes.v1.SessionNotes.BatchGetNotes": _EVERY_ROLE,
    "session_notes.v1.SessionNotes.BeginRun": _OBSERVER,
    "session_notes.v1.SessionNotes.WriteNotes": _OBSERVER,
    "session_notes.v1.SessionNotes.FailRun": _OBSERVER,
    "session_notes.v1.SessionNotes.RenewRun": _OBSERVER,
    # Lists sessions of every primary, which an observer without a queue must find.
    "session_notes.v1.SessionNotes.ListDueSessions": _OBSERVER,
    "session_notes.v1.SessionNotes.ListRuns": _EVERY_ROLE,
    # Includes the transcript, which observers must read.
    "session_notes.v1.SessionState.GetSession": _EVERY_ROLE,
    "session_notes.v1.SessionState.UpdateSession": _PRIMARY,
    "session_notes.v1.SessionState.AppendTurns": _PRIMARY,
    "session_notes.v1.SessionState.DeleteSession": _PRIMARY,
    # Lists every session.
    "session_notes.v1.SessionState.ListSessions": _ADMIN,
    # All methods of a service.
    "grpc.reflection.v1alpha.ServerReflection": _EVERY_ROLE,
    # Lists every connected caller.
    "grpc.channelz.v1.Channelz": _ADMIN,
}
"""Permitted roles, per method of the contract, or per service outside the contract."""


def _check_table() -> None:
    methods = {method.full_name for service in SERVICES for method in service.methods}
    rows = {name for name in ALLOWED if name.startswith("session_notes.")}
    if difference := methods ^ rows:
        raise RuntimeError(f"methods without a row in ALLOWED, or rows without a method: {sorted(difference)}")


_check_table()


class Authorization:
    """Role checks for callers. With neither tokens nor certificate roles, any caller may call any method."""

    def __init__(self, tokens: Tokens | None = None, certificate_roles: CertificateRoles | None = None) -> None:
        self._tokens = tokens
        self._certificate_roles = certificate_roles

    def check(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Check that the caller may call a method, given by its full name.

        Raises:
            StatusError: UNAUTHENTICATED or PERMISSION_DENIED, if it may not.
        """
        if self._tokens is None and self._certificate_roles is None:
            return
        role = self._role(context)
        if role is None:
            raise errors.unauthenticated()
        if role not in (ALLOWED.get(method) or ALLOWED.get(method.rpartition(".")[0]) or ()):
            raise errors.permission_denied(method)

    def _role(self, context: grpc.aio.ServicerContext[Any, Any]) -> Role | None:
        if self._tokens is not None:
            headers = [text for key, text in context.invocation_metadata() or () if key == "authorization"]
            if headers:
                # An unknown token is a mistake or an attack, even together with a known certificate.
                scheme, _, token = str(headers[0]).partition(" ")
                token = token.strip()
                usable = token and len(headers) == 1 and scheme.lower() == "bearer"
                return self._tokens.role_of(token) if usable else None
        return self._certificate_roles.role_of(_names(context)) if self._certificate_roles is not None else None


def _names(context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[str]:
    """Yield the names in the caller's certificate: DNS names and URIs of its SAN, and its CN."""
    properties = context.auth_context()
    for key in ("peer_dns", "peer_uri", "x509_common_name"):
        for name in properties.get(key, ()):
            yield name.decode(errors="replace")
