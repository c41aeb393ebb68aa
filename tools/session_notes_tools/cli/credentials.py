"""Options for connecting to a sidecar: a token file and TLS files."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from session_notes_tools.cli.parameters import path_option

if TYPE_CHECKING:
    from session_notes import TLS, TokenFile

T = TypeVar("T")

PANEL = "Common options"


@dataclass(frozen=True)
class _Options:
    """Parsed options. None stands for the client's default."""

    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


_options: ContextVar[_Options] = ContextVar("credentials")


def credentials_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options to a command. Its function does not receive them; `token` and `tls` return them."""

    # The token itself is not an option: other users can read command lines, and shells record them in their history.
    @path_option(
        "--token-file",
        envvar="SESSION_NOTES_TOKEN_FILE",
        panel=PANEL,
        help="A file that contains your token for the sidecar.",
    )
    @path_option(
        "--tls-ca",
        envvar="SESSION_NOTES_TLS_CA",
        panel=PANEL,
        help="Use TLS, and trust only sidecars with a certificate from this authority (a PEM file).",
    )
    @path_option(
        "--tls-cert",
        envvar="SESSION_NOTES_TLS_CERT",
        panel=PANEL,
        help="Your client certificate (a PEM file), if the sidecar requires one.",
    )
    @path_option(
        "--tls-key", envvar="SESSION_NOTES_TLS_KEY", panel=PANEL, help="The private key of --tls-cert (a PEM file)."
    )
    @wraps(command)
    def run(
        token_file: Path | None, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **others: Any
    ) -> T:
        _options.set(_Options(token_file, tls_ca, tls_cert, tls_key))
        return command(**others)

    return run


def token() -> "TokenFile | None":
    """Return the `token` argument for a client; None if no file was given."""
    from session_notes import TokenFile

    path = _options.get(_Options()).token_file
    return TokenFile(path) if path else None


def tls(target: str) -> "TLS | None":
    """Return the `tls` argument for a client; None if no file was given, or if the target is a unix socket.

    Raises:
        InvalidArgument: If only one of --tls-cert and --tls-key was given.
    """
    from session_notes import TLS, InvalidArgument

    options = _options.get(_Options())
    if target.startswith("unix:") or not (options.tls_ca or options.tls_cert or options.tls_key):
        return None
    if (options.tls_cert is None) != (options.tls_key is None):
        raise InvalidArgument("--tls-cert and --tls-key must be given together")
    return TLS(options.tls_ca, options.tls_cert, options.tls_key)
