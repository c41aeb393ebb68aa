"""The sidecar as a whole: what it is made of, how it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from session_notes.v1 import session_notes_pb2, session_state_pb2

from session_notes_server.rpc.admission import Gates
from session_notes_server.rpc.authorization import GuardedReflection
from session_notes_server.rpc.boundary import Boundary
from session_notes_server.rpc.grpc_options import connections_per_address, options
from session_notes_server.rpc.listening import bound, check_addresses, hold
from session_notes_server.rpc.services.counted_notes import CountedNotesServicer
from session_notes_server.rpc.services.health import SERVICE_NAME as HEALTH
from session_notes_server.rpc.services.health import Health
from session_notes_server.rpc.services.notes import NotesServicer
from session_notes_server.rpc.services.state import StateServicer
from session_notes_server.settings import Settings
from session_notes_server.sidecar.lifecycle import Stop, background, forbid_core_files, log_addresses, tell_stopping
from session_notes_server.sidecar.resources import Parts, running
from session_notes_server.sidecar.systemd import READY, keep_alive, notify
from session_notes_server.store import Executor, RedisTarget, Store
from session_notes_server.telemetry.metrics import cells
from session_notes_server.telemetry.metrics.counting import Metrics
from session_notes_server.telemetry.tracing import start_traces

log = logging.getLogger(__name__)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in ((session_notes_pb2, "SessionNotes"), (session_state_pb2, "SessionState"))
)


STREAMS_GRACE_SECONDS = 0.25
# What there is for them where calls have taken the whole grace.
LAST_SPANS_SECONDS = 0.25


async def serve(settings: Settings, tell: Callable[[Sequence[str]], None] = log_addresses) -> None:
    """Run the sidecar, one process, until SIGTERM, SIGINT or SIGHUP.

    Args:
        settings: All there is to know.
        tell: Is told where, as soon as calls are answered there.

    Raises:
        InvalidSetting: a setting is wrong, or two do not go together.
        AddressError: an address is taken, or none of this machine.
        CredentialsError: a file with tokens, certificates or the password of Redis cannot be used.
        EmbeddedError: the embedded store cannot be had.
    """
    stop = Stop()
    check_addresses(settings)
    connections_per_address(settings)
    parts = Parts.of(settings)
    with contextlib.ExitStack() as held:
        # Let go again at once, for gRPC to take. What is taken is to be said before a store is started for nothing.
        for address in settings.listen:
            held.enter_context(hold(address, shared=False))
    forbid_core_files()
    async with (
        background(keep_alive(lambda: True)),
        counting_alone(settings) as metrics,
        running(parts.embedded, stop) as on_deletion,
        answering(settings, parts, stop, on_deletion, metrics) as addresses,
    ):
        tell(addresses)
        notify(READY)
        await stop.wait()
        tell_stopping(settings)
    log.info("stopped")


@contextlib.asynccontextmanager
async def counting_alone(settings: Settings) -> AsyncIterator[Metrics | None]:
    """What this process counts and tells of itself, if that is wanted.

    Raises:
        AddressError: metrics cannot be had at the address for them.
        InvalidSetting: it is none.
    """
    if settings.metrics_listen is None:
        yield None
        return
    # Takes some time to import, and most sidecars of a test or a laptop do without.
    from session_notes_server.telemetry.metrics.exposition import exposed

    ours = cells.private()
    async with exposed(settings.metrics_listen, [ours]):
        yield Metrics(ours)


@contextlib.asynccontextmanager
async def answering(
    settings: Settings, parts: Parts, stop: Stop, on_deletion: Callable[[], None], metrics: Metrics | None = None
) -> AsyncIterator[list[str]]:
    """Calls answered within the block → where. At its end, those in flight are finished and no new ones taken.

    Args:
        settings: Those of this process.
        parts: What they name, its store running.
        stop: Whose haste ends the wait for calls in flight.
        on_deletion: Told of every deletion.
        metrics: Where to count, if that is wanted.
    """
    traces, loop = start_traces(), asyncio.get_running_loop()
    make = Executor if traces is None else traces.executor
    async with (
        _store(settings, parts.redis, on_deletion, make) as (store, executors),
        _following(executors, metrics) as health,
    ):
        gates = Gates.of(settings.limits)
        boundary = Boundary(parts.access, gates.calls, metrics, traces)
        server = grpc.aio.server(options=options(settings))
        notes = NotesServicer(store, settings.limits)
        if metrics is not None:
            metrics.measure(store)
            notes = CountedNotesServicer(store, settings.limits, metrics)
        servicers = notes, StateServicer(store, settings.limits)
        server.add_generic_rpc_handlers(
            [boundary.handlers(service, servicer) for service, servicer in zip(SERVICES, servicers, strict=True)]
        )
        server.add_generic_rpc_handlers([health.handlers(gates.checks, gates.watches)])
        names = [*(service.full_name for service in SERVICES), HEALTH, reflection.SERVICE_NAME]
        if settings.channelz:
            from session_notes_server.rpc.services import channelz

            service = channelz.service()
            server.add_generic_rpc_handlers([boundary.handlers(service, channelz.ChannelzServicer())])
            names.append(service.full_name)
        reflected = GuardedReflection(parts.access, gates.reflections, names, metrics)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, server)
        if metrics is not None:
            server.add_generic_rpc_handlers([metrics.unknown_methods()])

        async with contextlib.AsyncExitStack() as sockets:
            for gate in gates:
                await sockets.enter_async_context(background(gate.sweep()))
            if metrics is not None:
                await sockets.enter_async_context(background(metrics.watch_loop()))
            addresses = [
                sockets.enter_context(bound(server, address, parts.certificates, held=settings.workers > 1))
                for address in settings.listen
            ]
            await server.start()
            yield addresses
            give_up = loop.time() + settings.grace.total_seconds()
            await health.servicer.enter_graceful_shutdown()
            await stop.unless_hasty(boundary.drain(settings.grace.total_seconds()))
            if stop.haste.is_set():
                await boundary.drain(0)
            # What is left are streams, of health and reflection, that would never end by themselves, and last answers
            # on their way out.
            await server.stop(STREAMS_GRACE_SECONDS)
    if traces is not None:
        await traces.flush(max(give_up - loop.time(), LAST_SPANS_SECONDS))


@contextlib.asynccontextmanager
async def _store(
    settings: Settings, target: RedisTarget, on_deletion: Callable[[], None], make: Callable[..., Executor]
) -> AsyncIterator[tuple[Store, Sequence[Executor]]]:
    """The store as calls see it, and all it runs on: executors, and what makes them."""
    async with contextlib.AsyncExitStack() as stack:
        executor = partial(make, target, prefix=settings.prefix, timeout=settings.store_timeout)
        notes = executor(silence_timeout=settings.notes_timeout)
        reads = executor()
        writes = executor(min_replicas=settings.min_replicas_acked)
        for one in (notes, reads, writes):
            stack.push_async_callback(one.aclose)
        store = Store(
            notes=notes, reads=reads, writes=writes, session_ttl=settings.session_ttl, on_deletion=on_deletion
        )
        yield store, (notes, reads, writes)


@contextlib.asynccontextmanager
async def _following(executors: Sequence[Executor], metrics: Metrics | None) -> AsyncIterator[Health]:
    """Health that follows the store, asked once before anybody can call."""
    health = Health(executors, [service.full_name for service in SERVICES], metrics)
    await health.check()
    async with background(health.follow()):
        yield health
