"""The target of a Redis URL, and opening and authenticating connections to its nodes."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from hiredis import ReplyError

from session_notes_server.settings import InvalidSetting
from session_notes_server.store.errors import ConnectionLost, Unresponsive, Unusable, known_codes
from session_notes_server.store.redis.connection import Connection, pack
from session_notes_server.store.redis.credentials import RedisSecrets
from session_notes_server.store.redis.reconnecting import Backoff
from session_notes_server.store.redis.url import Address, RedisURL

# The share of the connection timeout for a TLS handshake, so that its timeout differs from one of the network.
_HANDSHAKE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class OpenedConnection:
    """An authenticated connection, and the mode and role that the server reports."""

    connection: Connection

    mode: str
    """`standalone`, `cluster` or `sentinel`. Empty if the server does not report it."""

    role: str
    """`master` or `replica`. Empty if the server does not report it."""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """The address of the store and the credentials for it, parsed and checked once."""

    name: str
    """The address for logs, without credentials."""

    addresses: tuple[Address, ...]
    """Addresses of the node, of some nodes of the cluster, or of the Sentinels."""

    is_cluster: bool = False

    service: str = ""
    """Sentinel's name for the master. Empty: no Sentinels are used."""

    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    secrets: RedisSecrets = field(default_factory=RedisSecrets)
    """Credentials from files."""

    db: int = 0
    backoffs: dict[Address, Backoff] = field(default_factory=lambda: defaultdict(Backoff), compare=False, repr=False)
    """Backoffs by address. All connections to a node share one, so that they attempt to connect in turn."""

    @classmethod
    def parse(cls, text: str, secrets: RedisSecrets | None = None) -> Self:
        """Parse a Redis URL, and check that the credentials from files fit it.

        Raises:
            InvalidRedisURL: If the URL is invalid.
            InvalidSetting: If both have a password, or a credential does not apply to this URL.
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
                f"--redis-ca, --redis-cert and --redis-key need TLS, which {target.name} does not use: write "
                "rediss://, rediss+cluster:// or rediss+sentinel://"
            )
        if secrets.has_password and target.password:
            raise InvalidSetting("the Redis URL and --redis-password-file both have a password: remove one")
        if secrets.uses_sentinels and not target.service:
            raise InvalidSetting(
                f"--sentinel-user and --sentinel-password-file need Sentinels, which {target.name} does not use: write "
                "redis+sentinel:// or rediss+sentinel://"
            )
        return target

    async def open(self, address: Address, *, timeout_seconds: float, silence_seconds: float) -> OpenedConnection:
        """Connect to a node and authenticate.

        Args:
            address: Address of the node. A host name is resolved again each time.
            timeout_seconds: Limit for connecting, and later for each call over the connection.
            silence_seconds: How long the node may send nothing while replies are pending.

        Raises:
            OSError: If it is unreachable, its certificate is not trusted, or it is not a suitable Redis.
            hiredis.ReplyError: If it refuses the user, the password or the database.
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
        """Connect to a Sentinel and authenticate with the user and password for Sentinels.

        Raises:
            OSError: If it is unreachable or not a Sentinel.
            hiredis.ReplyError: If it refuses the user or the password.
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
            raise Unusable("it is a Redis, not a Sentinel: write redis:// or rediss://")
        return opened

    async def _open(
        self, address: Address, user: str, password: str, db: int, *, timeout_seconds: float, silence_seconds: float
    ) -> OpenedConnection:
        connection: Connection | None = None
        # Load this before the time limit starts, because loading the system's authorities takes milliseconds.
        context = self.secrets.tls_context() if self.tls and address.port else None
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
                raise Unresponsive(_NO_CONNECTION if connection is None else _NO_REPLY) from error
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
        raise  # Some SSLErrors are also ValueErrors.
    except ValueError as error:  # A cluster or a Sentinel can send an invalid host name.
        raise Unusable("its host name is invalid") from error
    except ConnectionAbortedError as error:
        raise Unresponsive(_NO_HANDSHAKE) from error
    return connected


_NO_CONNECTION = "no answer to the connection attempt in time: is the address right, and does a firewall block it?"
_NO_HANDSHAKE = "no answer to the TLS handshake in time: does it speak TLS? If not, write redis://"
_NO_REPLY = (
    "no answer in time, although it accepts connections: is it Redis, and do both sides use TLS (rediss://), or "
    "neither?"
)
_CLOSED = "it closes the connection immediately: is it Redis, and do both sides use TLS (rediss://), or neither?"


async def _log_in(connection: Connection, user: str, password: str, db: int) -> OpenedConnection:
    required: list[tuple[str | int, ...]] = []
    if password or user:
        required.append(("AUTH", *([user] if user else []), password))
    if db:
        required.append(("SELECT", db))
    # HELLO, which every user may send, reports what the server is. SETNAME is for CLIENT LIST, and may be refused.
    commands = [*required, ("HELLO",), ("CLIENT", "SETNAME", "session-notes")]
    # Send one packet: a server that rejects a connection closes it, and a second packet would lose the reason.
    lost: ConnectionLost | None = None
    try:
        replies: Sequence[Any] = await connection.send(b"".join(pack(*command) for command in commands), len(commands))
    except ConnectionLost as error:
        replies, lost = error.replies, error
    for command, reply in zip(commands[:-1], replies, strict=False):
        if isinstance(reply, ReplyError) and (command in required or _rejects_connection(reply)):
            raise reply
    if lost is not None:
        raise lost
    hello = _parse_hello(replies[len(required)])
    return OpenedConnection(connection, hello.get(b"mode", ""), hello.get(b"role", ""))


def _rejects_connection(refusal: ReplyError) -> bool:
    return any(code.rejects_connections for code in known_codes(refusal)) or "max number of clients" in str(refusal)


def _parse_hello(reply: Any) -> dict[bytes, str]:
    """Return the text entries of a reply to HELLO, by name."""
    if not isinstance(reply, Sequence) or isinstance(reply, bytes):
        return {}
    pairs = zip(reply[::2], reply[1::2], strict=False)
    return {name: text.decode(errors="replace") for name, text in pairs if isinstance(text, bytes)}
