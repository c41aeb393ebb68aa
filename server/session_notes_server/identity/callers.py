"""The tokens and certificate names that grant a role, and the sidecar's own certificate."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc

from session_notes_server.contract import is_id
from session_notes_server.identity.roles import Role
from session_notes_server.identity.trusted_files import (
    CredentialsError,
    Reloader,
    lines,
    read_if_present,
    read_trusted_file,
)

log = logging.getLogger(__name__)

_DIGEST_OF_NOTHING = hashlib.sha256(b"").digest()
_PREFIX = "prefix="

ALL_SESSIONS = ("",)
"""The prefixes of a caller that may use every session."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What a token or a certificate grants.

    Attributes:
        role: The methods that the caller may call.
        prefixes: The sessions that it may use: those whose ids begin with one of these.
    """

    role: Role
    prefixes: tuple[str, ...] = ALL_SESSIONS


class Tokens:
    """Tokens in the files `primary`, `observer` and `admin` of a directory, one per line. Only hashes stay in memory.

    A line `TOKEN prefix=acme.` limits a token to sessions whose ids begin with a prefix; it can have several.

    A role can have several tokens, so that a new token can be accepted before the old one is revoked. A missing file
    means that its role has no tokens; a missing directory or a broken link is an unusable file. An unusable file does
    not prevent changes to the other files.

    Raises:
        CredentialsError: If a file is unusable, or if no file contains a token.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = {role: directory / role for role in Role}
        self._files = {
            role: Reloader(f"content of {path}", partial(_load_tokens, path)) for role, path in self._paths.items()
        }
        self._contents: tuple[dict[bytes, _TokenLine], ...] = ()
        self._callers: dict[bytes, Caller | None] = {}
        if faults := self._refresh():
            raise CredentialsError(faults[0])
        if not self._callers:
            names = ", ".join(Role)
            raise CredentialsError(f"no token in {directory}: write one per line into files named {names}")

    def caller_of(self, token: str) -> Caller | None:
        """Return what a token grants, or None if it is not in the files."""
        for fault in self._refresh():
            log.error("%s; the token keeps its current role, if any", fault)
        digest = hashlib.sha256(token.encode()).digest()
        caller = None
        # Compare with every token, each in constant time, so that the duration reveals nothing about them.
        for candidate, candidate_caller in self._callers.items():
            if hmac.compare_digest(candidate, digest):
                caller = candidate_caller
        return caller

    def _refresh(self) -> list[str]:
        """Reload the files, map each token to the role of its file, and return a fault for each token in two files."""
        contents = tuple(file.current() for file in self._files.values())
        if contents == self._contents:
            return []
        faults, callers, roles = list[str](), dict[bytes, Caller | None](), dict[bytes, Role]()
        for role, tokens in zip(self._files, contents, strict=True):
            for digest, line in tokens.items():
                if roles.setdefault(digest, role) == role:
                    callers[digest] = Caller(role, line.prefixes)
                else:
                    place = f"line {line.number} of {self._paths[role]}"
                    faults.append(f"{place} is a token that already has the role {roles[digest]}")
                    callers[digest] = self._callers.get(digest)
        self._contents, self._callers = contents, callers
        return faults


class CertificateRoles:
    """Roles of client certificates by the names in them, from a file of lines `role name`.

    Raises:
        CredentialsError: If the file is unusable or empty.
    """

    def __init__(self, path: Path) -> None:
        self._file = Reloader(f"content of {path}", partial(_load_roles, path))
        if not self._file.current():
            raise CredentialsError(f"no role in {path}: write lines such as `observer coach.example.org`")

    def role_of(self, names: Iterable[str]) -> Role | None:
        """Return the role of a certificate with these names, or None if they are unknown or have several roles."""
        roles_by_name = self._file.current()
        roles = {roles_by_name[name] for name in names if name in roles_by_name}
        return roles.pop() if len(roles) == 1 else None


class Certificates:
    """The sidecar's certificate and, for mutual TLS, the authority that signs its clients' certificates.

    All are PEM files. Without `client_ca`, clients need no certificate.

    Raises:
        CredentialsError: If a file is unusable, or if key and certificate do not match.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._files = Reloader(f"certificate in {cert}", partial(_load_certificates, cert, key, client_ca))

    def context(self) -> ssl.SSLContext:
        """Return the context for the handshake of the next connection, with the current certificate."""
        return self._files.current().context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a server of gRPC, which follow changes of the files."""
        served, lock = self._files.current(), threading.Lock()

        def changed_configuration() -> grpc.ServerCertificateConfiguration | None:
            # gRPC calls this at every handshake, from its own threads.
            nonlocal served
            with lock:
                current = self._files.current()
                if current == served:
                    return None
                served = current
                return _configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(served),
            # None keeps the current configuration; types-grpcio does not list it.
            changed_configuration,  # type: ignore[arg-type]
            require_client_authentication=served.client_ca is not None,
        )


@dataclass(frozen=True, slots=True)
class _LoadedCertificates:
    """The content of the files of `Certificates`, and a context made of it."""

    cert: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext = field(compare=False)


def plain_token(directory: Path, roles: Iterable[Role]) -> tuple[Path, int] | None:
    """Return the file and line of a token that a client's `TokenFile` can read, for the first of the roles with one.

    A file that begins with a hash or a limited token is skipped: a client cannot send a hash, and reads a token that is
    alone on its line.
    """
    for role in roles:
        path = directory / role
        content = read_if_present(path, secret=True)
        if content is not None:
            number, line = next(lines(path, content), (0, "sha256:"))
            if not line.startswith("sha256:") and len(line.split()) == 1:
                return path, number
    return None


class _TokenLine(NamedTuple):
    number: int
    prefixes: tuple[str, ...]


def _load_tokens(path: Path) -> dict[bytes, _TokenLine]:
    """Return the lines of a file by the hashes of their tokens."""
    tokens: dict[bytes, _TokenLine] = {}
    content = read_if_present(path, secret=True)
    if content is None:
        # This is no revocation. It happens while a directory is replaced, or if it is not mounted again.
        if not path.parent.is_dir():
            raise CredentialsError(f"the directory {path.parent} does not exist")
        if path.is_symlink():
            raise CredentialsError(f"{path} is a link to a file that does not exist")
        return tokens
    for number, line in lines(path, content):
        token, *limits = line.split()
        digest = _token_digest(token)
        if digest is None:
            raise CredentialsError(f"line {number} of {path} is not a token: use printable ASCII without spaces")
        if digest == _DIGEST_OF_NOTHING:
            raise CredentialsError(f"line {number} of {path} is the hash of an empty token: hash the token itself")
        prefixes = [limit.removeprefix(_PREFIX) for limit in limits if limit.startswith(_PREFIX)]
        if token.startswith(_PREFIX) or len(prefixes) < len(limits) or not all(map(is_id, prefixes)):
            raise CredentialsError(
                f"line {number} of {path} is neither `TOKEN` nor `TOKEN prefix=TEXT`: TEXT must be 1 to 256 bytes of "
                "printable ASCII without space, '{' or '}', as in session ids"
            )
        added = _TokenLine(number, tuple(sorted(set(prefixes))) or ALL_SESSIONS)
        if tokens.setdefault(digest, added).prefixes != added.prefixes:
            raise CredentialsError(f"line {number} of {path} gives other prefixes to the token of an earlier line")
    return tokens


def _token_digest(token: str) -> bytes | None:
    if token.startswith("sha256:"):
        return bytes.fromhex(token[7:]) if re.fullmatch(r"sha256:[0-9a-fA-F]{64}", token) else None
    return hashlib.sha256(token.encode()).digest() if re.fullmatch(r"[!-~]+", token) else None


def _load_roles(path: Path) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for number, line in lines(path, read_trusted_file(path)):
        match line.split():
            case [role, name] if role in set(Role):
                if roles.setdefault(name, Role(role)) != role:
                    raise CredentialsError(f"line {number} of {path} assigns a second role to a name")
            case _:
                names = ", ".join(Role)
                raise CredentialsError(f"line {number} of {path} is not `role name`, where role is one of {names}")
    return roles


def _load_certificates(cert: Path, key: Path, client_ca: Path | None) -> _LoadedCertificates:
    def read() -> tuple[bytes, bytes, bytes | None]:
        authority = read_trusted_file(client_ca) if client_ca else None
        return read_trusted_file(cert), read_trusted_file(key, secret=True), authority

    content = read()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        # An encrypted key is an error: OpenSSL must not ask for its password on a terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or "not PEM, or encrypted"
        raise CredentialsError(f"{cert} and {key} are not a certificate and its key ({reason})") from None
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError):
            raise CredentialsError(f"{client_ca} contains no CA certificate: use a PEM file that does") from None
    # OpenSSL reads the files, and gRPC gets their content. Both must be the same.
    if read() != content:
        raise CredentialsError(f"{cert} or {key} changed while it was read")
    return _LoadedCertificates(*content, context)


def _configuration(loaded: _LoadedCertificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.cert)], root_certificates=loaded.client_ca)
