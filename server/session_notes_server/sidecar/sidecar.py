"""The sidecar as one process: its composition, start and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial

from session_notes_server.contract import REFLECTION_SERVICES, SERVICES
from session_notes_server.rpc.admission import Admissions
from session_notes_server.rpc.boundary import Boundary
from session_notes_server.rpc.connections import connections_per_address
from session_notes_server.rpc.engines import Engine, open_engine, resolve
from session_notes_server.rpc.listening import check_addresses, hold
from session_notes_server.rpc.services import SERVICERS
from session_notes_server.rpc.services.health import SERVICE_NAME as HEALTH
from session_notes_server.rpc.services.health import Health
from session_notes_server.rpc.services.reflection import ReflectionServicer
from session_notes_server.settings import Settings
from session_notes_server.sidecar.lifecycle import (
    Shutdown,
    announce_shutdown,
    background,
    disable_core_files,
    log_addresses,
    log_engine,
)
from session_notes_server.sidecar.resources import Resources, run_embedded_store
from session_notes_server.sidecar.systemd import READY, notify, ping_watchdog
from session_notes_server.store import Executor, RedisTarget, Store
from session_notes_server.telemetry.calls import Telemetry
from session_notes_server.telemetry.metrics import cells
from session_notes_server.telemetry.metrics.counting import Metrics
from session_notes_server.telemetry.tracing import start_traces

log = logging.getLogger(__name__)

STREAMS_GRACE_SECONDS = 0.25
"""Time for streams and last responses to end, once no call is in flight."""

LAST_SPANS_SECONDS = 0.25
"""Minimum time to export the last spans, even if calls have used up the grace period."""


async def serve(settings: Settings, on_ready: Callable[[Sequence[str]], None] = log_addresses) -> None:
    """Run the sidecar in one process until SIGTERM, SIGINT or SIGHUP.

    Args:
        settings: The sidecar's settings.
        on_ready: Called with the bound addresses once calls are served.

    Raises:
        StartupError: If the sidecar cannot start.
    """
    shutdown = Shutdown()
    check_addresses(settings)
    connections_per_address(settings)
    engine = resolve(settings.engine)
    resources = Resources.open(settings)
    _check_free(settings.listen)
    disable_core_files()
    async with background(ping_watchdog(lambda: True)), _collect_metrics(settings) as metrics:
        log_engine(settings.engine, engine)
        settings = replace(settings, engine=engine)
        async with (
            run_embedded_store(resources.embedded, shutdown) as on_deletion,
            serve_calls(settings, resources, shutdown, on_deletion, metrics) as addresses,
        ):
            on_ready(addresses)
            notify(READY)
            await shutdown.wait()
            announce_shutdown(settings)
    log.info("stopped")


def _check_free(addresses: Sequence[str]) -> None:
    """Check that the addresses can be bound, before the store is started. The engine binds them later."""
    with contextlib.ExitStack() as held:
        for address in addresses:
            held.enter_context(hold(address, shared=False))


@contextlib.asynccontextmanager
async def _collect_metrics(settings: Settings) -> AsyncIterator[Metrics | None]:
    """Collect and expose metrics during the block, if the settings enable them."""
    if settings.metrics_listen is None:
        yield None
        return
    # Imported only if needed, because it is slow to import.
    from session_notes_server.telemetry.metrics.exposition import exposed

    counts = cells.private()
    async with exposed(settings.metrics_listen, [counts], lambda: [counts]):
        yield Metrics(counts)


@contextlib.asynccontextmanager
async def serve_calls(
    settings: Settings,
    resources: Resources,
    shutdown: Shutdown,
    on_deletion: Callable[[], None],
    metrics: Metrics | None,
) -> AsyncIterator[list[str]]:
    """Serve calls during the block. At its end, reject new calls and wait for those in flight.

    Args:
        settings: The settings of this process. The engine is not `auto`.
        resources: The resources that the settings name, with the store running.
        shutdown: A shutdown ends the first check of the store, and an urgent one the wait for calls in flight.
        on_deletion: Called after each deletion.
        metrics: Where calls are counted. None: calls are not counted.

    Yields:
        The bound addresses.
    """
    traces, loop = start_traces(), asyncio.get_running_loop()
    telemetry = Telemetry(metrics, traces)
    async with (
        _open_store(settings, resources.redis, on_deletion, telemetry) as (store, executors),
        _follow_health(executors, telemetry, shutdown) as health,
        contextlib.AsyncExitStack() as stack,
    ):
        engine = open_engine(settings, resources.certificates)
        admissions = Admissions.of(settings.limits, engine)
        boundary = Boundary(resources.authorization, admissions.calls, telemetry)
        _add_services(engine, settings, resources, store, health, admissions, boundary, telemetry)
        await stack.enter_async_context(background(*(admission.transfers.sweep() for admission in admissions)))
        if metrics is not None:
            metrics.serves(engine.name)
        addresses = [stack.enter_context(engine.listening(address)) for address in settings.listen]
        await engine.start()
        if metrics is not None:
            # Started last: until the loop is watched, the sidecar is not live.
            await stack.enter_async_context(background(metrics.watch_loop()))
        yield addresses
        grace_seconds = settings.grace.total_seconds()
        deadline = loop.time() + grace_seconds
        await health.servicer.enter_graceful_shutdown()
        await shutdown.unless_urgent(boundary.drain(grace_seconds))
        if shutdown.urgent.is_set():
            await boundary.drain(0)
        # Responses may still be in transit, and health and reflection streams never end by themselves.
        await engine.stop(STREAMS_GRACE_SECONDS)
    if traces is not None:
        await traces.flush(max(deadline - loop.time(), LAST_SPANS_SECONDS))


def _add_services(
    engine: Engine,
    settings: Settings,
    resources: Resources,
    store: Store,
    health: Health,
    admissions: Admissions,
    boundary: Boundary,
    telemetry: Telemetry,
) -> None:
    """Register the handlers of all services with the engine."""
    engine.add_generic_rpc_handlers(
        [boundary.handlers(service, SERVICERS[service.full_name](store, settings.limits)) for service in SERVICES]
    )
    engine.add_generic_rpc_handlers([health.handlers(engine.name, admissions.health_checks, admissions.health_watches)])
    names = [*(service.full_name for service in SERVICES), HEALTH, *REFLECTION_SERVICES]
    if settings.channelz:
        from grpc_channelz.v1 import channelz_pb2

        service = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]
        engine.add_generic_rpc_handlers([boundary.handlers(service, engine.channelz_servicer())])
        names.append(service.full_name)
    for service_name in REFLECTION_SERVICES:
        servicer = ReflectionServicer(
            service_name, resources.authorization, admissions.reflection_streams, names, telemetry
        )
        engine.add_generic_rpc_handlers([servicer.handler()])
    engine.add_generic_rpc_handlers([boundary.unknown_methods()])


@contextlib.asynccontextmanager
async def _open_store(
    settings: Settings,
    target: RedisTarget,
    on_deletion: Callable[[], None],
    telemetry: Telemetry,
) -> AsyncIterator[tuple[Store, Sequence[Executor]]]:
    """Open the store, and the executors of its scripts, during the block."""
    make_executor = partial(
        Executor,
        target,
        prefix=settings.prefix,
        timeout=settings.store_timeout,
        instrumentation=telemetry.store_scripts,
    )
    notes = make_executor(silence_timeout=settings.notes_timeout)
    reads = make_executor()
    writes = make_executor(min_replicas=settings.min_replicas_acked)
    async with contextlib.AsyncExitStack() as stack:
        for executor in (notes, reads, writes):
            stack.push_async_callback(executor.aclose)
        store = Store(
            notes=notes,
            reads=reads,
            writes=writes,
            session_ttl=settings.session_ttl,
            on_deletion=on_deletion,
            instrumentation=telemetry.store_operations,
        )
        yield store, (notes, reads, writes)


@contextlib.asynccontextmanager
async def _follow_health(
    executors: Sequence[Executor], telemetry: Telemetry, shutdown: Shutdown
) -> AsyncIterator[Health]:
    """Follow the store's health during the block. It is checked once before any call is served."""
    health = Health(executors, [service.full_name for service in SERVICES], telemetry)
    # A store that accepts connections but does not respond must not delay a shutdown.
    await shutdown.unless_requested(health.check())
    async with background(health.follow()):
        yield health
