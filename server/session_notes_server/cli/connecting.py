"""What every command that calls a sidecar takes beside `--target`: a token file, and TLS."""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from session_notes import TLS, TokenFile

P = ParamSpec("P")
T = TypeVar("T")

_PANEL = "Common options"

# There is no option for a token itself: command lines can be read by others, and stay in the shell's history.
_OPTIONS = {
    "token_file": typer.Option(
        "--token-file",
        metavar="FILE",
        envvar="SESSION_NOTES_TOKEN_FILE",
        help="The file with the token that the sidecar knows you by.",
        rich_help_panel=_PANEL,
    ),
    "tls_ca": typer.Option(
        "--tls-ca",
        metavar="FILE",
        envvar="SESSION_NOTES_TLS_CA",
        help="Encrypt, and take only a sidecar with a certificate of this authority, a PEM file.",
        rich_help_panel=_PANEL,
    ),
    "tls_cert": typer.Option(
        "--tls-cert",
        metavar="FILE",
        envvar="SESSION_NOTES_TLS_CERT",
        help="Your own certificate, where the sidecar wants one.",
        rich_help_panel=_PANEL,
    ),
    "tls_key": typer.Option(
        "--tls-key",
        metavar="FILE",
        envvar="SESSION_NOTES_TLS_KEY",
        help="The private key of it.",
        rich_help_panel=_PANEL,
    ),
}


@dataclass(frozen=True)
class _Given:
    """The options as they were given; None: the clients' own defaults."""

    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


_given: ContextVar[_Given] = ContextVar("given")


def connecting(command: Callable[P, T]) -> Callable[P, T]:
    """Give a command the options, kept for `token` and `tls`, so that not every command has to hand them on."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        _given.set(_Given(**{name: kwargs.pop(name) for name in _OPTIONS}))  # type: ignore[arg-type]
        return command(*args, **kwargs)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, option])
        for name, option in _OPTIONS.items()
    ]
    # Where typer looks: for the parameters, and for their types.
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = command.__annotations__ | {one.name: one.annotation for one in added}
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
