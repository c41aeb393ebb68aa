"""Who we are to a sidecar, and whether others can listen: the token of each call, and TLS."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from session_notes._errors import InvalidArgument

Token: TypeAlias = str | Callable[[], str]
"""A token, or what gives the one of the moment; asked at every call, so it must be quick."""

# No pathlib: a quarter of the time that importing this package takes would be its.
PathLike: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TLS:
    """Encrypts the connection, and has the sidecar show its certificate. The files are read when a client connects.

    >>> PrimaryClient("notes.example.org:50051", tls=TLS(ca="ca.pem"), token=TokenFile("token"))
    """

    ca: PathLike | None = None
    """Whose certificates a sidecar may have, as PEM. None: those of the authorities that gRPC knows."""

    cert: PathLike | None = None
    """Our own certificate, as PEM, where the sidecar wants one."""

    key: PathLike | None = None
    """The private key of it."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("a certificate and its key go together")


class TokenFile:
    """A token in a file, read again when the file changes; where that fails, the last one stays.

    It is the first line that is neither blank nor a comment (#), as in the files of the sidecar.

    Raises:
        InvalidArgument: There is no token in it.
    """

    __slots__ = ("_path", "_seen", "_token")

    def __init__(self, path: PathLike) -> None:
        self._path = os.fspath(path)
        try:
            self._seen = self._look()
            found = self._read()
        except OSError as error:
            raise InvalidArgument(f"the token file {self._path} cannot be read: {error.strerror}") from None
        if found is None:
            raise InvalidArgument(f"there is no token in {self._path}")
        self._token = found

    def __call__(self) -> str:
        """The token of the moment."""
        try:
            seen = self._look()
            if seen != self._seen and (found := self._read()) is not None:
                self._seen, self._token = seen, found
        except OSError:
            pass  # It is being replaced; what we have may still do, and if not, the sidecar says so.
        return self._token

    def _look(self) -> tuple[int, int, int]:
        status = os.stat(self._path)
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> str | None:
        with open(self._path, encoding="utf-8", errors="replace") as file:
            for line in file:
                said = line.strip()
                if said and not said.startswith("#"):
                    return said if _is_token(said) else None
        return None


class Credentials:
    """What a client connects and calls with.

    Args:
        target: The sidecar's address.
        token: As the client was told; None: as the environment says.
        tls: As the client was told; None: as the environment says.

    Raises:
        InvalidArgument: They do not fit, or the token would travel for everybody to read.
    """

    __slots__ = ("_token", "tls")

    def __init__(self, target: str, token: Token | None, tls: TLS | None) -> None:
        unix = target.startswith(("unix:", "unix-abstract:"))
        if unix and tls is not None:
            raise InvalidArgument("a unix socket takes no TLS: it never leaves this machine")
        self.tls = None if unix else tls or _tls_of_environment()
        self._token = _token_of_environment() if token is None else token
        if isinstance(self._token, str):
            _checked(self._token)
        if self._token is not None and self.tls is None and not unix and not _is_loopback(target):
            raise InvalidArgument("a token goes to another machine with TLS alone: give tls, or SESSION_NOTES_TLS_CA")

    def metadata(self) -> Sequence[tuple[str, str]]:
        """What goes with a call."""
        if self._token is None:
            return ()
        token = self._token if isinstance(self._token, str) else _checked(self._token())
        return (("authorization", f"Bearer {token}"),)


def _token_of_environment() -> Token | None:
    if token := os.environ.get("SESSION_NOTES_TOKEN"):
        return token
    path = os.environ.get("SESSION_NOTES_TOKEN_FILE")
    return TokenFile(path) if path else None


def _tls_of_environment() -> TLS | None:
    ca, cert, key = (os.environ.get(f"SESSION_NOTES_TLS_{name}") for name in ("CA", "CERT", "KEY"))
    if not (ca or cert or key):
        return None
    return TLS(ca or None, cert or None, key or None)


def _is_token(text: object) -> bool:
    return isinstance(text, str) and bool(text) and all("!" <= letter <= "~" for letter in text)


def _checked(token: str) -> str:
    if not _is_token(token):
        # Without a word of it: errors end up in logs.
        raise InvalidArgument("a token must be printable ASCII without spaces")
    return token


def _is_loopback(target: str) -> bool:
    """Whether all addresses of a target are this machine's own. A name is, if it is `localhost`: none is looked up."""
    import ipaddress  # only for those who have a token

    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        if target.startswith(scheme):
            target = target.removeprefix(scheme)
            break
    for address in target.split(","):
        host, _, port = address.rpartition(":")
        if not port.isdecimal():
            return False
        try:
            if host != "localhost" and not ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback:
                return False
        except ValueError:
            return False
    return True
