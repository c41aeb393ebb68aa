"""From a URL to a client of redis-py: single node, Sentinel or Cluster, with the options that keep our promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

Client = Redis | RedisCluster


class InvalidRedisURL(ValueError):
    """The URL names no Redis we could connect to. Its text is fit for a user and holds no secret."""


FORMS = """\
redis://[user:password@]host[:port][/db]              a single node; rediss:// for TLS
unix:///path/to/socket[?db=n]                         a single node on a unix socket
redis+cluster://[user:password@]host:port[,host:port…]                a cluster; rediss+cluster:// for TLS
redis+sentinel://[user:password@]host:port[,host:port…]/service[/db]  what Sentinel says is master; rediss+sentinel://"""


@dataclass(frozen=True)
class RedisTarget:
    """Where the store is. Parsed and checked once; connects lazily."""

    url: str
    name: str
    """For logs: where, without the password."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Check a URL of one of the FORMS.

        Raises:
            InvalidRedisURL: it is none.
        """
        try:
            parts = urlsplit(url)
            if parts.scheme == "unix":
                where = parts.path
            elif parts.scheme in {"redis", "rediss", *_CLUSTER, *_SENTINEL}:
                where = ",".join(f"{host}:{port}" for host, port in _hosts(parts))
            else:
                raise InvalidRedisURL(f"unknown scheme {parts.scheme!r}")
            if parts.scheme in _SENTINEL:
                _service(parts)
            elif parts.scheme not in _CLUSTER:
                parse_url(url)
        except InvalidRedisURL as error:
            raise InvalidRedisURL(f"not a Redis URL: {error}. Use one of\n{FORMS}") from None
        except ValueError:
            raise InvalidRedisURL(f"not a Redis URL. Use one of\n{FORMS}") from None
        return cls(url, f"{parts.scheme}://{where}")

    def connect(self, *, timeout_seconds: float) -> Client:
        """Make a client that connects when first used."""
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            # redis-py's own retry would repeat a write whose reply was lost; who may repeat it is the caller's to know.
            "retry": Retry(NoBackoff(), 0),
            # With maintenance notifications on, redis-py skips its check for unread data: one stray reply shifts all
            # later ones.
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "client_name": "session-notes",
        }
        parts = urlsplit(self.url)
        if parts.scheme in _CLUSTER:
            return RedisCluster(
                startup_nodes=[ClusterNode(host, port) for host, port in _hosts(parts)],
                max_connections=_UNLIMITED,
                **_credentials(parts),
                **options,
            )
        if parts.scheme in _SENTINEL:
            service, db = _service(parts)
            secrets = _credentials(parts)
            sentinel = Sentinel(  # type: ignore[no-untyped-call]
                _hosts(parts),
                sentinel_kwargs=options | ({"ssl": True} if "ssl" in secrets else {}),
                db=db,
                max_connections=_UNLIMITED,
                **secrets,
                **options,
            )
            client: Redis = sentinel.master_for(service)
            return client
        return Redis.from_url(self.url, max_connections=_UNLIMITED, **options)


_CLUSTER = {"redis+cluster", "rediss+cluster"}
_SENTINEL = {"redis+sentinel", "rediss+sentinel"}
# The store bounds how many commands are in flight, and so connections; a pool that refuses instead would turn a burst
# into errors.
_UNLIMITED = 1 << 16


def _hosts(parts: SplitResult) -> list[tuple[str, int]]:
    hosts = []
    for host_and_port in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{host_and_port}")
        if not one.hostname:
            raise InvalidRedisURL("a host is missing")
        hosts.append((one.hostname, one.port or (26379 if parts.scheme in _SENTINEL else 6379)))
    return hosts


def _credentials(parts: SplitResult) -> dict[str, Any]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    secrets: dict[str, Any] = {"ssl": True} if parts.scheme.startswith("rediss") else {}
    if user:
        secrets["username"] = unquote(user)
    if password:
        secrets["password"] = unquote(password)
    return secrets


def _service(parts: SplitResult) -> tuple[str, int]:
    service, _, db = parts.path.lstrip("/").partition("/")
    if not service:
        raise InvalidRedisURL("the name of the service Sentinel watches is missing")
    return service, int(db or 0)
