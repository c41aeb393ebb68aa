"""What every command that calls a sidecar takes beside `--target`: a token file, and TLS."""

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
class _Given:
    """The options as they were given; None: the clients' own defaults."""

    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


_given: ContextVar[_Given] = ContextVar("given")


def connecting(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options, kept for `token` and `tls`, so that not every command has to hand them on."""

    # There is no option for a token itself: command lines can be read by others, and stay in the shell's history.
    @path_option(
        "--token-file",
        envvar="SESSION_NOTES_TOKEN_FILE",
        panel=PANEL,
        help="The file with the token that the sidecar knows you by.",
    )
    @path_option(
        "--tls-ca",
        envvar="SESSION_NOTES_TLS_CA",
        panel=PANEL,
        help="Encrypt, and take only a sidecar with a certificate of this authority, a PEM file.",
    )
    @path_option(
        "--tls-cert",
        envvar="SESSION_NOTES_TLS_CERT",
        panel=PANEL,
        help="Your own certificate, where the sidecar wants one.",
    )
    @path_option("--tls-key", envvar="SESSION_NOTES_TLS_KEY", panel=PANEL, help="The private key of it.")
    @wraps(command)
    def run(
        token_file: Path | None, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **others: Any
    ) -> T:
        _given.set(_Given(token_file, tls_ca, tls_cert, tls_key))
        return command(**others)

    return run


def token() -> "TokenFile | None":
    """The token to call with, as a client takes it."""
    from session_notes import TokenFile

    path = _given.get(_Given()).token_file
    return TokenFile(path) if path else None


def tls(target: str) -> "TLS | None":
    """How to encrypt, as a client takes it. A unix socket is not encrypted, whatever the variables say."""
    from session_notes import TLS

    given = _given.get(_Given())
    if target.startswith("unix:") or not (given.tls_ca or given.tls_cert or given.tls_key):
        return None
    return TLS(given.tls_ca, given.tls_cert, given.tls_key)
