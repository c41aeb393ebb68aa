"""From a URL to connections: which kinds of Redis there are, where their nodes listen, and how one is opened."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from hiredis import ReplyError

from session_notes_server.settings import InvalidSetting
from session_notes_server.store.kept import Backoff
from session_notes_server.store.link import Link, packed
from session_notes_server.store.secrets import RedisSecrets


class InvalidRedisURL(InvalidSetting):
    """The URL names no Redis we could connect to. Its text is fit for a user and holds no secret."""


class NoMaster(ConnectionError):
    """No Sentinel that answers knows a master that is up."""


FORMS = """\
  redis://[user:password@]host[:port][/db]
  unix://[user:password@]/path/to/socket[?db=n]
  redis+cluster://[user:password@]host:port[,host:port…]
  redis+sentinel://[user:password@]host:port[,host:port…]/service[/db]
With TLS: rediss://, rediss+cluster:// or rediss+sentinel://"""

_SCHEMES = {f"{scheme}{kind}" for scheme in ("redis", "rediss") for kind in ("", "+cluster", "+sentinel")} | {"unix"}
_REDIS_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens. Port 0: `host` is the path of a unix socket."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`, as nodes of a cluster name each other."""
        host, _, port = text.rpartition(":")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """Where the store is, and who we are to it. Parsed and checked once."""

    name: str
    """For logs: where, without the password."""

    addresses: tuple[Address, ...]
    """Of the node, of some nodes of the cluster, or of the Sentinels."""

    is_cluster: bool = False

    service: str = ""
    """What Sentinel calls the master it watches; empty: there is no Sentinel."""

    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    secrets: RedisSecrets = field(default_factory=RedisSecrets)
    """What of it is in files."""

    db: int = 0
    backoffs: dict[Address, Backoff] = field(default_factory=lambda: defaultdict(Backoff), compare=False, repr=False)
    """When to try to connect, by where: all links to a node try in turn."""

    @classmethod
    def parse(cls, url: str, secrets: RedisSecrets | None = None) -> Self:
        """Read a URL of one of the FORMS, and check that secrets out of files fit it.

        Raises:
            InvalidRedisURL: it is none.
            InvalidSetting: a password is in both, or there are certificates for a connection without TLS.
        """
        secrets = secrets or RedisSecrets()
        try:
            target = cls._parse(urlsplit(url), secrets)
        except InvalidRedisURL as error:
            raise InvalidRedisURL(f"not a Redis URL: {error}. Write one of\n{FORMS}") from None
        except ValueError:
            raise InvalidRedisURL(f"not a Redis URL. Write one of\n{FORMS}") from None
        if secrets.are_about_tls and not target.tls:
            raise InvalidSetting(
                f"--redis-ca, --redis-cert and --redis-key are about TLS, and {target.name} has none: write rediss://, "
                "rediss+cluster:// or rediss+sentinel://"
            )
        if secrets.have_a_password and target.password:
            raise InvalidSetting("there is a password in the Redis URL and one in --redis-password-file: give one")
        return target

    @classmethod
    def _parse(cls, parts: SplitResult, secrets: RedisSecrets) -> Self:
        if parts.scheme not in _SCHEMES:
            raise InvalidRedisURL(f"unknown scheme {parts.scheme!r}")
        scheme, _, kind = parts.scheme.partition("+")
        login, _, _ = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        path, service = unquote(parts.path), ""
        if scheme == "unix":
            addresses: tuple[Address, ...] = (Address(path, 0),)
            path = ""
        else:
            addresses = tuple(_addresses(parts, _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT))
        if kind == "sentinel":
            service, _, path = path.lstrip("/").partition("/")
            if not service:
                raise InvalidRedisURL("the name of the service Sentinel watches is missing")
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        if not query.keys() <= {"db"} or parts.fragment:
            raise InvalidRedisURL("nothing but db may follow the '?'")
        where = ",".join(map(str, addresses))
        return cls(
            name=f"{parts.scheme}://{where}",
            addresses=addresses,
            is_cluster=kind == "cluster",
            service=service,
            tls=scheme == "rediss",
            user=unquote(user),
            password=unquote(password),
            secrets=secrets,
            db=int(query["db"][0] if "db" in query else path.strip("/") or 0),
        )

    async def open(self, address: Address, *, timeout_seconds: float, silence_seconds: float) -> Link:
        """Connect to a node, and log in.

        Raises:
            OSError: it cannot be reached, or its certificate is not trusted.
            TimeoutError: it does not answer.
            hiredis.ReplyError: it refuses our user, our password or the database.
        """
        loop = asyncio.get_running_loop()

        def link() -> Link:
            return Link(timeout_seconds=timeout_seconds, silence_seconds=silence_seconds)

        if address.port:
            context = self.secrets.tls_context() if self.tls else None
            _, opened = await loop.create_connection(link, address.host, address.port, ssl=context)
        else:
            _, opened = await loop.create_unix_connection(link, address.host)
        try:
            await self._log_in(opened)
        except BaseException:
            opened.lose()
            raise
        return opened

    async def _log_in(self, link: Link) -> None:
        needed: list[tuple[str | int, ...]] = []
        password = self.secrets.password() or self.password
        if password or self.user:
            needed.append(("AUTH", *([self.user] if self.user else []), password))
        if self.db:
            needed.append(("SELECT", self.db))
        # For whoever looks at CLIENT LIST; it is no matter if that is not allowed.
        commands = [*needed, ("CLIENT", "SETNAME", "session-notes")]
        replies = await link.send(b"".join(packed(*command) for command in commands), len(commands))
        for reply in replies[: len(needed)]:
            if isinstance(reply, ReplyError):
                raise reply

    async def master(self, *, timeout_seconds: float) -> Address:
        """Ask the Sentinels, one by one, who is master.

        Raises:
            NoMaster: none of them says so.
        """
        # Only who has Sentinels has to wait for its import.
        from redis.asyncio.retry import Retry
        from redis.asyncio.sentinel import Sentinel
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        each_seconds = timeout_seconds / (len(self.addresses) + 1)
        # As redis-py has it, and others: our login is for Redis, not for the Sentinels. TLS is for both.
        options = {
            "socket_timeout": each_seconds,
            "socket_connect_timeout": each_seconds,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            **(self.secrets.for_redis_py() if self.tls else {}),
        }
        where = [(one.host, one.port) for one in self.addresses]
        # A new one each time: it would read the files of TLS only once.
        sentinel = Sentinel(where, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        try:
            return Address(*await sentinel.discover_master(self.service))
        except RedisError as error:
            raise NoMaster from error
        finally:
            for one in sentinel.sentinels:
                await one.aclose()


def _addresses(parts: SplitResult, default_port: int) -> list[Address]:
    addresses = []
    for host_and_port in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{host_and_port}")
        if not one.hostname:
            raise InvalidRedisURL("a host is missing")
        addresses.append(Address(one.hostname, one.port or default_port))
    return addresses
