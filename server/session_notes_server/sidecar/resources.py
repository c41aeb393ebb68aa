"""Resources that the settings name: authorization, certificates and store, opened before the sidecar starts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

from session_notes_server.embedded.valkey import EmbeddedValkey
from session_notes_server.identity.callers import CertificateRoles, Certificates, Tokens
from session_notes_server.rpc.authorization import Authorization
from session_notes_server.settings import InvalidSetting, Settings, default_data_dir
from session_notes_server.sidecar.lifecycle import Shutdown, background
from session_notes_server.store import RedisSecrets, RedisTarget
from session_notes_server.store.redis.url import Address


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that the settings name."""

    authorization: Authorization
    """The roles of callers."""

    certificates: Certificates | None
    """The certificate for TLS on TCP addresses. None: no TLS."""

    embedded: EmbeddedValkey | None
    """The embedded store. None: the settings name a Redis."""

    redis: RedisTarget
    """The address of the store, embedded or not."""

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Check the settings against each other and against this machine. Nothing is started.

        Raises:
            StartupError: If a setting is invalid, or a file or the data directory cannot be used.
        """
        authorization, certificates, redis = _authorization(settings), _certificates(settings), redis_target(settings)
        if redis is not None:
            return cls(authorization, certificates, None, redis)
        embedded = EmbeddedValkey(settings.data_dir or default_data_dir())
        # Not parsed from a URL, in which some characters of the path would have a special meaning.
        socket = Address(str(embedded.socket), 0)
        return cls(authorization, certificates, embedded, RedisTarget(f"unix://{socket}", (socket,)))


@contextlib.asynccontextmanager
async def run_embedded_store(embedded: EmbeddedValkey | None, shutdown: Shutdown) -> AsyncIterator[Callable[[], None]]:
    """Run the embedded store during the block, if there is one.

    Yields:
        A function to call after each deletion. It requests the erasure of the deleted data from the store's files, and
        does nothing for a Redis, whose files are its operator's responsibility.

    Raises:
        EmbeddedError: If the store cannot be started.
    """
    if embedded is None:
        yield lambda: None
        return
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(embedded.close)
        await embedded.open()
        # Data that an urgent shutdown does not erase is erased at the next start.
        stack.push_async_callback(lambda: shutdown.unless_urgent(embedded.erasure.finish()))
        await stack.enter_async_context(background(embedded.keep_running(), embedded.erasure.run()))
        yield embedded.erasure.request


def _authorization(settings: Settings) -> Authorization:
    if settings.tls_roles and not settings.tls_client_ca:
        raise InvalidSetting("--tls-roles applies to clients' certificates: add --tls-client-ca")
    if settings.tls_client_ca and not (settings.tls_roles or settings.tokens_dir):
        raise InvalidSetting("with --tls-client-ca alone no caller has a role: add --tls-roles or --tokens-dir")
    return Authorization(
        Tokens(settings.tokens_dir) if settings.tokens_dir else None,
        CertificateRoles(settings.tls_roles) if settings.tls_roles else None,
    )


def _certificates(settings: Settings) -> Certificates | None:
    if settings.tls_cert and settings.tls_key:
        return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
        raise InvalidSetting("TLS needs both --tls-cert and --tls-key")
    return None


def redis_target(settings: Settings) -> RedisTarget | None:
    """Return the Redis that the settings name, or None for the embedded store.

    Raises:
        InvalidSetting: If the URL is invalid, or two settings conflict.
        CredentialsError: If a file with a password or a certificate cannot be used.
    """
    secrets = RedisSecrets(
        password_file=settings.redis_password_file,
        ca=settings.redis_ca,
        cert=settings.redis_cert,
        key=settings.redis_key,
        sentinel_user=settings.sentinel_user,
        sentinel_password_file=settings.sentinel_password_file,
    )
    if settings.redis_url is not None:
        return RedisTarget.parse(settings.redis_url, secrets)
    if secrets.has_password or secrets.uses_tls or secrets.uses_sentinels:
        raise InvalidSetting("passwords and certificates for Redis need a --redis-url")
    if settings.min_replicas_acked:
        raise InvalidSetting("the embedded store has no replicas: --min-replicas-acked needs a --redis-url")
    return None
