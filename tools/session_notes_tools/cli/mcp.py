"""`session-notes mcp`."""

import logging
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from session_notes_tools.cli.credentials import PANEL, credentials_options, tls, token
from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.options import target_option, usage_error
from session_notes_tools.cli.parameters import option, path_option, span_option

if TYPE_CHECKING:
    from session_notes_server.sidecar.http_listener import HttpListener

_HTTP = "With --listen"

log = logging.getLogger(__name__)


@click.command(
    cls=Command,
    epilog="Requires the extra `mcp`: in a checkout, pip install '.[server,mcp]'\n\n"
    "Examples:\n  session-notes mcp --session s1\n  session-notes mcp --listen 127.0.0.1:8765",
)
@option(
    "--session",
    metavar="SESSION",
    help="Serve only this session: tools take no session id, and no other session can be read.",
    show_default="all sessions",
)
@option(
    "--listen",
    metavar="ADDRESS",
    help="Serve streamable HTTP at /mcp on this host:port (port 0 picks a free one).",
    show_default="stdin and stdout",
)
@path_option(
    "--tokens-dir",
    metavar="DIR",
    panel=_HTTP,
    help="Admit only callers with a token of the role primary or admin. See `serve` for the directory's files.",
    show_default="no token required",
)
@path_option(
    "--listen-tls-cert", panel=_HTTP, help="Use TLS with this certificate (a PEM file).", show_default="no TLS"
)
@path_option("--listen-tls-key", panel=_HTTP, help="The private key of --listen-tls-cert (a PEM file).")
@option(
    "--insecure-listen",
    is_flag=True,
    panel=_HTTP,
    help="Allow listening without TLS on an address that other machines can reach, for use behind a proxy that "
    "terminates TLS.",
)
@option(
    "--host",
    multiple=True,
    metavar="NAME",
    panel=_HTTP,
    help="A name by which callers reach this machine, besides localhost and the host of --listen. Requests for other "
    "names are rejected. Repeatable.",
)
@target_option
@span_option(
    "--timeout",
    panel=PANEL,
    help="The longest time to wait for notes before reporting them as `unavailable`: 500ms, 5s.",
    default="250ms",
)
@credentials_options
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
    """Serve notes and sessions to language models, read-only, over the Model Context Protocol.

    An address that other machines can reach requires --tokens-dir, and either TLS or --insecure-listen. The sidecar
    need not be running yet; until it is, notes are `unavailable`.
    """
    # Imported here because they take time.
    import asyncio

    from session_notes import AsyncPrimaryClient, SessionNotesError

    try:
        from session_notes.integrations.mcp import notes_server, serve_http, serve_stdio
    except ModuleNotFoundError as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error

    listener = None
    if listen is not None:
        listener = _checked_listener(listen, tokens_dir, listen_tls_cert, listen_tls_key, insecure=insecure_listen)
    elif tokens_dir or listen_tls_cert or listen_tls_key or insecure_listen or host:
        raise usage_error("--listen", "required with the other options for HTTP")
    _log_to_stderr()
    try:
        client = AsyncPrimaryClient(target, token=token(), tls=tls(target), timeout=timeout)
    except SessionNotesError as error:
        raise failure_of(error, target) from error

    async def serve() -> None:
        async with client:
            server = notes_server(client, session_id=session)
            if listener is None:
                await serve_stdio(server)
                return
            socket, url = listener.open()
            log.info("listening on %s/mcp", url)
            await serve_http(
                server,
                socket,
                hosts=[*host, *listener.names],
                accepts_token=listener.accepts_token if tokens_dir else None,
                tls_cert=listen_tls_cert,
                tls_key=listen_tls_key,
            )

    if listener is None:
        # Only the default handler interrupts a pending read of stdin, and there is nothing to shut down.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from session_notes_server.settings import StartupError

    try:
        asyncio.run(serve())
    except StartupError as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error


def _checked_listener(
    address: str, tokens_dir: Path | None, cert: Path | None, key: Path | None, *, insecure: bool
) -> "HttpListener":
    """Check the options for HTTP, so that errors are reported before anything starts."""
    from session_notes_server.settings import InvalidSetting, StartupError
    from session_notes_server.sidecar.http_listener import HttpListener

    if (cert is None) != (key is None):
        raise usage_error("--listen-tls-cert", "must be given together with --listen-tls-key")
    try:
        listener = HttpListener(address, tokens_dir, cert, key)
    except InvalidSetting:
        raise usage_error("--listen", "write host:port, with a port from 0 to 65535") from None
    except StartupError as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error
    if not listener.loopback and tokens_dir is None:
        raise usage_error(
            "--listen",
            f"other machines could read every session at {address}. Give --tokens-dir, or listen on 127.0.0.1",
        )
    if not listener.loopback and not cert and not insecure:
        raise usage_error(
            "--listen",
            f"tokens and notes would cross the network to {address} unencrypted. Give --listen-tls-cert and "
            "--listen-tls-key or, behind a proxy that terminates TLS, --insecure-listen",
        )
    return listener


def _log_to_stderr() -> None:
    from session_notes_server.sidecar import log_setup

    log_setup.configure(verbose=False)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)
    for name in ("mcp", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Replace a logged exception with its type, since its text may contain a request and thus user data."""
    if record.exc_info and record.exc_info[0]:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[0].__name__}", ()
        record.exc_info = None
    return True
