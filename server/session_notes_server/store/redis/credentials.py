"""Credentials for Redis: passwords and certificates in files that are reloaded when they change.

A file that cannot be used is rejected at the start, as in `identity.trusted_files`. Later, the last good content stays
in use, and one log line names the file and the problem without quoting the content.
"""

from __future__ import annotations

import ssl
from functools import lru_cache, partial
from pathlib import Path

from session_notes_server.identity.trusted_files import CredentialsError, Reloader, read_trusted_file
from session_notes_server.settings import InvalidSetting


class RedisSecrets:
    """Credentials from files. Each new connection reloads them, so that rotated credentials take effect immediately.

    Args:
        password_file: File that contains the password on one line. None: the password is in the URL, or there is none.
        ca: PEM file with the authorities that sign Redis' certificates. None: the authorities of this system.
        cert: PEM file with the client certificate, if Redis requires one.
        key: PEM file with the private key of `cert`.
        sentinel_user: User at the Sentinels. Empty: the default user.
        sentinel_password_file: File that contains the Sentinels' password on one line. None: they require none.

    Raises:
        CredentialsError: If a file cannot be used.
        InvalidSetting: If only one of `cert` and `key` is given, or `sentinel_user` without a password.
    """

    def __init__(
        self,
        *,
        password_file: Path | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        sentinel_user: str = "",
        sentinel_password_file: Path | None = None,
    ) -> None:
        if (cert is None) != (key is None):
            raise InvalidSetting("a client certificate for Redis needs both --redis-cert and --redis-key")
        if sentinel_user and not sentinel_password_file:
            raise InvalidSetting("--sentinel-user needs a password: set --sentinel-password-file")
        self.sentinel_user = sentinel_user
        self.uses_sentinels = sentinel_password_file is not None
        self.uses_tls = ca is not None or cert is not None
        self._tls_files = (ca, cert, key)
        self._password = _password_reloader(password_file)
        self._sentinel_password = _password_reloader(sentinel_password_file)
        names = ", ".join(str(file) for file in self._tls_files if file)
        self._tls = Reloader(f"certificates in {names}", partial(_load_context, self._tls_files)) if names else None

    @property
    def has_password(self) -> bool:
        """Whether the password comes from a file, so that the URL must not contain one."""
        return self._password is not None

    def password(self) -> str | None:
        """Return the current password, or None if it does not come from a file."""
        return self._password.current(force=True) if self._password else None

    def sentinel_password(self) -> str | None:
        """Return the current password at the Sentinels, or None if they require none."""
        return self._sentinel_password.current(force=True) if self._sentinel_password else None

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS settings of a connection: TLS 1.2 or newer, with certificate and host name verified."""
        return self._tls.current(force=True) if self._tls else _context(self._tls_files, _NO_FILES)


_Files = tuple[Path | None, Path | None, Path | None]
_Contents = tuple[bytes, bytes, bytes]
_NO_FILES: _Contents = (b"", b"", b"")


def _password_reloader(path: Path | None) -> Reloader[str] | None:
    return Reloader(f"password in {path}", partial(_read_password, path)) if path else None


def _read_password(path: Path) -> str:
    try:
        text = read_trusted_file(path, secret=True).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is not UTF-8: write the password as UTF-8") from None
    if not text:
        raise CredentialsError(f"{path} is empty: it must contain the password of Redis")
    if "\n" in text:
        raise CredentialsError(f"{path} has more than one line: it must contain only the password of Redis")
    return text


def _load_context(files: _Files) -> ssl.SSLContext:
    return _context(files, _read_files(files))


def _read_files(files: _Files) -> _Contents:
    ca, cert, key = files
    return (
        read_trusted_file(ca) if ca else b"",
        read_trusted_file(cert) if cert else b"",
        read_trusted_file(key, secret=True) if key else b"",
    )


# Creating a context takes milliseconds, most of them for the system's authorities. Unchanged files reuse it.
@lru_cache(maxsize=4)
def _context(files: _Files, contents: _Contents) -> ssl.SSLContext:
    ca, cert, key = files
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError):
        raise CredentialsError(f"{ca} contains no CA certificate: use a PEM file that does") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        try:
            # The empty password keeps OpenSSL from prompting on the terminal. An encrypted key is rejected.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except (ssl.SSLError, ValueError, OSError) as error:
            reason = getattr(error, "reason", None) or "not PEM, or encrypted"
            raise CredentialsError(f"{cert} and {key} are not a certificate and its key ({reason})") from None
    # OpenSSL reads the files itself. Make sure it read the checked contents.
    if _read_files(files) != contents:
        changed = next(filter(None, files))
        raise CredentialsError(f"{changed} or a file that belongs to it changed while it was read")
    return context
