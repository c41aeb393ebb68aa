"""What the sidecar can be told, with the defaults and the reason for each."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

ERASED_WITHIN = timedelta(seconds=10)
"""When at the latest what DeleteSession removed is in no file of the embedded store, counted from its answer while the
sidecar runs, else from its next start. More where rewriting the files takes more than 3 s, and while it fails."""


class InvalidSetting(Exception):
    """A setting that cannot be, whatever the machine is like, or two that do not go together.

    Its text says to a user what to write instead, and holds no secret.
    """


def default_data_dir() -> Path:
    """Return `$XDG_DATA_HOME/session-notes`, as the freedesktop.org base directories say.

    Raises:
        InvalidSetting: This user has no home directory.
    """
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "session-notes"
    except RuntimeError:
        raise InvalidSetting(
            f"user {os.geteuid()} has no home directory to keep data in: choose another one with --data-dir, or use a "
            "Redis with --redis-url"
        ) from None


class LogFormat(enum.StrEnum):
    """What a line in the log is."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large things may be, and how many at once. Beyond a limit the answer is RESOURCE_EXHAUSTED."""

    notes_bytes: int = 256 * 1024
    """One notes document, serialized; also one session field."""

    turn_bytes: int = 64 * 1024
    """One turn, serialized."""

    batch_requests: int = 1000
    """Requests in one BatchGetNotes."""

    message_bytes: int = 4 * 1024 * 1024
    """One request message. gRPC's own default, so that clients meet no surprise."""

    concurrent_calls: int = 10_000
    """Calls under way at once. Hundreds of sessions bring bursts of some thousands, which are to be answered."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one sidecar."""

    listen: tuple[str, ...] = ("127.0.0.1:50051",)
    """Addresses: `host:port` (port 0: a free one) or `unix:/path`."""

    insecure_listen: bool = False
    """Whether others than this machine may reach an address without TLS, or without saying who they are."""

    tokens_dir: Path | None = None
    """Where the tokens of each role are. None: callers need no token."""

    tls_cert: Path | None = None
    """The sidecar's certificate, with those that lead to its authority. None: no TLS."""

    tls_key: Path | None = None
    """Its private key."""

    tls_client_ca: Path | None = None
    """Whose certificates callers must have. None: they need none."""

    tls_roles: Path | None = None
    """Which role each name in a caller's certificate has."""

    redis_url: str | None = None
    """Where Redis is. None: an embedded Valkey of our own in `data_dir`."""

    redis_password_file: Path | None = None
    """Where its password is, for those who would rather not have it in the URL, or who change it. None: in the URL, or
    there is none."""

    redis_ca: Path | None = None
    """Who signs the certificates of Redis. None: the authorities this system trusts."""

    redis_cert: Path | None = None
    """Our own certificate, for a Redis that asks for one. None: it does not."""

    redis_key: Path | None = None
    """Its private key."""

    sentinel_user: str = ""
    """Our user at the Sentinels, which have users of their own. Empty: their default user."""

    sentinel_password_file: Path | None = None
    """Where the password of the Sentinels is. None: they ask for none."""

    min_replicas_acked: int = 0
    """How many replicas must have a write before it is answered. None by default: the embedded store has no replicas,
    and each write would cost a round trip to them."""

    data_dir: Path | None = None
    """Where the embedded store keeps its data. None: in `default_data_dir()`."""

    log_format: LogFormat = LogFormat.TEXT
    """Whether people or programs read the log."""

    metrics_listen: str | None = None
    """Where Prometheus finds our metrics: `host:port`. None: nowhere, and nothing is counted."""

    channelz: bool = False
    """Whether gRPC's own view of its connections can be asked for."""

    prefix: str = "session-notes"
    """What every key in the store starts with."""

    session_ttl: timedelta = timedelta(hours=24)
    """How long a session is kept after its last change, unless UpdateSession gave it a ttl of its own."""

    notes_timeout: timedelta = timedelta(milliseconds=80)
    """How long GetNotes waits for a Redis that answers nobody. A primary asks in the middle of a conversation: it is to
    have its answer within 100 ms, be it that there is none."""

    store_timeout: timedelta = timedelta(seconds=1)
    """How long any call may wait for Redis. Below the 2 s our clients give such calls, so that they hear from
    us."""

    max_connection_age: timedelta = timedelta(minutes=10)
    """How long a connection is used. Then its client opens another, and whatever is held on the old one ends with it.
    A certificate that is no longer trusted is out by then, too. A new connection costs some milliseconds."""

    grace: timedelta = timedelta(seconds=5)
    """How long calls in flight may take to finish after SIGTERM."""

    workers: int = 1
    """Processes that answer calls. One uses one core. More of them share the TCP ports, and each has the limits on
    calls and connections for itself."""

    limits: Limits = Limits()
    """Sizes and counts."""
