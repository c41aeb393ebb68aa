"""The sidecar's settings, with their units, defaults and reasons, and the errors that prevent its start."""

from __future__ import annotations

import enum
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

DEFAULT_ADDRESS = "127.0.0.1:50051"
"""The default address of the sidecar. Equals `session_notes.DEFAULT_TARGET`, which takes 150 ms to import. A test
compares the two."""

HEALTH_LIVE, HEALTH_READY = "live", "ready"
"""Names of health services besides those of the contract: the process alone, and the process with its store."""

ENGINE_METADATA = "session-notes-engine"
"""Key of the trailing metadata with which health's Check names the engine that serves it."""

ERASED_WITHIN = timedelta(seconds=10)
"""The time within which data removed by DeleteSession is erased from every file of the embedded store. It begins with
the response or, if the sidecar ends before the erasure, with its next start. Erasure takes longer if a rewrite of the
files takes more than 3 s, and while rewrites fail."""

MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""The longest path of a unix socket: the size of `sun_path` (unix(7)) without the terminating NUL."""


class StartupError(Exception):
    """The sidecar cannot start. The text tells an operator what to do and contains no secret.

    Subclasses:
        InvalidSetting: A setting is invalid on any machine. The exit code is 2.
        AddressError: The sidecar cannot listen on an address.
        CredentialsError: A file with tokens, certificates or a password cannot be used.
        EmbeddedError: The embedded store cannot be started.
    """


class InvalidSetting(StartupError):
    """An invalid setting, or two settings that conflict."""


def default_data_dir() -> Path:
    """Return `$XDG_DATA_HOME/session-notes`, following the freedesktop.org base directory specification.

    Raises:
        InvalidSetting: If this user has no home directory.
    """
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "session-notes"
    except RuntimeError:
        raise InvalidSetting(
            f"user {os.geteuid()} has no home directory for the data directory: choose another with --data-dir, or "
            "use a Redis with --redis-url"
        ) from None


class LogFormat(enum.StrEnum):
    """The format of a log line."""

    TEXT = "text"
    JSON = "json"


class EngineName(enum.StrEnum):
    """The engine that serves calls."""

    AUTO = "auto"
    """The native engine if the package ngh2 is installed, otherwise grpcio."""

    NATIVE = "native"
    """gRPC on libnghttp2, in the thread of the event loop."""

    GRPCIO = "grpcio"
    """grpc.aio."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper limits on sizes and counts. A call that exceeds one fails with RESOURCE_EXHAUSTED."""

    notes_bytes: int = 256 * 1024
    """Serialized size of one notes document, or of one session field."""

    turn_bytes: int = 64 * 1024
    """Serialized size of one turn."""

    batch_requests: int = 1000
    """Requests in one BatchGetNotes."""

    message_bytes: int = 4 * 1024 * 1024
    """Size of one request message. Equals gRPC's own default, which clients expect."""

    concurrent_calls: int = 10_000
    """Calls in flight. Hundreds of sessions cause bursts of a few thousand calls, which should all be answered."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one sidecar."""

    listen: tuple[str, ...] = (DEFAULT_ADDRESS,)
    """Addresses to listen on: `host:port` (port 0: any free port) or `unix:/path`."""

    insecure_listen: bool = False
    """Whether to accept calls from other machines without TLS or without authentication."""

    tokens_dir: Path | None = None
    """Directory with the tokens of each role. None: callers need no token."""

    tls_cert: Path | None = None
    """The sidecar's certificate chain. None: no TLS."""

    tls_key: Path | None = None
    """Private key of `tls_cert`."""

    tls_client_ca: Path | None = None
    """Authority that must have signed callers' certificates. None: callers need no certificate."""

    tls_roles: Path | None = None
    """File that assigns a role to each name in callers' certificates."""

    redis_url: str | None = None
    """URL of Redis. None: use an embedded Valkey in `data_dir`."""

    redis_password_file: Path | None = None
    """File with the password of Redis, which can be rotated and is not in the URL. None: the password in the URL, if
    any."""

    redis_ca: Path | None = None
    """Authority that signed the certificates of Redis. None: the authorities that this system trusts."""

    redis_cert: Path | None = None
    """The sidecar's certificate for a Redis that requires one. None: Redis requires none."""

    redis_key: Path | None = None
    """Private key of `redis_cert`."""

    sentinel_user: str = ""
    """ACL user at the Sentinels, which have users separate from those of Redis. Empty: their default user."""

    sentinel_password_file: Path | None = None
    """File with the password of the Sentinels. None: they require none."""

    min_replicas_acked: int = 0
    """Number of replicas that must acknowledge a write before the call is answered. 0 by default, because the embedded
    store has no replicas, and waiting for them costs each write a round trip."""

    data_dir: Path | None = None
    """Data directory of the embedded store. None: `default_data_dir()`."""

    log_format: LogFormat = LogFormat.TEXT
    """Format of log lines: text for people, or JSON for programs."""

    metrics_listen: str | None = None
    """Address of metrics and HTTP probes: `host:port`. None: neither is served, and no metrics are collected."""

    channelz: bool = False
    """Whether to serve `grpc.channelz.v1`, the state of connections and calls."""

    engine: EngineName = EngineName.AUTO
    """The engine that serves calls. Both keep the same promises; the native one takes a fraction of the CPU."""

    prefix: str = "session-notes"
    """Prefix of every key in the store."""

    session_ttl: timedelta = timedelta(hours=24)
    """Time to keep a session after its last change, unless UpdateSession set a ttl for it."""

    notes_timeout: timedelta = timedelta(milliseconds=80)
    """Timeout of GetNotes for a reply from Redis. A primary calls it during a conversation and needs a response within
    100 ms, even if the response is UNAVAILABLE."""

    store_timeout: timedelta = timedelta(seconds=1)
    """Timeout of any call for a reply from Redis. Shorter than the deadline of 2 s that both clients set on such calls,
    so that they receive the sidecar's response."""

    max_connection_age: timedelta = timedelta(minutes=10)
    """Age at which a connection is closed. Its client opens another one; streams on the old one end. This also drops
    clients whose certificate is no longer trusted. A new connection costs a few milliseconds."""

    grace: timedelta = timedelta(seconds=5)
    """Time for calls in flight to finish after SIGTERM."""

    workers: int = 1
    """Number of processes that serve calls. Each uses at most one core. They share the TCP ports. Limits on calls and
    connections apply to each process."""

    limits: Limits = Limits()
    """Sizes and counts."""
