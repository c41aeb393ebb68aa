"""`session-notes mcp`."""

import logging
import signal
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from session_notes_tools.cli.credentials import PANEL, connecting, tls, token
from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.options import target_option, usage_error
from session_notes_tools.cli.parameters import option, path_option, span_option

_HTTP = "With --listen"
# Nobody calls a machine by these.
_EVERYWHERE = {"", "0.0.0.0", "[::]"}  # noqa: S104 - they are not listened on here

log = logging.getLogger(__name__)


@click.command(
    cls=Command,
    epilog="Needs the extra mcp: pip install '.[server,mcp]' in its checkout\n\n"
    "Examples:\n  session-notes mcp --session s1\n  session-notes mcp --listen 127.0.0.1:8765",
)
@option(
    "--session",
    metavar="SESSION",
    help="Serve this session alone: tools take no id, and nothing of another session can be read.",
    show_default="all sessions",
)
@option(
    "--listen",
    metavar="ADDRESS",
    help="Serve over streamable HTTP, at /mcp of this host:port (port 0: a free one).",
    show_default="over stdin and stdout",
)
@path_option(
    "--tokens-dir",
    metavar="DIR",
    panel=_HTTP,
    help="Let in only callers with a token of the role primary or admin; a directory as `serve` takes it.",
    show_default="everybody who can connect may call",
)
@path_option("--listen-tls-cert", panel=_HTTP, help="Encrypt with this certificate, a PEM file.", show_default="no TLS")
@path_option("--listen-tls-key", panel=_HTTP, help="The certificate's private key.")
@option(
    "--insecure-listen",
    is_flag=True,
    panel=_HTTP,
    help="Listen without TLS even where other machines can call: a proxy in front encrypts.",
)
@option(
    "--host",
    multiple=True,
    metavar="NAME",
    panel=_HTTP,
    help="What callers call this machine by, beside localhost and the host of --listen; requests for any other "
    "are refused. Can be given several times.",
)
@target_option
@span_option(
    "--timeout",
    panel=PANEL,
    help="How long reading notes may take before they are `unavailable`: 500ms, 5s.",
    default="250ms",
)
@connecting
def mcp(
    session: str | None,
    listen: str | None,
    tokens_dir: Path | None,
    listen_tls_cert: Path | None,
    listen_tls_key: Path | None,
    insecure_listen: bool,
    host: tuple[str, ...],
    target: str,
    timeout: timedelta,
) -> None:
    """Serve notes and sessions to language models, by the Model Context Protocol. All of it is read-only.

    An address that other machines can reach needs --tokens-dir, and TLS or --insecure-listen. The sidecar need not be
    there yet: until it is, notes are `unavailable`.
    """
    # Both take their time to import.
    import asyncio

    from session_notes import AsyncPrimaryClient, SessionNotesError

    try:
        from session_notes.integrations.mcp import notes_server, serve_http, serve_stdio
    except ModuleNotFoundError as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error

    if listen is None and (tokens_dir or listen_tls_cert or listen_tls_key or insecure_listen or host):
        raise usage_error("--listen", "what is given besides is about HTTP, and needs it")
    http = listen and _Http(listen, tokens_dir, listen_tls_cert, listen_tls_key, host, insecure=insecure_listen)
    _log_to_stderr()
    try:
        client = AsyncPrimaryClient(target, token=token(), tls=tls(target), timeout=timeout)
    except SessionNotesError as error:
        raise failure_of(error, target) from error

    async def serve() -> None:
        async with client:
            server = notes_server(client, session_id=session)
            if http:
                await serve_http(server, **http.arguments())
            else:
                await serve_stdio(server)

    if not http:
        # Nothing else ends a read of stdin that is under way, and there is nothing to finish.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(serve())


def _log_to_stderr() -> None:
    from session_notes_server.sidecar import log_setup

    log_setup.configure(verbose=False)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)
    for name in ("mcp", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_traceback(record: logging.LogRecord) -> bool:
    # Others log whole exceptions, which may hold a request, and so what users said.
    if record.exc_info and record.exc_info[0]:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[0].__name__}", ()
        record.exc_info = None
    return True


class _Http:
    """Where to serve over HTTP, and for whom, checked: what can be wrong is said before anything is started."""

    def __init__(
        self,
        listen: str,
        tokens_dir: Path | None,
        cert: Path | None,
        key: Path | None,
        hosts: Sequence[str],
        *,
        insecure: bool,
    ) -> None:
        from session_notes_server.addresses import host_and_port, is_loopback
        from session_notes_server.identity.callers import Certificates, Role, Tokens
        from session_notes_server.settings import InvalidSetting, StartupError

        if (cert is None) != (key is None):
            raise usage_error("--listen-tls-cert", "a certificate and its key go together")
        try:
            self._host, self._port = host_and_port(listen)
            loopback = is_loopback(listen, self._host)
            tokens = Tokens(tokens_dir) if tokens_dir else None
            if cert and key:
                # As for the sidecar itself: it refuses what cannot be trusted or used.
                Certificates(cert, key, None)
        except InvalidSetting:
            raise usage_error("--listen", "write host:port, with a port from 0 to 65535") from None
        except StartupError as error:
            raise Failure(str(error), ExitCode.UNEXPECTED) from error
        if not loopback and tokens is None:
            raise usage_error(
                "--listen",
                f"others than this machine could read every session at {listen}. Give --tokens-dir, or listen on "
                "127.0.0.1",
            )
        if not loopback and not cert and not insecure:
            raise usage_error(
                "--listen",
                f"tokens and notes could be read by others on their way to {listen}. Give --listen-tls-cert and "
                "--listen-tls-key; if a proxy in front encrypts, say --insecure-listen",
            )
        self._knows = tokens and (lambda sent: tokens.role_of(sent) in (Role.PRIMARY, Role.ADMIN))
        self._cert, self._key = cert, key
        self._name = f"[{self._host}]" if ":" in self._host else self._host
        self._hosts = hosts if self._name in _EVERYWHERE else [*hosts, self._name]

    def arguments(self) -> dict[str, Any]:
        """What `serve_http` takes; the socket listens from now on."""
        try:
            found = socket.getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            # A name such as localhost stands for both: callers without IPv6 are the rule.
            family, _, _, _, place = min(found, key=lambda one: one[0] is not socket.AF_INET)
            listener = socket.create_server(place[:2], family=family)
        except OSError:
            raise Failure(
                f"cannot listen on {self._host}:{self._port}: it is taken, or no address of this machine. Choose "
                "another with --listen.",
                ExitCode.UNEXPECTED,
            ) from None
        scheme = "https" if self._cert else "http"
        log.info("listening on %s://%s:%d/mcp", scheme, self._name, listener.getsockname()[1])
        return {
            "listener": listener,
            "hosts": self._hosts,
            "accepts_token": self._knows,
            "tls_cert": self._cert,
            "tls_key": self._key,
        }
