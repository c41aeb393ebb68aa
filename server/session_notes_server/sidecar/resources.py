"""From settings to what they name: who may call, certificates, the store. Looked at before anything is started."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

from session_notes_server.embedded.valkey import EmbeddedValkey
from session_notes_server.identity.callers import CertificateRoles, Certificates, Tokens
from session_notes_server.rpc.authorization import Access
from session_notes_server.settings import InvalidSetting, Settings, default_data_dir
from session_notes_server.sidecar.lifecycle import Stop, background
from session_notes_server.store import RedisSecrets, RedisTarget
from session_notes_server.store.redis.url import Address


@dataclass(frozen=True, slots=True)
class Parts:
    """What the settings name, looked at and found in order."""

    access: Access
    """Who may call."""

    certificates: Certificates | None
    """What TCP is encrypted with, if it is."""

    embedded: EmbeddedValkey | None
    """The store to start and to end with us. None: a Redis that is there without us."""

    redis: RedisTarget
    """Where the store is, whichever it is."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Look at all that can be wrong before anything is started.

        Raises:
            InvalidSetting: Two settings do not go together, or a URL or a path is wrong.
            CredentialsError: A file cannot be used.
            EmbeddedError: The data directory cannot be used.
        """
        access, certificates, redis = _access(settings), _certificates(settings), _redis(settings)
        if redis is not None:
            return cls(access, certificates, None, redis)
        embedded = EmbeddedValkey(settings.data_dir or default_data_dir())
        # Not by a URL, where a path's characters would mean something else.
        socket = Address(str(embedded.socket), 0)
        return cls(access, certificates, embedded, RedisTarget(f"unix://{socket}", (socket,)))


@contextlib.asynccontextmanager
async def running(embedded: EmbeddedValkey | None, stop: Stop) -> AsyncIterator[Callable[[], None]]:
    """The embedded store, if there is one, running within the block → whom to tell of deletions.

    Raises:
        EmbeddedError: it cannot be had.
    """
    if embedded is None:
        yield _leave_files_alone
        return
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(embedded.stop)
        await embedded.start()
        # What is not erased for haste is erased at the next start.
        stack.push_async_callback(lambda: stop.unless_hasty(embedded.upkeep.finish()))
        await stack.enter_async_context(background(embedded.keep_running()))
        await stack.enter_async_context(background(embedded.upkeep.keep_going()))
        yield embedded.upkeep.ask


def _leave_files_alone() -> None:
    """Those of a Redis that is not ours are its operator's."""


def _access(settings: Settings) -> Access:
    """Who may call: everybody, where the settings name neither tokens nor an authority."""
    if settings.tls_roles and not settings.tls_client_ca:
        raise InvalidSetting("--tls-roles is about clients' certificates: give --tls-client-ca too")
    if settings.tls_client_ca and not (settings.tls_roles or settings.tokens_dir):
        raise InvalidSetting("with --tls-client-ca alone nobody has a role: give --tls-roles or --tokens-dir too")
    return Access(
        Tokens(settings.tokens_dir) if settings.tokens_dir else None,
        CertificateRoles(settings.tls_roles) if settings.tls_roles else None,
    )


def _certificates(settings: Settings) -> Certificates | None:
    """What TCP is encrypted with, if it is."""
    if settings.tls_cert and settings.tls_key:
        return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
        raise InvalidSetting("for TLS both --tls-cert and --tls-key are needed")
    return None


def _redis(settings: Settings) -> RedisTarget | None:
    """The Redis the settings name, if they name one."""
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
        raise InvalidSetting("a password and certificates are for a Redis of yours: give --redis-url too")
    if settings.min_replicas_acked:
        raise InvalidSetting("the embedded store has no replicas: --min-replicas-acked needs a --redis-url")
    return None
