"""The sidecar as a whole: what it is made of, how it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from session_notes.v1 import session_notes_pb2, session_state_pb2

from session_notes_server.addresses import bound, check_addresses, hold
from session_notes_server.credentials import Certificates, Identities, Tokens
from session_notes_server.embedded import EmbeddedValkey
from session_notes_server.grpc_options import options
from session_notes_server.health import SERVICE_NAME as HEALTH
from session_notes_server.health import Health
from session_notes_server.notify import READY, STOPPING, keep_alive, notify
from session_notes_server.servicers.access import Access, GuardedReflection
from session_notes_server.servicers.boundary import Boundary
from session_notes_server.servicers.gate import Gates
from session_notes_server.servicers.notes import NotesServicer
from session_notes_server.servicers.state import StateServicer
from session_notes_server.settings import InvalidSetting, Settings
from session_notes_server.store import RedisSecrets, RedisTarget, Runner, Store
from session_notes_server.tracing import start_traces

log = logging.getLogger(__name__)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in ((session_notes_pb2, "SessionNotes"), (session_state_pb2, "SessionState"))
)


STREAMS_GRACE_SECONDS = 0.25
# What there is for them where calls have taken the whole grace.
LAST_SPANS_SECONDS = 0.25


def log_addresses(addresses: Sequence[str]) -> None:
    """Say where calls are answered."""
    for address in addresses:
        log.info("listening on %s", address)


async def serve(settings: Settings, tell: Callable[[Sequence[str]], None] = log_addresses) -> None:
    """Run the sidecar, one process, until SIGTERM or SIGINT.

    Args:
        settings: All there is to know.
        tell: Is told where, as soon as calls are answered there.

    Raises:
        InvalidSetting: a setting is wrong, or two do not go together.
        AddressError: an address is taken, or none of this machine.
        CredentialsError: a file with tokens, certificates or the password of Redis cannot be used.
        EmbeddedError: the embedded store cannot be had.
    """
    check_addresses(settings)
    parts = Parts.of(settings)
    with contextlib.ExitStack() as held:
        # Let go again at once, for gRPC to take. What is taken is to be said before a store is started for nothing.
        for address in settings.listen:
            held.enter_context(hold(address, shared=False))
    stop = stopping()
    forbid_core_files()
    async with (
        background(keep_alive(lambda: True)),
        running(parts.embedded) as on_deletion,
        answering(settings, parts, on_deletion) as addresses,
    ):
        tell(addresses)
        notify(READY)
        await stop.wait()
        tell_stopping(settings)
    log.info("stopped")


def run(sidecar: Coroutine[None, None, None]) -> None:
    """Run one of the sidecar's processes to its end, on uvloop where it is there."""
    try:
        import uvloop
    except ModuleNotFoundError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(sidecar)


def stopping() -> asyncio.Event:
    """What SIGTERM and SIGINT set from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def tell_stopping(settings: Settings) -> None:
    """Say that the end has begun."""
    notify(STOPPING)
    log.info("stopping: no new calls, at most %.0f s for those in flight", settings.grace.total_seconds())


def forbid_core_files() -> None:
    """None of ours, nor of the embedded store, whose would be in its data directory: they hold what users said."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


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
            InvalidSetting: two settings do not go together, or a URL is wrong.
            CredentialsError: a file cannot be used.
        """
        access, certificates, redis = _access(settings), _certificates(settings), _redis(settings)
        if redis is not None:
            return cls(access, certificates, None, redis)
        embedded = EmbeddedValkey(settings.data_dir)
        return cls(access, certificates, embedded, RedisTarget.parse(embedded.url))


@contextlib.asynccontextmanager
async def answering(settings: Settings, parts: Parts, on_deletion: Callable[[], None]) -> AsyncIterator[list[str]]:
    """Calls answered within the block → where. At its end, those in flight are finished and no new ones taken.

    Args:
        settings: Those of this process.
        parts: What they name, its store running.
        on_deletion: Told of every deletion.
    """
    traces, loop = start_traces(), asyncio.get_running_loop()
    runner = Runner if traces is None else traces.runner
    async with _store(settings, parts.redis, on_deletion, runner) as (store, runners), _following(*runners) as health:
        gates = Gates.of(settings.limits)
        boundary = Boundary(parts.access, gates.calls, traces)
        server = grpc.aio.server(options=options(settings))
        servicers = NotesServicer(store, settings.limits), StateServicer(store, settings.limits)
        server.add_generic_rpc_handlers(
            [boundary.handlers(service, servicer) for service, servicer in zip(SERVICES, servicers, strict=True)]
        )
        server.add_generic_rpc_handlers([health.handlers(gates.checks, gates.watches)])
        names = [*(service.full_name for service in SERVICES), HEALTH, reflection.SERVICE_NAME]
        reflected = GuardedReflection(parts.access, gates.reflections, names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, server)

        async with contextlib.AsyncExitStack() as sockets:
            for gate in gates:
                await sockets.enter_async_context(background(gate.sweep()))
            addresses = [
                sockets.enter_context(bound(server, address, parts.certificates, held=settings.workers > 1))
                for address in settings.listen
            ]
            await server.start()
            yield addresses
            give_up = loop.time() + settings.grace.total_seconds()
            await health.servicer.enter_graceful_shutdown()
            await boundary.drain(settings.grace.total_seconds())
            # What is left are streams, of health and reflection, that would never end by themselves, and last answers
            # on their way out.
            await server.stop(STREAMS_GRACE_SECONDS)
    if traces is not None:
        await traces.flush(max(give_up - loop.time(), LAST_SPANS_SECONDS))


def _access(settings: Settings) -> Access:
    """Who may call: everybody, where the settings name neither tokens nor an authority."""
    if settings.tls_roles and not settings.tls_client_ca:
        raise InvalidSetting("--tls-roles is about clients' certificates: give --tls-client-ca too")
    if settings.tls_client_ca and not (settings.tls_roles or settings.tokens_dir):
        raise InvalidSetting("with --tls-client-ca alone nobody has a role: give --tls-roles or --tokens-dir too")
    return Access(
        Tokens(settings.tokens_dir) if settings.tokens_dir else None,
        Identities(settings.tls_roles) if settings.tls_roles else None,
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
    )
    if settings.redis_url is not None:
        return RedisTarget.parse(settings.redis_url, secrets)
    if secrets.have_a_password or secrets.are_about_tls:
        raise InvalidSetting("a password and certificates are for a Redis of yours: give --redis-url too")
    if settings.min_replicas_acked:
        raise InvalidSetting("the embedded store has no replicas: --min-replicas-acked needs a --redis-url")
    return None


@contextlib.asynccontextmanager
async def running(embedded: EmbeddedValkey | None) -> AsyncIterator[Callable[[], None]]:
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
        await stack.enter_async_context(background(embedded.keep_running()))
        await stack.enter_async_context(background(embedded.upkeep.keep_going()))
        yield embedded.upkeep.ask


def _leave_files_alone() -> None:
    """Those of a Redis that is not ours are its operator's."""


@contextlib.asynccontextmanager
async def _store(
    settings: Settings, target: RedisTarget, on_deletion: Callable[[], None], make: Callable[..., Runner]
) -> AsyncIterator[tuple[Store, Sequence[Runner]]]:
    """The store as calls see it, and all it runs on: runners, and what makes them."""
    async with contextlib.AsyncExitStack() as stack:
        runner = partial(make, target, prefix=settings.prefix, timeout=settings.store_timeout)
        notes = runner(silence=settings.notes_timeout)
        reads = runner()
        writes = runner(min_replicas=settings.min_replicas_acked)
        for one in (notes, reads, writes):
            stack.push_async_callback(one.aclose)
        store = Store(
            notes=notes, reads=reads, writes=writes, session_ttl=settings.session_ttl, on_deletion=on_deletion
        )
        yield store, (notes, reads, writes)


@contextlib.asynccontextmanager
async def _following(*runners: Runner) -> AsyncIterator[Health]:
    """Health that follows the store, asked once before anybody can call."""
    health = Health(runners, [service.full_name for service in SERVICES])
    await health.check()
    async with background(health.follow()):
        yield health


@contextlib.asynccontextmanager
async def background(*works: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """What goes on beside the calls, and ends with them."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
