"""The sidecar as a whole: what it is made of, how it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Coroutine

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from session_notes.v1 import session_notes_pb2, session_state_pb2

from session_notes_server.addresses import bound, check_addresses
from session_notes_server.credentials import Certificates, CredentialsError, Identities, Tokens
from session_notes_server.embedded import EmbeddedValkey
from session_notes_server.health import Health
from session_notes_server.servicers.access import Access, GuardedReflection
from session_notes_server.servicers.boundary import Boundary
from session_notes_server.servicers.notes import NotesServicer
from session_notes_server.servicers.state import StateServicer
from session_notes_server.settings import Settings
from session_notes_server.store import RedisTarget, Runner, Store

log = logging.getLogger(__name__)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in ((session_notes_pb2, "SessionNotes"), (session_state_pb2, "SessionState"))
)


STREAMS_GRACE_SECONDS = 0.25


async def serve(settings: Settings) -> None:
    """Run the sidecar until SIGTERM or SIGINT.

    Raises:
        AddressError: an address is taken, wrong, or open to others.
        CredentialsError: tokens or certificates cannot be used.
        EmbeddedError: the embedded store cannot be had.
        InvalidRedisURL: `redis_url` names no Redis.
    """
    check_addresses(settings)
    access, certificates = _access(settings), _certificates(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _runners(settings) as (runner, notes_runner), _following(runner, notes_runner) as health:
        store = Store(runner, notes_runner=notes_runner, session_ttl=settings.session_ttl)
        boundary = Boundary(access)
        server = grpc.aio.server(
            options=[
                # Two sidecars on one port would share its calls at random; a taken port is an error instead.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.limits.message_bytes),
                # Beyond so many calls that no handler has taken up yet, gRPC cancels some at random, without a reason.
                # Its default of 1,000 is what one burst of some hundred sessions can bring.
                ("grpc.server.max_pending_requests", 10_000),
                ("grpc.server.max_pending_requests_hard_limit", 20_000),
                # Clients behind proxies that forget idle connections may ping, at most every ten seconds.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        notes, state = NotesServicer(store, settings.limits), StateServicer(store, settings.limits)
        server.add_generic_rpc_handlers(
            [boundary.handlers(service, servicer) for service, servicer in zip(SERVICES, (notes, state), strict=True)]
        )
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
        health_service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        names = [service.full_name for service in SERVICES]
        reflected = GuardedReflection(access, [*names, health_service, reflection.SERVICE_NAME])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, server)

        with contextlib.ExitStack() as sockets:
            addresses = [sockets.enter_context(bound(server, address, certificates)) for address in settings.listen]
            await server.start()
            for address in addresses:
                log.info("listening on %s", address)
            await stop.wait()
            log.info("stopping: no new calls, at most %.0f s for those in flight", settings.grace.total_seconds())
            await health.servicer.enter_graceful_shutdown()
            await boundary.drain(settings.grace.total_seconds())
            # What is left are streams, of health and reflection, that would never end by themselves, and last answers
            # on their way out.
            await server.stop(STREAMS_GRACE_SECONDS)
    log.info("stopped")


def _access(settings: Settings) -> Access:
    """Who may call: everybody, where the settings name neither tokens nor an authority."""
    if settings.tls_roles and not settings.tls_client_ca:
        raise CredentialsError("--tls-roles is about clients' certificates: give --tls-client-ca too")
    if settings.tls_client_ca and not (settings.tls_roles or settings.tokens_dir):
        raise CredentialsError("with --tls-client-ca alone nobody has a role: give --tls-roles or --tokens-dir too")
    return Access(
        Tokens(settings.tokens_dir) if settings.tokens_dir else None,
        Identities(settings.tls_roles) if settings.tls_roles else None,
    )


def _certificates(settings: Settings) -> Certificates | None:
    """What TCP is encrypted with, if it is."""
    if settings.tls_cert and settings.tls_key:
        return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
        raise CredentialsError("for TLS both --tls-cert and --tls-key are needed")
    return None


@contextlib.asynccontextmanager
async def _runners(settings: Settings) -> AsyncIterator[tuple[Runner, Runner]]:
    """What runs scripts on the Redis the settings name, or on an embedded Valkey where they name none."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.redis_url is None:
            embedded = EmbeddedValkey(settings.data_dir)
            stack.push_async_callback(embedded.stop)
            await embedded.start()
            await stack.enter_async_context(_background(embedded.keep_running()))
            target = RedisTarget.parse(embedded.url)
        else:
            target = RedisTarget.parse(settings.redis_url)
        runner = Runner(target, prefix=settings.prefix, timeout=settings.store_timeout)
        stack.push_async_callback(runner.aclose)
        notes_runner = Runner(
            target, prefix=settings.prefix, timeout=settings.store_timeout, silence=settings.notes_timeout
        )
        stack.push_async_callback(notes_runner.aclose)
        yield runner, notes_runner


@contextlib.asynccontextmanager
async def _following(*runners: Runner) -> AsyncIterator[Health]:
    """Health that follows the store, asked once before anybody can call."""
    health = Health(runners, [service.full_name for service in SERVICES])
    await health.check()
    async with _background(health.follow()):
        yield health


@contextlib.asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Something that goes on beside the calls and ends with them."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
