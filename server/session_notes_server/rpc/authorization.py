"""Authorization: which methods a caller may call, by its role, and which sessions it may use, by its token's prefixes.

Access is denied by default. No role may call a method without a row, and no limited token one whose requests name
sessions in an unknown way. A contract method of either kind prevents the sidecar from starting. Only `grpc.health.v1`
is exempt, because probes have no credentials and learn only whether the sidecar is serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from session_notes_server.contract import REFLECTION_SERVICES, SERVICES, is_id
from session_notes_server.identity.callers import ALL_SESSIONS, Caller, CertificateRoles, Tokens
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
    **dict.fromkeys(REFLECTION_SERVICES, _EVERY_ROLE),
    # Lists every connected caller.
    "grpc.channelz.v1.Channelz": _ADMIN,
}
"""Permitted roles, per method of the contract, or per service outside the contract."""


LISTINGS = {"session_notes.v1.SessionNotes.ListDueSessions", "session_notes.v1.SessionState.ListSessions"}
"""Methods whose requests name no session. `SessionScan` finds only sessions for which `may_list` is true."""


def _check_table() -> None:
    methods = {method.full_name for service in SERVICES for method in service.methods}
    rows = {name for name in ALLOWED if name.startswith("session_notes.")}
    if difference := methods ^ rows:
        raise RuntimeError(f"methods without a row in ALLOWED, or rows without a method: {sorted(difference)}")


def _session_paths(message: Descriptor) -> Iterator[str]:
    """Yield the path of every field `session_id` in a request."""
    for field in message.fields:
        if field.name == "session_id":
            yield field.name
        elif field.message_type is not None and field.message_type.file.package == message.file.package:
            yield from (f"{field.name}.{path}" for path in _session_paths(field.message_type))


_SESSIONS_AT: dict[tuple[str, ...], Callable[[Any], Iterable[str]]] = {
    (): lambda _: (),
    ("session_id",): lambda request: (request.session_id,),
    ("requests.session_id",): lambda request: (entry.session_id for entry in request.requests),
}


def _sessions_by_method() -> dict[str, Callable[[Any], Iterable[str]]]:
    """Return, for each method of the contract, a function that returns the session ids in a request."""
    sessions = {}
    for method in (method for service in SERVICES for method in service.methods):
        paths = tuple(_session_paths(method.input_type))
        if paths not in _SESSIONS_AT or (method.full_name in LISTINGS) != (not paths):
            raise RuntimeError(f"{method.full_name} is neither one of LISTINGS nor are its sessions checked: {paths}")
        sessions[method.full_name] = _SESSIONS_AT[paths]
    return sessions


_check_table()
_SESSIONS_IN = _sessions_by_method()

_IDS_PER_TURN = 1000
# The prefixes of the caller of the current task's call.
_prefixes: ContextVar[tuple[str, ...]] = ContextVar("prefixes", default=ALL_SESSIONS)


async def limit_sessions(method: str, prefixes: tuple[str, ...], request: Message) -> None:
    """Check that each session in a request has one of the prefixes, and limit `may_list` to them for this call.

    Invalid ids are left to the servicer, which names the field.

    Raises:
        StatusError: PERMISSION_DENIED, if it names another session.
    """
    if (sessions := _SESSIONS_IN.get(method)) is None:
        raise errors.session_not_allowed()
    _prefixes.set(prefixes)
    for index, session_id in enumerate(sessions(request), 1):
        if not session_id.startswith(prefixes) and is_id(session_id):
            raise errors.session_not_allowed()
        if index % _IDS_PER_TURN == 0:
            await asyncio.sleep(0)


def may_list(session_id: str) -> bool:
    """Return whether the caller of the current call may see a session in a listing."""
    return session_id.startswith(_prefixes.get())


class Authorization:
    """Checks of callers. With neither tokens nor certificate roles, any caller may call any method."""

    def __init__(self, tokens: Tokens | None = None, certificate_roles: CertificateRoles | None = None) -> None:
        self._tokens = tokens
        self._certificate_roles = certificate_roles

    def check(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> tuple[str, ...]:
        """Check that the caller may call a method, given by its full name.

        Returns:
            The prefixes of the sessions that it may use, for `limit_sessions`. ALL_SESSIONS: it may use every session.

        Raises:
            StatusError: UNAUTHENTICATED or PERMISSION_DENIED, if it may not.
        """
        if self._tokens is None and self._certificate_roles is None:
            return ALL_SESSIONS
        caller = self._caller(context)
        if caller is None:
            raise errors.unauthenticated()
        if caller.role not in (ALLOWED.get(method) or ALLOWED.get(method.rpartition(".")[0]) or ()):
            raise errors.permission_denied(method)
        return caller.prefixes

    def _caller(self, context: grpc.aio.ServicerContext[Any, Any]) -> Caller | None:
        if self._tokens is not None:
            headers = [text for key, text in context.invocation_metadata() or () if key == "authorization"]
            if headers:
                # An unknown token is a mistake or an attack, even together with a known certificate.
                scheme, _, token = str(headers[0]).partition(" ")
                token = token.strip()
                usable = token and len(headers) == 1 and scheme.lower() == "bearer"
                return self._tokens.caller_of(token) if usable else None
        role = self._certificate_roles.role_of(_names(context)) if self._certificate_roles is not None else None
        return Caller(role) if role is not None else None


def _names(context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[str]:
    """Yield the names in the caller's certificate: DNS names and URIs of its SAN, and its CN."""
    properties = context.auth_context()
    for key in ("peer_dns", "peer_uri", "x509_common_name"):
        for name in properties.get(key, ()):
            yield name.decode(errors="replace")
