"""`session-notes serve`."""

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import click
from session_notes_server.settings import ERASED_WITHIN, InvalidSetting, Limits, LogFormat, Settings, StartupError
from session_notes_server.sidecar.grpc_poller import choose_poller

from session_notes_tools.cli.environment import variable_warnings
from session_notes_tools.cli.exits import ExitCode, Failure
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.parameters import option, path_option, span_option
from session_notes_tools.cli.store_options import PANEL, min_replicas_acked_option, prefix_option, redis_secrets_options

log = logging.getLogger(__name__)

_DEFAULTS = Settings()
_WATCHING = "Watching it"

_count_option = partial(option, type=click.IntRange(min=1), metavar="N")


@click.command(
    cls=Command, epilog="Examples:\n  session-notes serve\n  session-notes serve --redis-url redis://localhost:6379/0"
)
@option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    envvar="SESSION_NOTES_LISTEN",
    help="Where to listen: host:port (port 0: a free one) or unix:/path. Can be given several times; "
    "several in the variable are parted by spaces.",
    show_default=_DEFAULTS.listen[0],
)
@option(
    "--insecure-listen",
    is_flag=True,
    envvar="SESSION_NOTES_INSECURE_LISTEN",
    help="Listen even where others than this machine can call, without TLS or without asking who they are.",
)
@path_option(
    "--tokens-dir",
    metavar="DIR",
    envvar="SESSION_NOTES_TOKENS_DIR",
    help="Let in only callers with a token. The files primary, observer and admin in this directory hold those "
    "of each role, one a line, or sha256: and the hash of one; they are read again when they change.",
    show_default="everybody who can connect may call",
)
@path_option(
    "--tls-cert",
    envvar="SESSION_NOTES_SERVER_TLS_CERT",
    help="Encrypt TCP with this certificate, a PEM file; read again when it changes.",
    show_default="no TLS",
)
@path_option("--tls-key", envvar="SESSION_NOTES_SERVER_TLS_KEY", help="The certificate's private key.")
@path_option(
    "--tls-client-ca",
    envvar="SESSION_NOTES_TLS_CLIENT_CA",
    help="Let in only callers with a certificate of this authority, a PEM file.",
)
@path_option(
    "--tls-roles",
    envvar="SESSION_NOTES_TLS_ROLES",
    help="What role callers have by a name (DNS, URI or CN) in their certificate: lines `role name`.",
)
@option(
    "--redis-url",
    metavar="URL",
    envvar="SESSION_NOTES_REDIS_URL",
    panel=PANEL,
    help="The Redis (6.2 or newer) or Valkey (7.2 or newer) to use: redis://, rediss:// or unix://, "
    "redis+cluster://host:port,host:port, redis+sentinel://host:port,host:port/service. "
    "A user goes before the host (user@host). A password is better off in --redis-password-file: command lines "
    "can be read by others.",
    show_default="an embedded Valkey in the data directory",
)
@redis_secrets_options
@min_replicas_acked_option
@path_option(
    "--data-dir",
    metavar="DIR",
    envvar="SESSION_NOTES_DATA_DIR",
    help="Where the embedded Valkey keeps its data: a new or empty directory, or one of ours. One sidecar per "
    "directory. What DeleteSession removed is "
    f"in none of its files within {ERASED_WITHIN.total_seconds():.0f}s.",
    show_default="~/.local/share/session-notes",
)
@prefix_option
@span_option(
    "--session-ttl",
    envvar="SESSION_NOTES_SESSION_TTL",
    help="How long a session is kept after its last change, unless it has a ttl of its own: 90s, 15m, 24h, 7d.",
    default=_DEFAULTS.session_ttl,
    show_default=f"{_DEFAULTS.session_ttl // timedelta(hours=1)}h",
)
@span_option(
    "--notes-timeout",
    envvar="SESSION_NOTES_NOTES_TIMEOUT",
    help="How long GetNotes waits for a Redis that answers nobody, before it answers UNAVAILABLE.",
    default=_DEFAULTS.notes_timeout,
    show_default=f"{_DEFAULTS.notes_timeout // timedelta(milliseconds=1)}ms",
)
@span_option(
    "--store-timeout",
    envvar="SESSION_NOTES_STORE_TIMEOUT",
    help="How long any call waits for Redis before it answers UNAVAILABLE.",
    default=_DEFAULTS.store_timeout,
    show_default=f"{_DEFAULTS.store_timeout // timedelta(seconds=1)}s",
)
@span_option(
    "--max-connection-age",
    envvar="SESSION_NOTES_MAX_CONNECTION_AGE",
    help="How long a connection is used before its client is asked to open another.",
    default=_DEFAULTS.max_connection_age,
    show_default=f"{_DEFAULTS.max_connection_age // timedelta(minutes=1)}m",
)
@span_option(
    "--grace",
    envvar="SESSION_NOTES_GRACE",
    help="How long calls in flight may take to finish after SIGTERM.",
    default=_DEFAULTS.grace,
    show_default=f"{_DEFAULTS.grace // timedelta(seconds=1)}s",
)
@_count_option(
    "--max-notes-bytes",
    envvar="SESSION_NOTES_MAX_NOTES_BYTES",
    help="Largest notes document or session field.",
    default=_DEFAULTS.limits.notes_bytes,
)
@_count_option(
    "--max-turn-bytes", envvar="SESSION_NOTES_MAX_TURN_BYTES", help="Largest turn.", default=_DEFAULTS.limits.turn_bytes
)
@_count_option(
    "--max-batch",
    envvar="SESSION_NOTES_MAX_BATCH",
    help="Most requests in one BatchGetNotes.",
    default=_DEFAULTS.limits.batch_requests,
)
@_count_option(
    "--max-message-bytes",
    envvar="SESSION_NOTES_MAX_MESSAGE_BYTES",
    help="Largest request message.",
    default=_DEFAULTS.limits.message_bytes,
)
@_count_option(
    "--max-concurrent-calls",
    envvar="SESSION_NOTES_MAX_CONCURRENT_CALLS",
    help="Most calls under way at once; more are answered RESOURCE_EXHAUSTED.",
    default=_DEFAULTS.limits.concurrent_calls,
)
@_count_option(
    "--workers",
    envvar="SESSION_NOTES_WORKERS",
    help="How many processes answer calls, for more than one core; Linux only. They share out the connections "
    "to a TCP port; a unix socket is the first one's. Each has the limits on calls and connections for itself.",
    default=_DEFAULTS.workers,
)
@option(
    "--dev",
    is_flag=True,
    help="For development: keep nothing (an embedded Valkey in a temporary directory, unless --data-dir or "
    "--redis-url says otherwise), log every call, and print lines to paste, for grpcurl and Python.",
)
@option(
    "--metrics-listen",
    metavar="ADDRESS",
    envvar="SESSION_NOTES_METRICS_LISTEN",
    panel=_WATCHING,
    help="Tell Prometheus at http://ADDRESS/metrics how the sidecar does: host:port (port 0: a free one, which "
    "the log names). Nothing of users is in it, so it may be an address that other machines reach; nobody is "
    "asked who they are there.",
    show_default="no metrics",
)
@option(
    "--channelz",
    is_flag=True,
    envvar="SESSION_NOTES_CHANNELZ",
    panel=_WATCHING,
    help="Answer grpc.channelz.v1, which tells who is connected and what their connections do. For the role "
    "admin, or on this machine alone.",
)
@option(
    "--log-format",
    type=click.Choice([form.value for form in LogFormat]),
    metavar="FORMAT",
    envvar="SESSION_NOTES_LOG_FORMAT",
    panel=_WATCHING,
    help="What a line in the log is: text, for people, or json, an object for programs.",
    default=_DEFAULTS.log_format.value,
)
@option("--verbose", "-v", is_flag=True, panel=_WATCHING, help="Log each call, too: method, status, time.")
def serve(
    listen: tuple[str, ...],
    insecure_listen: bool,
    tokens_dir: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    tls_roles: Path | None,
    redis_url: str | None,
    redis_password_file: Path | None,
    redis_ca: Path | None,
    redis_cert: Path | None,
    redis_key: Path | None,
    sentinel_user: str,
    sentinel_password_file: Path | None,
    min_replicas_acked: int,
    data_dir: Path | None,
    prefix: str,
    session_ttl: timedelta,
    notes_timeout: timedelta,
    store_timeout: timedelta,
    max_connection_age: timedelta,
    grace: timedelta,
    max_notes_bytes: int,
    max_turn_bytes: int,
    max_batch: int,
    max_message_bytes: int,
    max_concurrent_calls: int,
    workers: int,
    dev: bool,
    metrics_listen: str | None,
    channelz: bool,
    log_format: str,
    verbose: bool,
) -> None:
    """Start the sidecar.

    With no options at all: on 127.0.0.1:50051, with an embedded Valkey whose data is still there after a restart.
    Stops on SIGTERM, SIGHUP and Ctrl-C, after the calls in flight; told so again, without them.

    Traces go to the OpenTelemetry collector that OTEL_EXPORTER_OTLP_ENDPOINT names.
    """
    # Until there is something to stop in order, as before the command line took over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Before gRPC is imported.
    choose_poller()
    # Imported here, so that the other commands need not wait for it.
    from tempfile import TemporaryDirectory

    from session_notes_server.sidecar import log_setup
    from session_notes_server.sidecar.lifecycle import log_addresses, run
    from session_notes_server.sidecar.sample_calls import sample_lines
    from session_notes_server.sidecar.sidecar import serve as serve_alone
    from session_notes_server.sidecar.supervisor import supervise

    log_setup.configure(verbose=verbose or dev, log_format=LogFormat(log_format))
    for warning in variable_warnings(click.get_current_context().find_root().command):
        log.warning(warning)
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
        sentinel_user=sentinel_user,
        sentinel_password_file=sentinel_password_file,
        min_replicas_acked=min_replicas_acked,
        data_dir=data_dir,
        log_format=LogFormat(log_format),
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
        if dev:
            log_setup.print_lines([*sample_lines(settings, addresses)])

    kept = not dev or data_dir is not None or redis_url is not None
    try:
        # From here on there may be a directory to remove.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with nullcontext() if kept else TemporaryDirectory(prefix="session-notes-dev-") as folder:
            if folder is not None:
                settings = replace(settings, data_dir=Path(folder))
            run((serve_alone if workers == 1 else supervise)(settings, tell))
    except KeyboardInterrupt:
        sys.exit(130)
    except StartupError as error:
        log_setup.flush()
        code = ExitCode.USAGE if isinstance(error, InvalidSetting) else ExitCode.UNEXPECTED
        raise Failure(str(error) + _how_make_takes_flags(str(error)), code) from error


def _how_make_takes_flags(message: str) -> str:
    flag = re.search(r"--[a-z-]+", message)
    if flag is None or os.environ.get("STARTED_BY") != "make run":
        return ""
    return f'\nWith make: make run ARGS="{flag[0]} ..."'
