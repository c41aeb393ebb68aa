"""Who callers are: tokens, certificates and the roles of their names, in files that are read again as they change.

`store/secrets.py` keeps what Redis is told who we are in the same way.

A file that cannot be used is refused at the start. Later the last good content stays, with one line in the log that
says which file and what is wrong with it, and never a word of what is in it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import grpc

log = logging.getLogger(__name__)

T = TypeVar("T")

RECHECK_SECONDS = 1.0
MAX_FILE_BYTES = 1024 * 1024

_EMPTY = hashlib.sha256(b"").digest()


class Role(StrEnum):
    """What a caller is to the sidecar."""

    PRIMARY = "primary"
    """Talks to the user: reads notes, owns the session's state."""

    OBSERVER = "observer"
    """Runs and writes notes, and reads the transcript."""

    ADMIN = "admin"
    """May call everything."""


class CredentialsError(Exception):
    """A file cannot be used. Its text says to an operator which one and why, never what is in it."""


class Tokens:
    """Tokens in the files `primary`, `observer` and `admin` of a directory, one per line; only their hashes are kept.

    A role can have several tokens, so that a new one can come before the old one goes. A missing file gives its role no
    token. Each file is judged by itself: while one cannot be used, tokens still come and go in the others.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise CredentialsError(f"there is no directory {directory}")
        self._paths = {role: directory / role for role in Role}
        self._files = {role: Reread(f"tokens in {path}", partial(_tokens, path)) for role, path in self._paths.items()}
        self._contents: tuple[dict[bytes, int], ...] = ()
        self._roles: dict[bytes, Role | None] = {}
        if faults := self._refresh():
            raise CredentialsError(faults[0])
        if not self._roles:
            names = ", ".join(Role)
            raise CredentialsError(f"there is no token in {directory}: write one a line into files named {names}")

    def role_of(self, token: str) -> Role | None:
        """Return the role of a token, if it is known."""
        for fault in self._refresh():
            log.error("%s: it keeps the role it had, if it had one", fault)
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        # All of them, each in constant time: how long it takes says nothing about what is known.
        for known, role in self._roles.items():
            if hmac.compare_digest(known, digest):
                found = role
        return found

    def _refresh(self) -> list[str]:
        """Give each token the role of the file it is in, and return what is wrong with those that are in two."""
        contents = tuple(file.now() for file in self._files.values())
        if contents == self._contents:
            return []
        faults, roles = list[str](), dict[bytes, Role | None]()
        for role, tokens in zip(self._files, contents, strict=True):
            for digest, number in tokens.items():
                if digest in roles:
                    faults.append(
                        f"line {number} of {self._paths[role]} is a token of the role {roles[digest]} already"
                    )
                    roles[digest] = self._roles.get(digest)
                else:
                    roles[digest] = role
        self._contents, self._roles = contents, roles
        return faults


class Identities:
    """Roles of client certificates, by a name in them: lines `role identity` in a file."""

    def __init__(self, path: Path) -> None:
        self._known = Reread(f"roles in {path}", partial(_identities, path))
        if not self._known.now():
            raise CredentialsError(f"there is no role in {path}: write lines such as `observer coach.example.org`")

    def role_of(self, names: Iterable[str]) -> Role | None:
        """The role of a certificate with these names; none where they are unknown, or of more than one role."""
        known = self._known.now()
        roles = {known[name] for name in names if name in known}
        return roles.pop() if len(roles) == 1 else None


class Certificates:
    """The sidecar's own certificate, and the authority that signs those of its clients where they must have one."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._files = Reread(f"certificate in {cert}", partial(_certificates, cert, key, client_ca))
        self._lock = threading.Lock()
        self._served = self._files.now()
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self._served),
            # None means: as before. types-grpcio does not know.
            self._changed,  # type: ignore[arg-type]
            require_client_authentication=client_ca is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        # Asked by gRPC at every handshake, in threads of its own.
        with self._lock:
            now = self._files.now()
            if now == self._served:
                return None
            self._served = now
            return _configuration(now)


class Reread(Generic[T]):
    """What files say, looked at again when asked, at most once a second unless it has to be now.

    They are small and local: reading them is cheaper than all that can go wrong in telling from a file's times whether
    it has changed.
    """

    def __init__(self, what: str, read: Callable[[], T]) -> None:
        self._what = what
        self._read = read
        self._content = read()
        self._fault = ""
        self._next = time.monotonic() + RECHECK_SECONDS

    def now(self, *, at_once: bool = False) -> T:
        """What they say now, or said when they were last in order; `at_once`: be it a moment since they were read."""
        if at_once or time.monotonic() >= self._next:
            try:
                content = self._read()
            except CredentialsError as error:
                if str(error) != self._fault:
                    log.error("%s: the last good %s stay in use", error, self._what)
                self._fault = str(error)
            else:
                if content != self._content or self._fault:
                    log.info("read again: %s", self._what)
                self._content, self._fault = content, ""
            self._next = time.monotonic() + RECHECK_SECONDS
        return self._content


def _tokens(path: Path) -> dict[bytes, int]:
    """Return the hashes of the tokens in a file, with the numbers of their lines."""
    try:
        content = _read(path, secret=True)
    except FileNotFoundError:
        return {}
    found: dict[bytes, int] = {}
    for number, line in _lines(path, content):
        digest = _digest(line)
        if digest is None:
            raise CredentialsError(f"line {number} of {path} is no token: printable ASCII without spaces")
        if digest == _EMPTY:
            raise CredentialsError(f"line {number} of {path} is the hash of no token at all: hash the token itself")
        found[digest] = number
    return found


def plain_token(directory: Path, roles: Iterable[Role]) -> tuple[Path, int] | None:
    """The file and the line of a token of one of the roles, as a client's `TokenFile` finds it: not of its hash."""
    for role in roles:
        path = directory / role
        if path.exists():
            number, line = next(_lines(path, _read(path, secret=True)), (0, "sha256:"))
            if not line.startswith("sha256:"):
                return path, number
    return None


def _digest(line: str) -> bytes | None:
    if line.startswith("sha256:"):
        return bytes.fromhex(line[7:]) if re.fullmatch(r"sha256:[0-9a-fA-F]{64}", line) else None
    return hashlib.sha256(line.encode()).digest() if re.fullmatch(r"[!-~]+", line) else None


def _identities(path: Path) -> dict[str, Role]:
    found: dict[str, Role] = {}
    for number, line in _lines(path, existing(path)):
        match line.split():
            case [role, name] if role in set(Role):
                if found.setdefault(name, Role(role)) != role:
                    raise CredentialsError(f"line {number} of {path} gives a name that has a role already another one")
            case _:
                roles = ", ".join(Role)
                raise CredentialsError(f"line {number} of {path} is not `role identity`, with a role of {roles}")
    return found


def _certificates(cert: Path, key: Path, client_ca: Path | None) -> tuple[bytes, bytes, bytes | None]:
    def read() -> tuple[bytes, bytes, bytes | None]:
        return existing(cert), existing(key, secret=True), existing(client_ca) if client_ca else None

    content = read()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password is not asked for on a terminal that nobody looks at: such a key is wrong here.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or "no PEM, or encrypted"
        raise CredentialsError(f"{cert} and {key} are no certificate and its key ({reason})") from None
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError):
            raise CredentialsError(f"{client_ca} holds no certificate of an authority") from None
    # OpenSSL takes files, gRPC their content: it must be the same that both saw.
    if read() != content:
        raise CredentialsError(f"{cert} or {key} changes while it is read")
    return content


def _configuration(content: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    cert, key, client_ca = content
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=client_ca)


def _lines(path: Path, content: bytes) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is not UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if said and not said.startswith("#"):
            yield number, said


def existing(path: Path, *, secret: bool = False) -> bytes:
    """What is in a file, if its owner and mode let it be trusted, as a secret or as something that others may read.

    Raises:
        CredentialsError: there is none, or it cannot be trusted or read.
    """
    try:
        return _read(path, secret=secret)
    except FileNotFoundError:
        raise CredentialsError(f"there is no file {path}") from None


def _read(path: Path, *, secret: bool = False) -> bytes:
    """What is in a file, if its owner and mode let it be trusted; FileNotFoundError where there is none."""
    try:
        # Not blocking: a pipe in its place must not hold up a call.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _check(path, os.fstat(file.fileno()), secret=secret)
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise CredentialsError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return content


def _check(path: Path, status: os.stat_result, *, secret: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CredentialsError(f"{path} is no file")
    if status.st_uid not in {os.geteuid(), 0}:
        raise CredentialsError(f"{path} belongs to another user: it must be ours or root's")
    # A group may read what is root's, as secrets are mounted in containers; as PostgreSQL has it for its key.
    too_open = (0o027 if status.st_uid == 0 != os.geteuid() else 0o077) if secret else 0o002
    if status.st_mode & too_open:
        allowed = "others can read or change it: chmod 600" if secret else "others can change it: chmod o-w"
        raise CredentialsError(f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, {allowed}")
