"""From a URL to connections: which kind of store it is, and how a connection to a node is opened and logged in."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from hiredis import ReplyError

from session_notes_server.settings import InvalidSetting
from session_notes_server.store.errors import Silent, Unusable, codes
from session_notes_server.store.redis.connection import Connection, ConnectionLost, pack
from session_notes_server.store.redis.credentials import RedisSecrets
from session_notes_server.store.redis.reconnecting import Backoff
from session_notes_server.store.redis.url import Address, RedisURL

# Of the time to connect, what a TLS handshake may take, so that its silence is told apart from that of the network.
_HANDSHAKE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class OpenedConnection:
    """A connection that is logged in, and what the server says of itself."""

    connection: Connection

    mode: str
    """`standalone`, `cluster` or `sentinel`; empty where the server does not say."""

    role: str
    """`master` or `replica`; empty where the server does not say."""


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
    """When to try to connect, by where: all connections to a node try in turn."""

    @classmethod
    def parse(cls, text: str, secrets: RedisSecrets | None = None) -> Self:
        """Read a Redis URL, and check that secrets out of files fit it.

        Raises:
            InvalidRedisURL: If it is none.
            InvalidSetting: If a password is in both, or a secret has no use with this URL.
        """
        secrets = secrets or RedisSecrets()
        url = RedisURL.parse(text)
        target = cls(
            name=url.name,
            addresses=url.addresses,
            is_cluster=url.scheme.endswith("+cluster"),
            service=url.service,
            tls=url.scheme.startswith("rediss"),
            user=url.user,
            password=url.password,
            secrets=secrets,
            db=url.db,
        )
        if secrets.uses_tls and not target.tls:
            raise InvalidSetting(
                f"--redis-ca, --redis-cert and --redis-key are about TLS, and {target.name} has none: write rediss://, "
                "rediss+cluster:// or rediss+sentinel://"
            )
        if secrets.has_password and target.password:
            raise InvalidSetting("there is a password in the Redis URL and one in --redis-password-file: give one")
        if secrets.uses_sentinels and not target.service:
            raise InvalidSetting(
                f"--sentinel-user and --sentinel-password-file are about Sentinels, and {target.name} has none: write "
                "redis+sentinel:// or rediss+sentinel://"
            )
        return target

    async def open(self, address: Address, *, timeout_seconds: float, silence_seconds: float) -> OpenedConnection:
        """Connect to a node, and log in.

        Args:
            address: Where it listens. A name is resolved anew each time.
            timeout_seconds: How long this may take, and each call over the connection later.
            silence_seconds: How long the node may answer nobody over the connection while somebody waits.

        Raises:
            OSError: If it cannot be reached, its certificate is not trusted, or it is no Redis that has what we need.
            hiredis.ReplyError: If it refuses our user, our password or the database.
        """
        password = self.secrets.password() or self.password
        opened = await self._open(
            address, self.user, password, self.db, timeout_seconds=timeout_seconds, silence_seconds=silence_seconds
        )
        if opened.mode == "sentinel":
            opened.connection.abort()
            raise Unusable("it is a Sentinel: write redis+sentinel://host:port,host:port/service")
        return opened

    async def open_sentinel(self, address: Address, *, timeout_seconds: float) -> OpenedConnection:
        """Connect to a Sentinel, and log in with its own user and password.

        Raises:
            OSError: If it cannot be reached, or is no Sentinel.
            hiredis.ReplyError: If it refuses our user or our password.
        """
        password = self.secrets.sentinel_password() or ""
        opened = await self._open(
            address,
            self.secrets.sentinel_user,
            password,
            0,
            timeout_seconds=timeout_seconds,
            silence_seconds=timeout_seconds,
        )
        if opened.mode not in ("sentinel", ""):
            opened.connection.abort()
            raise Unusable("it is a Redis and no Sentinel: write redis:// or rediss://")
        return opened

    async def _open(
        self, address: Address, user: str, password: str, db: int, *, timeout_seconds: float, silence_seconds: float
    ) -> OpenedConnection:
        connection: Connection | None = None
        context = self.secrets.tls_context() if self.tls and address.port else None  # It takes a while, too.
        try:
            async with asyncio.timeout(timeout_seconds):
                connection = await _connect(address, context, timeout_seconds, silence_seconds)
                return await _log_in(connection, user, password, db)
        except BaseException as error:
            if connection is not None:
                connection.abort()
            if isinstance(error, Unusable):
                raise
            if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
                raise Silent(_NO_CONNECTION if connection is None else _NO_WORD) from error
            if isinstance(error, ConnectionLost | ConnectionResetError) and error.__cause__ is None:
                raise Unusable(_CLOSED) from error
            raise


async def _connect(
    address: Address, context: ssl.SSLContext | None, timeout_seconds: float, silence_seconds: float
) -> Connection:
    loop = asyncio.get_running_loop()
    handshake_seconds = timeout_seconds * _HANDSHAKE_SHARE if context else None

    def connection() -> Connection:
        return Connection(timeout_seconds=timeout_seconds, silence_seconds=silence_seconds)

    if not address.port:
        return (await loop.create_unix_connection(connection, address.host))[1]
    try:
        _, connected = await loop.create_connection(
            connection, address.host, address.port, ssl=context, ssl_handshake_timeout=handshake_seconds
        )
    except ssl.SSLError:
        raise  # Some of them are ValueErrors, too.
    except ValueError as error:  # What a cluster or a Sentinel names may be no name at all.
        raise Unusable("the name of its host is none that can be looked up") from error
    except ConnectionAbortedError as error:
        raise Silent(_NO_HANDSHAKE) from error
    return connected


_NO_CONNECTION = "no answer in time when we connect: is the address right, and does a firewall let us through?"
_NO_HANDSHAKE = "no answer in time to a TLS handshake: does it speak TLS there? If not, write redis://"
_NO_WORD = (
    "no answer in time, though it takes connections: is that Redis, and is TLS (rediss://) spoken on both sides, or on "
    "neither?"
)
_CLOSED = "it closes the connection at once: is that Redis, and is TLS (rediss://) spoken on both sides, or on neither?"


async def _log_in(connection: Connection, user: str, password: str, db: int) -> OpenedConnection:
    needed: list[tuple[str | int, ...]] = []
    if password or user:
        needed.append(("AUTH", *([user] if user else []), password))
    if db:
        needed.append(("SELECT", db))
    # HELLO, which every user may send, asks what the server is; SETNAME is for CLIENT LIST, and may be refused.
    commands = [*needed, ("HELLO",), ("CLIENT", "SETNAME", "session-notes")]
    # In one packet: a server that lets nobody in closes the connection, and a second one would lose us the reason.
    lost: ConnectionLost | None = None
    try:
        replies: Sequence[Any] = await connection.send(b"".join(pack(*command) for command in commands), len(commands))
    except ConnectionLost as error:
        replies, lost = error.replies, error
    for command, reply in zip(commands[:-1], replies, strict=False):
        if isinstance(reply, ReplyError) and (command in needed or _lets_nobody_in(reply)):
            raise reply
    if lost is not None:
        raise lost
    about = _about(replies[len(needed)])
    return OpenedConnection(connection, about.get(b"mode", ""), about.get(b"role", ""))


def _lets_nobody_in(refusal: ReplyError) -> bool:
    return not codes(refusal).isdisjoint({"DENIED", "NOAUTH"}) or "max number of clients" in str(refusal)


def _about(reply: Any) -> dict[bytes, str]:
    """What HELLO tells, by name."""
    if not isinstance(reply, Sequence) or isinstance(reply, bytes):
        return {}
    pairs = zip(reply[::2], reply[1::2], strict=False)
    return {name: text.decode(errors="replace") for name, text in pairs if isinstance(text, bytes)}
