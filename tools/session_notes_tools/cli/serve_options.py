"""Options of `session-notes serve`, and their conversion to settings."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import click
from session_notes_server.settings import ERASED_WITHIN, EngineName, Limits, LogFormat, Settings

from session_notes_tools.cli.parameters import option, path_option, span_option
from session_notes_tools.cli.store_options import PANEL, min_replicas_acked_option, prefix_option, redis_secrets_options

T = TypeVar("T")

_DEFAULTS = Settings()
_OBSERVABILITY = "Observability"

_count_option = partial(option, type=click.IntRange(min=1), metavar="N")

_OPTIONS = (
    option(
        "--listen",
        multiple=True,
        metavar="ADDRESS",
        envvar="SESSION_NOTES_LISTEN",
        help="An address to listen on: host:port (port 0 picks a free one) or unix:/path. Repeatable; in the "
        "variable, separate addresses with spaces.",
        show_default=_DEFAULTS.listen[0],
    ),
    option(
        "--insecure-listen",
        is_flag=True,
        envvar="SESSION_NOTES_INSECURE_LISTEN",
        help="Allow listening without TLS or authentication on addresses that other machines can reach.",
    ),
    path_option(
        "--tokens-dir",
        metavar="DIR",
        envvar="SESSION_NOTES_TOKENS_DIR",
        help="Admit only callers with a token. The directory's files primary, observer and admin contain the tokens of "
        "each role, one per line, or sha256: and the hash of a token. They are reloaded when they change.",
        show_default="no token required",
    ),
    path_option(
        "--tls-cert",
        envvar="SESSION_NOTES_SERVER_TLS_CERT",
        help="Use TLS on TCP addresses with this certificate (a PEM file). Reloaded when it changes.",
        show_default="no TLS",
    ),
    path_option("--tls-key", envvar="SESSION_NOTES_SERVER_TLS_KEY", help="The private key of --tls-cert (a PEM file)."),
    path_option(
        "--tls-client-ca",
        envvar="SESSION_NOTES_TLS_CLIENT_CA",
        help="Admit only callers with a certificate from this authority (a PEM file).",
    ),
    path_option(
        "--tls-roles",
        envvar="SESSION_NOTES_TLS_ROLES",
        help="A file that assigns roles to names (DNS, URI or CN) in client certificates, in lines of the form "
        "`role name`.",
    ),
    option(
        "--redis-url",
        metavar="URL",
        envvar="SESSION_NOTES_REDIS_URL",
        panel=PANEL,
        help="The Redis (6.2 or newer) or Valkey (7.2 or newer) to use: redis://, rediss:// or unix://, "
        "redis+cluster://host:port,host:port, redis+sentinel://host:port,host:port/service. "
        "A user name precedes the host (user@host). Put the password into --redis-password-file, as other users can "
        "read command lines.",
        show_default="an embedded Valkey in the data directory",
    ),
    redis_secrets_options,
    min_replicas_acked_option,
    path_option(
        "--data-dir",
        metavar="DIR",
        envvar="SESSION_NOTES_DATA_DIR",
        help="The data directory of the embedded Valkey, for one sidecar at a time: new, empty, or already used for "
        "this. Data removed by DeleteSession is erased from its files within "
        f"{ERASED_WITHIN.total_seconds():.0f}s.",
        show_default="session-notes in $XDG_DATA_HOME or ~/.local/share",
    ),
    prefix_option,
    span_option(
        "--session-ttl",
        envvar="SESSION_NOTES_SESSION_TTL",
        help="The time to keep a session after its last change, unless it has its own ttl: 90s, 15m, 24h, 7d.",
        default=_DEFAULTS.session_ttl,
        show_default=f"{_DEFAULTS.session_ttl // timedelta(hours=1)}h",
    ),
    span_option(
        "--notes-timeout",
        envvar="SESSION_NOTES_NOTES_TIMEOUT",
        help="The longest time that GetNotes waits for Redis before it returns UNAVAILABLE.",
        default=_DEFAULTS.notes_timeout,
        show_default=f"{_DEFAULTS.notes_timeout // timedelta(milliseconds=1)}ms",
    ),
    span_option(
        "--store-timeout",
        envvar="SESSION_NOTES_STORE_TIMEOUT",
        help="The longest time that any call waits for Redis before it returns UNAVAILABLE.",
        default=_DEFAULTS.store_timeout,
        show_default=f"{_DEFAULTS.store_timeout // timedelta(seconds=1)}s",
    ),
    span_option(
        "--max-connection-age",
        envvar="SESSION_NOTES_MAX_CONNECTION_AGE",
        help="The age at which a client is asked to replace its connection.",
        default=_DEFAULTS.max_connection_age,
        show_default=f"{_DEFAULTS.max_connection_age // timedelta(minutes=1)}m",
    ),
    span_option(
        "--grace",
        envvar="SESSION_NOTES_GRACE",
        help="The time allowed for calls in flight to finish after SIGTERM.",
        default=_DEFAULTS.grace,
        show_default=f"{_DEFAULTS.grace // timedelta(seconds=1)}s",
    ),
    _count_option(
        "--max-notes-bytes",
        envvar="SESSION_NOTES_MAX_NOTES_BYTES",
        help="The maximum size of a notes document or session field.",
        default=_DEFAULTS.limits.notes_bytes,
    ),
    _count_option(
        "--max-turn-bytes",
        envvar="SESSION_NOTES_MAX_TURN_BYTES",
        help="The maximum size of a turn.",
        default=_DEFAULTS.limits.turn_bytes,
    ),
    _count_option(
        "--max-batch",
        envvar="SESSION_NOTES_MAX_BATCH",
        help="The maximum number of requests in one BatchGetNotes.",
        default=_DEFAULTS.limits.batch_requests,
    ),
    _count_option(
        "--max-message-bytes",
        envvar="SESSION_NOTES_MAX_MESSAGE_BYTES",
        help="The maximum size of a request message.",
        default=_DEFAULTS.limits.message_bytes,
    ),
    _count_option(
        "--max-concurrent-calls",
        envvar="SESSION_NOTES_MAX_CONCURRENT_CALLS",
        help="The maximum number of calls in flight. Further calls are rejected with RESOURCE_EXHAUSTED.",
        default=_DEFAULTS.limits.concurrent_calls,
    ),
    _count_option(
        "--workers",
        envvar="SESSION_NOTES_WORKERS",
        help="The number of processes that serve calls, to use more than one core (Linux only). They share the "
        "connections to a TCP port; a unix socket is served by the first process. Limits on calls and connections "
        "apply per process.",
        default=_DEFAULTS.workers,
    ),
    option(
        "--engine",
        type=click.Choice([name.value for name in EngineName]),
        metavar="ENGINE",
        envvar="SESSION_NOTES_ENGINE",
        help="The engine that serves calls: native (libnghttp2), grpcio (grpc.aio), or auto, which is native if the "
        "package ngh2 is installed. Both keep the same promises; native takes a fraction of the CPU.",
        default=_DEFAULTS.engine.value,
    ),
    option(
        "--dev",
        is_flag=True,
        help="For development: keep no data (an embedded Valkey in a temporary directory, unless --data-dir or "
        "--redis-url is given), log every call, and print sample calls for grpcurl and Python.",
    ),
    option(
        "--metrics-listen",
        metavar="ADDRESS",
        envvar="SESSION_NOTES_METRICS_LISTEN",
        panel=_OBSERVABILITY,
        help="Serve metrics for Prometheus at http://ADDRESS/metrics, and probes at /livez and /readyz: host:port "
        "(port 0 picks a free one and logs it). They contain no user data and require no credentials, so other "
        "machines may be able to reach them.",
        show_default="no metrics",
    ),
    option(
        "--channelz",
        is_flag=True,
        envvar="SESSION_NOTES_CHANNELZ",
        panel=_OBSERVABILITY,
        help="Serve grpc.channelz.v1, which lists clients and the state of their connections, to the role admin or "
        "to this machine only.",
    ),
    option(
        "--log-format",
        type=click.Choice([log_format.value for log_format in LogFormat]),
        metavar="FORMAT",
        envvar="SESSION_NOTES_LOG_FORMAT",
        panel=_OBSERVABILITY,
        help="The format of log lines: text (for people) or json (for programs).",
        default=_DEFAULTS.log_format.value,
    ),
    option(
        "--verbose", "-v", is_flag=True, panel=_OBSERVABILITY, help="Log each call: its method, status and duration."
    ),
)


def serve_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add all options to the command. Their parameters are `dev`, `verbose` and the arguments of `settings_from`."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Build the settings from the parsed options."""
    fields = dict(values)
    limits = Limits(
        notes_bytes=fields.pop("max_notes_bytes"),
        turn_bytes=fields.pop("max_turn_bytes"),
        batch_requests=fields.pop("max_batch"),
        message_bytes=fields.pop("max_message_bytes"),
        concurrent_calls=fields.pop("max_concurrent_calls"),
    )
    fields["listen"] = fields["listen"] or _DEFAULTS.listen
    fields["log_format"] = LogFormat(fields["log_format"])
    fields["engine"] = EngineName(fields["engine"])
    return Settings(**fields, limits=limits)
