"""Credentials of a client: the token sent with each call, and the TLS files."""
# Without `from __future__ import annotations`, because dataclasses would parse the text, in 0.3 ms per import.

import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from session_notes import _environment, _targets
from session_notes._errors import InvalidArgument, Unauthenticated

Token: TypeAlias = str | Callable[[], str]
"""A token, or a function that returns the current one. The function runs within every call, so it must be fast."""

# Not pathlib: it would add a third to the import time of this package.
PathLike: TypeAlias = str | os.PathLike[str]

_Fingerprint: TypeAlias = tuple[int, int, int]
_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS for the connection: which authorities to trust, and the client's own certificate.

    The files are read when a client is created or opened, and again within a second after they are replaced. The client
    then reconnects, and calls in flight finish on the old connection. Certificate and key may be replaced one after the
    other: the new files are used once they match.

    >>> PrimaryClient("notes.example.org:50051", tls=TLS(ca="ca.pem"), token=TokenFile("token"))

    Raises:
        InvalidArgument: If a path has the wrong type, or only one of `cert` and `key` is set.
    """

    ca: PathLike | None = None
    """PEM file of the authorities that may sign the sidecar's certificate. None: gRPC's default authorities."""

    cert: PathLike | None = None
    """PEM file of the client's certificate, for a sidecar that requires one (mTLS)."""

    key: PathLike | None = None
    """PEM file of the private key of `cert`."""

    def __post_init__(self) -> None:
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, str | os.PathLike):
                raise InvalidArgument(f"tls.{name} must be a path, not {type(path).__name__}")
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("tls.cert and tls.key must be given together")


class TLSFiles:
    """Fingerprints of the TLS files of a client, to detect their replacement.

    gRPC copies the content of the files into its credentials, so new files require a new channel.
    """

    __slots__ = ("_fingerprints", "_next_check", "_tls")

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._fingerprints = self._current_fingerprints()
        self._next_check = time.monotonic() + _CHECK_SECONDS

    def check_soon(self) -> None:
        """Check the files before the next call: a refused connection may be due to outdated files."""
        self._next_check = 0.0

    def replaced(self) -> bool:
        """Return whether the files have changed and match, once per change. Checks them at most once a second."""
        if time.monotonic() < self._next_check:
            return False
        self._next_check = time.monotonic() + _CHECK_SECONDS
        fingerprints = self._current_fingerprints()
        if fingerprints == self._fingerprints or not self._match():
            return False
        self._fingerprints = fingerprints
        return True

    def _current_fingerprints(self) -> list[_Fingerprint | None]:
        fingerprints: list[_Fingerprint | None] = []
        for path in (self._tls.ca, self._tls.cert, self._tls.key):
            try:
                fingerprints.append(None if path is None else _fingerprint(path))
            except (OSError, ValueError):
                fingerprints.append(None)
        return fingerprints

    def _match(self) -> bool:
        import ssl  # Needed only when files change.

        try:
            context = ssl.create_default_context(cafile=self._tls.ca)
            if self._tls.cert and self._tls.key:
                context.load_cert_chain(self._tls.cert, self._tls.key, password=lambda: b"")
        except (OSError, ValueError):
            return False
        return True


class TokenFile:
    """A token read from a file, and again whenever the file changes.

    The token is the first line that is neither blank nor a comment (#), as in the token files of the sidecar. If the
    file cannot be read later, the last token remains in use.

    >>> PrimaryClient("unix:/run/session-notes.sock", token=TokenFile("/run/secrets/session-notes"))

    Raises:
        InvalidArgument: If the file cannot be read or has no token.
    """

    __slots__ = ("_fingerprint", "_path", "_token")

    def __init__(self, path: PathLike) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InvalidArgument(f"the path of a token file must be a str or a path, not {type(path).__name__}")
        self._path = os.fspath(path)
        try:
            self._fingerprint = _fingerprint(self._path)
            token = self._read()
        except (OSError, ValueError) as error:
            raise unreadable(self._path, error, "the token file ") from None
        if token is None:
            raise InvalidArgument(f"no token in {self._path}: its first line must be a token")
        self._token = token

    def __call__(self) -> str:
        """Return the current token."""
        try:
            fingerprint = _fingerprint(self._path)
            if fingerprint != self._fingerprint and (token := self._read()) is not None:
                self._fingerprint, self._token = fingerprint, token
        except OSError:
            pass  # The file is being replaced. If the old token is no longer valid, the sidecar rejects the call.
        return self._token

    def _read(self) -> str | None:
        with open(self._path, encoding="utf-8", errors="replace") as file:
            for line in file:
                text = line.strip()
                if text and not text.startswith("#"):
                    return text if _is_token(text) else None
        return None


class Credentials:
    """The token and the TLS of one client, validated for its target.

    Args:
        target: The target of the client.
        token: The token or token function. None: that of the environment.
        tls: The TLS. None: that of the environment.
        anonymous: Whether to send no token, regardless of the environment.

    Raises:
        InvalidArgument: If a value has the wrong type, or a token would be sent unencrypted to another machine.
    """

    __slots__ = ("tls", "token")

    def __init__(self, target: str, token: Token | None, tls: TLS | None, *, anonymous: bool = False) -> None:
        if tls is not None and not isinstance(tls, TLS):
            raise InvalidArgument(f"tls must be a session_notes.TLS, not {type(tls).__name__}")
        if token is not None and not isinstance(token, str) and not callable(token):
            raise InvalidArgument(f"token must be a str, or a function that returns one, not {type(token).__name__}")
        if any(map(inspect.iscoroutinefunction, (token, getattr(type(token), "__call__", None)))):  # noqa: B004
            raise InvalidArgument("token must not be an async function: it is called within each call")
        unix = _targets.is_unix(target)
        if unix and tls is not None:
            raise InvalidArgument("tls does not apply to a unix socket: remove it, or use a host:port target")
        self.tls = None if unix else tls or _environment_tls()
        self.token = _environment_token() if token is None and not anonymous else token
        if isinstance(self.token, str):
            _validated(self.token)
        if self.token is not None and self.tls is None and not unix and not _targets.is_loopback(target):
            raise InvalidArgument(
                "a token is sent to another machine only over TLS: pass tls, or set SESSION_NOTES_TLS_CA"
            )

    def metadata(self) -> Sequence[tuple[str, str]]:
        """Return the metadata that authenticates a call.

        Raises:
            InvalidArgument: If the token function returned something other than a token.
            Unauthenticated: If the token function raised an exception.
        """
        if self.token is None:
            return ()
        token = self.token if isinstance(self.token, str) else _validated(_called(self.token))
        return (("authorization", f"Bearer {token}"),)


def unreadable(path: PathLike, error: Exception, prefix: str = "") -> InvalidArgument:
    """Return the error for an unreadable file."""
    why = error.strerror if isinstance(error, OSError) else "not a valid path"
    name = os.fsdecode(path)
    return InvalidArgument(f"{prefix}{name if name.isprintable() else repr(name)} cannot be read: {why}")


def _environment_token() -> Token | None:
    if token := _environment.variable("TOKEN"):
        return token
    path = _environment.variable("TOKEN_FILE")
    return TokenFile(path) if path else None


def _environment_tls() -> TLS | None:
    ca, cert, key = (_environment.variable(f"TLS_{name}") for name in ("CA", "CERT", "KEY"))
    return TLS(ca, cert, key) if ca or cert or key else None


def _called(token: Callable[[], str]) -> str:
    try:
        result: object = token()
    except Exception as error:
        # Without the exception's text, which may contain a secret. The exception itself is the cause.
        failure = Unauthenticated(f"the token function raised {type(error).__name__}")
        failure._for_logs = str(failure)
        raise failure from error
    if isinstance(result, str):
        return result
    if inspect.iscoroutine(result):
        result.close()
    wrong_type = InvalidArgument(f"the token function must return a str, not {type(result).__name__}")
    wrong_type._for_logs = str(wrong_type)
    raise wrong_type


def _fingerprint(path: PathLike) -> _Fingerprint:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ino, status.st_size


def _is_token(text: object) -> bool:
    return isinstance(text, str) and bool(text) and all("!" <= letter <= "~" for letter in text)


def _validated(token: str) -> str:
    if not _is_token(token):
        # Without the token, because errors end up in logs. Without a reason, because no field of a request is invalid.
        error = InvalidArgument("a token must be printable ASCII without spaces")
        error._for_logs = str(error)
        raise error
    return token
