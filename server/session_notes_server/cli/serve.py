"""`session-notes serve`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from session_notes_server.cli.exits import ExitCode, Failure
from session_notes_server.cli.options import span
from session_notes_server.cli.store_options import (
    PANEL,
    MinReplicasAcked,
    Prefix,
    RedisCA,
    RedisCert,
    RedisKey,
    RedisPasswordFile,
)
from session_notes_server.poller import choose_poller
from session_notes_server.settings import ERASED_WITHIN, InvalidSetting, Limits, LogFormat, Settings, default_data_dir

_DEFAULTS = Settings()
_WATCHING = "Watching it"


def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="SESSION_NOTES_LISTEN",
            help="Where to listen: host:port (port 0: a free one) or unix:/path. Can be given several times; "
            "several in the variable are parted by spaces.",
            show_default=_DEFAULTS.listen[0],
        ),
    ] = None,
    insecure_listen: Annotated[
        bool,
        typer.Option(
            "--insecure-listen",
            envvar="SESSION_NOTES_INSECURE_LISTEN",
            help="Listen even where others than this machine can call, without TLS or without asking who they are.",
        ),
    ] = False,
    tokens_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="SESSION_NOTES_TOKENS_DIR",
            help="Let in only callers with a token. The files primary, observer and admin in this directory hold those "
            "of each role, one a line, or sha256: and the hash of one; they are read again when they change.",
            show_default="everybody who can connect may call",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="SESSION_NOTES_SERVER_TLS_CERT",
            help="Encrypt TCP with this certificate, a PEM file; read again when it changes.",
            show_default="no TLS",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SESSION_NOTES_SERVER_TLS_KEY", help="The certificate's private key."),
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="SESSION_NOTES_TLS_CLIENT_CA",
            help="Let in only callers with a certificate of this authority, a PEM file.",
        ),
    ] = None,
    tls_roles: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="SESSION_NOTES_TLS_ROLES",
            help="What role callers have by a name (DNS, URI or CN) in their certificate: lines `role name`.",
        ),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="SESSION_NOTES_REDIS_URL",
            rich_help_panel=PANEL,
            help="The Redis (6.2 or newer) or Valkey (7.2 or newer) to use: redis://, rediss:// or unix://, "
            "redis+cluster://host:port,host:port, redis+sentinel://host:port,host:port/service. "
            "A user goes before the host (user@host). A password is better off in --redis-password-file: command lines "
            "can be read by others.",
            show_default="an embedded Valkey in the data directory",
        ),
    ] = None,
    redis_password_file: RedisPasswordFile = None,
    redis_ca: RedisCA = None,
    redis_cert: RedisCert = None,
    redis_key: RedisKey = None,
    min_replicas_acked: MinReplicasAcked = _DEFAULTS.min_replicas_acked,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="SESSION_NOTES_DATA_DIR",
            help="Where the embedded Valkey keeps its data. One sidecar per directory. What DeleteSession removed is "
            f"in none of its files within {ERASED_WITHIN.total_seconds():.0f}s.",
            show_default=str(default_data_dir()),
        ),
    ] = None,
    prefix: Prefix = _DEFAULTS.prefix,
    session_ttl: Annotated[
        timedelta,
        typer.Option(
            parser=span,
            metavar="SPAN",
            envvar="SESSION_NOTES_SESSION_TTL",
            help="How long a session is kept after its last change, unless it has a ttl of its own: 90s, 15m, 24h, 7d.",
            show_default=f"{_DEFAULTS.session_ttl // timedelta(hours=1)}h",
        ),
    ] = _DEFAULTS.session_ttl,
    notes_timeout: Annotated[
        timedelta,
        typer.Option(
            parser=span,
            metavar="SPAN",
            envvar="SESSION_NOTES_NOTES_TIMEOUT",
            help="How long GetNotes waits for a Redis that answers nobody, before it answers UNAVAILABLE.",
            show_default=f"{_DEFAULTS.notes_timeout // timedelta(milliseconds=1)}ms",
        ),
    ] = _DEFAULTS.notes_timeout,
    store_timeout: Annotated[
        timedelta,
        typer.Option(
            parser=span,
            metavar="SPAN",
            envvar="SESSION_NOTES_STORE_TIMEOUT",
            help="How long any call waits for Redis before it answers UNAVAILABLE.",
            show_default=f"{_DEFAULTS.store_timeout // timedelta(seconds=1)}s",
        ),
    ] = _DEFAULTS.store_timeout,
    max_connection_age: Annotated[
        timedelta,
        typer.Option(
            parser=span,
            metavar="SPAN",
            envvar="SESSION_NOTES_MAX_CONNECTION_AGE",
            help="How long a connection is used before its client is asked to open another.",
            show_default=f"{_DEFAULTS.max_connection_age // timedelta(minutes=1)}m",
        ),
    ] = _DEFAULTS.max_connection_age,
    grace: Annotated[
        timedelta,
        typer.Option(
            parser=span,
            metavar="SPAN",
            envvar="SESSION_NOTES_GRACE",
            help="How long calls in flight may take to finish after SIGTERM.",
            show_default=f"{_DEFAULTS.grace // timedelta(seconds=1)}s",
        ),
    ] = _DEFAULTS.grace,
    max_notes_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            envvar="SESSION_NOTES_MAX_NOTES_BYTES",
            help="Largest notes document or session field.",
        ),
    ] = _DEFAULTS.limits.notes_bytes,
    max_turn_bytes: Annotated[
        int, typer.Option(min=1, metavar="N", envvar="SESSION_NOTES_MAX_TURN_BYTES", help="Largest turn.")
    ] = _DEFAULTS.limits.turn_bytes,
    max_batch: Annotated[
        int,
        typer.Option(min=1, metavar="N", envvar="SESSION_NOTES_MAX_BATCH", help="Most requests in one BatchGetNotes."),
    ] = _DEFAULTS.limits.batch_requests,
    max_message_bytes: Annotated[
        int,
        typer.Option(min=1, metavar="N", envvar="SESSION_NOTES_MAX_MESSAGE_BYTES", help="Largest request message."),
    ] = _DEFAULTS.limits.message_bytes,
    max_concurrent_calls: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            envvar="SESSION_NOTES_MAX_CONCURRENT_CALLS",
            help="Most calls under way at once; more are answered RESOURCE_EXHAUSTED.",
        ),
    ] = _DEFAULTS.limits.concurrent_calls,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            envvar="SESSION_NOTES_WORKERS",
            help="How many processes answer calls, for more than one core; Linux only. They share out the connections "
            "to a TCP port; a unix socket is the first one's. Each has the limits on calls and connections for itself.",
        ),
    ] = _DEFAULTS.workers,
    dev: Annotated[
        bool,
        typer.Option(
            "--dev",
            help="For development: keep nothing (an embedded Valkey in a temporary directory, unless --data-dir or "
            "--redis-url says otherwise), log every call, and print lines to paste, for grpcurl and Python.",
        ),
    ] = False,
    metrics_listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="SESSION_NOTES_METRICS_LISTEN",
            rich_help_panel=_WATCHING,
            help="Tell Prometheus at http://ADDRESS/metrics how the sidecar does: host:port (port 0: a free one, which "
            "the log names). Nothing of users is in it, so it may be an address that other machines reach; nobody is "
            "asked who they are there.",
            show_default="no metrics",
        ),
    ] = None,
    channelz: Annotated[
        bool,
        typer.Option(
            "--channelz",
            envvar="SESSION_NOTES_CHANNELZ",
            rich_help_panel=_WATCHING,
            help="Answer grpc.channelz.v1, which tells who is connected and what their connections do. For the role "
            "admin, or on this machine alone.",
        ),
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            metavar="FORMAT",
            envvar="SESSION_NOTES_LOG_FORMAT",
            rich_help_panel=_WATCHING,
            help="What a line in the log is: text, for people, or json, an object for programs.",
        ),
    ] = _DEFAULTS.log_format,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", rich_help_panel=_WATCHING, help="Log each call, too: method, status, time."),
    ] = False,
) -> None:
    """Start the sidecar.

    With no options at all: on 127.0.0.1:50051, with an embedded Valkey whose data is still there after a restart.
    Stops on SIGTERM and Ctrl-C, after the calls in flight.

    Traces go to the OpenTelemetry collector that OTEL_EXPORTER_OTLP_ENDPOINT names.
    """
    # Before gRPC is imported.
    choose_poller()
    # Imported here, so that the other commands need not wait for it.
    from session_notes_server import dev as development
    from session_notes_server import logs
    from session_notes_server.addresses import AddressError
    from session_notes_server.credentials import CredentialsError
    from session_notes_server.embedded import EmbeddedError
    from session_notes_server.process import log_addresses, run
    from session_notes_server.server import serve as serve_alone
    from session_notes_server.supervisor import supervise

    logs.configure(verbose=verbose or dev, form=log_format)
    settings = Settings(
        listen=tuple(listen or _DEFAULTS.listen),
        insecure_listen=insecure_listen,
        tokens_dir=tokens_dir,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        tls_roles=tls_roles,
        redis_url=redis_url,
        redis_password_file=redis_password_file,
        redis_ca=redis_ca,
        redis_cert=redis_cert,
        redis_key=redis_key,
        min_replicas_acked=min_replicas_acked,
        data_dir=data_dir or default_data_dir(),
        log_format=log_format,
        metrics_listen=metrics_listen,
        channelz=channelz,
        prefix=prefix,
        session_ttl=session_ttl,
        notes_timeout=notes_timeout,
        store_timeout=store_timeout,
        max_connection_age=max_connection_age,
        grace=grace,
        workers=workers,
        limits=Limits(max_notes_bytes, max_turn_bytes, max_batch, max_message_bytes, max_concurrent_calls),
    )

    def tell(addresses: Sequence[str]) -> None:
        log_addresses(addresses)
        for line in development.lines(settings, addresses) if dev else ():
            typer.echo(line)

    kept = not dev or data_dir is not None or redis_url is not None
    try:
        with nullcontext() if kept else TemporaryDirectory(prefix="session-notes-dev-") as folder:
            if folder is not None:
                settings = replace(settings, data_dir=Path(folder))
            run((serve_alone if workers == 1 else supervise)(settings, tell))
    except InvalidSetting as error:
        raise Failure(str(error), ExitCode.USAGE) from error
    except (AddressError, CredentialsError, EmbeddedError) as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error
