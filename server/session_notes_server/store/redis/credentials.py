"""Who we are to Redis, and how we know it: a password and certificates, in files that are read again as they change.

The rules are those of `credentials.py`: a file that cannot be used is refused at the start; later the last good content
stays, with one line in the log that says which file and what is wrong with it, and never a word of what is in it.
"""

from __future__ import annotations

import ssl
from functools import lru_cache, partial
from pathlib import Path

from session_notes_server.identity.trusted_files import CredentialsError, Reloader, read_trusted_file
from session_notes_server.settings import InvalidSetting


class RedisSecrets:
    """What is needed to open a connection to Redis. To be asked anew for each, so that what is rotated counts at once.

    Args:
        password_file: Holds the password, on one line. None: it is in the URL, or there is none.
        ca: Who signs the certificates of Redis, a PEM file. None: the authorities this system trusts.
        cert: Our own certificate, for a Redis that asks for one, a PEM file.
        key: Its private key.
        sentinel_user: The user to the Sentinels. Empty: their default user.
        sentinel_password_file: Holds the password of the Sentinels, on one line. None: they ask for none.

    Raises:
        CredentialsError: If a file cannot be used.
        InvalidSetting: If one of `cert` and `key` is missing, or the password of `sentinel_user`.
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
            raise InvalidSetting("for a certificate of our own both --redis-cert and --redis-key are needed")
        if sentinel_user and not sentinel_password_file:
            raise InvalidSetting("for --sentinel-user its password is needed: give --sentinel-password-file")
        self.sentinel_user = sentinel_user
        self.uses_sentinels = sentinel_password_file is not None
        self.uses_tls = ca is not None or cert is not None
        self._tls_files = (ca, cert, key)
        self._password = _reread(password_file)
        self._sentinel_password = _reread(sentinel_password_file)
        named = ", ".join(str(file) for file in self._tls_files if file)
        self._tls = Reloader(f"certificates in {named}", partial(_tls, self._tls_files)) if named else None

    @property
    def has_password(self) -> bool:
        """Whether a file of ours has it, and so the URL must not."""
        return self._password is not None

    def password(self) -> str | None:
        """The password as it is now; None where no file has it."""
        return self._password.current(force=True) if self._password else None

    def sentinel_password(self) -> str | None:
        """The password of the Sentinels as it is now; None where they ask for none."""
        return self._sentinel_password.current(force=True) if self._sentinel_password else None

    def tls_context(self) -> ssl.SSLContext:
        """What a connection is to be encrypted with: TLS 1.2 or newer, certificate and host name verified."""
        return self._tls.current(force=True) if self._tls else _context(self._tls_files, _NO_FILES)


_Files = tuple[Path | None, Path | None, Path | None]
_Contents = tuple[bytes, bytes, bytes]
_NO_FILES: _Contents = (b"", b"", b"")


def _reread(path: Path | None) -> Reloader[str] | None:
    return Reloader(f"password in {path}", partial(_password, path)) if path else None


def _password(path: Path) -> str:
    try:
        text = read_trusted_file(path, secret=True).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is not UTF-8") from None
    if not text:
        raise CredentialsError(f"{path} is empty: it must hold the password of Redis")
    if "\n" in text:
        raise CredentialsError(f"{path} has more than one line: it must hold the password of Redis alone")
    return text


def _tls(files: _Files) -> ssl.SSLContext:
    return _context(files, _read(files))


def _read(files: _Files) -> _Contents:
    ca, cert, key = files
    return (
        read_trusted_file(ca) if ca else b"",
        read_trusted_file(cert) if cert else b"",
        read_trusted_file(key, secret=True) if key else b"",
    )


# To make one takes milliseconds, most of them for the system's authorities: the same files make it once.
@lru_cache(maxsize=4)
def _context(files: _Files, content: _Contents) -> ssl.SSLContext:
    ca, cert, key = files
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError):
        raise CredentialsError(f"{ca} holds no certificate of an authority") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        try:
            # A password is not asked for on a terminal that nobody looks at: such a key is wrong here.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except (ssl.SSLError, ValueError, OSError) as error:
            reason = getattr(error, "describe_error", None) or "no PEM, or encrypted"
            raise CredentialsError(f"{cert} and {key} are no certificate and its key ({reason})") from None
    # OpenSSL takes files: it must be what we have read that it saw.
    if _read(files) != content:
        raise CredentialsError(f"{next(filter(None, files))} or what belongs to it changes while it is read")
    return context
