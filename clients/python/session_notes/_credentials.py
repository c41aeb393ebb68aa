"""Who we are to a sidecar, and whether others can listen: the token of each call, and TLS."""

import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from session_notes import _environment
from session_notes._errors import InvalidArgument, Unauthenticated

Token: TypeAlias = str | Callable[[], str]
"""A token, or what gives the one of the moment; asked at every call, so it must be quick."""

# No pathlib: a quarter of the time that importing this package takes would be its.
PathLike: TypeAlias = str | os.PathLike[str]

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TLS:
    """Encryption of the connection, and whose certificates to trust.

    The files are read when a client is made or opened, and again within a second of their replacement. The client then
    connects anew; calls in flight end on the old connection. Files that are replaced one after the other count once
    they fit each other again.

    >>> PrimaryClient("notes.example.org:50051", tls=TLS(ca="ca.pem"), token=TokenFile("token"))
    """

    ca: PathLike | None = None
    """Whose certificates a sidecar may have, as PEM. None: those of the authorities that gRPC knows."""

    cert: PathLike | None = None
    """Our own certificate, as PEM, where the sidecar wants one."""

    key: PathLike | None = None
    """The private key of it."""

    def __post_init__(self) -> None:
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, str | os.PathLike):
                raise InvalidArgument(f"tls.{name} must be a path, not {type(path).__name__}")
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("a certificate and its key go together")


class TLSFiles:
    """The files of a TLS, and whether they have been replaced.

    gRPC's credentials hold the content that they were made of, so a client with new files needs a new channel.
    """

    __slots__ = ("_next_look", "_seen", "_tls")

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._seen = self._look()
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def look_soon(self) -> None:
        """Look at the next call: a connection that was refused may be so for what the files held."""
        self._next_look = 0.0

    def replaced(self) -> bool:
        """Return whether the files have changed and fit each other; once per change, with one look a second."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_SECONDS
        seen = self._look()
        if seen == self._seen or not self._fit():
            return False
        self._seen = seen
        return True

    def _look(self) -> list[tuple[int, int, int] | None]:
        seen: list[tuple[int, int, int] | None] = []
        for path in (self._tls.ca, self._tls.cert, self._tls.key):
            try:
                seen.append(None if path is None else _look(path))
            except (OSError, ValueError):
                seen.append(None)
        return seen

    def _fit(self) -> bool:
        import ssl  # only for those whose files change

        try:
            context = ssl.create_default_context(cafile=self._tls.ca)
            if self._tls.cert and self._tls.key:
                context.load_cert_chain(self._tls.cert, self._tls.key, password=lambda: b"")
        except (OSError, ValueError):
            return False
        return True


class TokenFile:
    """A token in a file, read again when the file changes; where that fails, the last one stays.

    It is the first line that is neither blank nor a comment (#), as in the files of the sidecar.

    Raises:
        InvalidArgument: There is no token in it.
    """

    __slots__ = ("_path", "_seen", "_token")

    def __init__(self, path: PathLike) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InvalidArgument(f"the path of a token file must be a path, not {type(path).__name__}")
        self._path = os.fspath(path)
        try:
            self._seen = _look(self._path)
            found = self._read()
        except (OSError, ValueError) as error:
            raise unreadable(self._path, error, "the token file ") from None
        if found is None:
            raise InvalidArgument(f"there is no token in {self._path}")
        self._token = found

    def __call__(self) -> str:
        """The token of the moment."""
        try:
            seen = _look(self._path)
            if seen != self._seen and (found := self._read()) is not None:
                self._seen, self._token = seen, found
        except OSError:
            pass  # It is being replaced; what we have may still do, and if not, the sidecar says so.
        return self._token

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
        anonymous: Whether calls carry no token, whatever the environment says.

    Raises:
        InvalidArgument: They do not fit, or the token would travel for everybody to read.
    """

    __slots__ = ("_token", "tls")

    def __init__(self, target: str, token: Token | None, tls: TLS | None, *, anonymous: bool = False) -> None:
        if tls is not None and not isinstance(tls, TLS):
            raise InvalidArgument(f"tls must be a session_notes.TLS, not {type(tls).__name__}")
        if token is not None and not isinstance(token, str) and not callable(token):
            raise InvalidArgument(f"token must be a str, or a function that returns one, not {type(token).__name__}")
        if any(map(inspect.iscoroutinefunction, (token, getattr(type(token), "__call__", None)))):  # noqa: B004
            raise InvalidArgument("token must not be an async function: it is asked within each call")
        unix = target.startswith(("unix:", "unix-abstract:"))
        if unix and tls is not None:
            raise InvalidArgument("a unix socket takes no TLS: it never leaves this machine")
        self.tls = None if unix else tls or _tls_of_environment()
        self._token = _token_of_environment() if token is None and not anonymous else token
        if isinstance(self._token, str):
            _checked(self._token)
        if self._token is not None and self.tls is None and not unix and not _is_loopback(target):
            raise InvalidArgument("a token goes to another machine with TLS alone: give tls, or SESSION_NOTES_TLS_CA")

    def metadata(self) -> Sequence[tuple[str, str]]:
        """Return what goes with a call.

        Raises:
            InvalidArgument: The token function returned no token.
            Unauthenticated: The token function raised.
        """
        if self._token is None:
            return ()
        token = self._token if isinstance(self._token, str) else _checked(_asked(self._token))
        return (("authorization", f"Bearer {token}"),)


def _token_of_environment() -> Token | None:
    if token := _environment.variable("TOKEN"):
        return token
    path = _environment.variable("TOKEN_FILE")
    return TokenFile(path) if path else None


def _tls_of_environment() -> TLS | None:
    ca, cert, key = (_environment.variable(f"TLS_{name}") for name in ("CA", "CERT", "KEY"))
    return TLS(ca, cert, key) if ca or cert or key else None


def _asked(token: Callable[[], str]) -> str:
    try:
        answer: object = token()
    except Exception as error:
        # Without its text, which may hold a secret; the exception itself is the cause.
        failure = Unauthenticated(f"the token function raised {type(error).__name__}")
        failure._for_logs = str(failure)
        raise failure from error
    if isinstance(answer, str):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()
    refused = InvalidArgument(f"the token function must return a str, not {type(answer).__name__}")
    refused._for_logs = str(refused)
    raise refused


def _look(path: PathLike) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ino, status.st_size


def unreadable(path: PathLike, error: Exception, what: str = "") -> InvalidArgument:
    """Return the refusal of a file that cannot be read."""
    why = error.strerror if isinstance(error, OSError) else "no path"
    name = os.fsdecode(path)
    return InvalidArgument(f"{what}{name if name.isprintable() else repr(name)} cannot be read: {why}")


def _is_token(text: object) -> bool:
    return isinstance(text, str) and bool(text) and all("!" <= letter <= "~" for letter in text)


def _checked(token: str) -> str:
    if not _is_token(token):
        # Without a word of it: errors end up in logs. No field of a request is at fault, so it has no reason.
        error = InvalidArgument("a token must be printable ASCII without spaces")
        error._for_logs = str(error)
        raise error
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
