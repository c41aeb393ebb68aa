"""The sidecar as a whole: what it is made of, how it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from session_notes.v1 import session_notes_pb2, session_state_pb2

from session_notes_server.embedded import MAX_SOCKET_PATH_BYTES, EmbeddedValkey, lock_file
from session_notes_server.health import Health
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


class AddressError(Exception):
    """An address cannot be listened on. Its text says to a user what to do."""


async def serve(settings: Settings) -> None:
    """Run the sidecar until SIGTERM or SIGINT.

    Raises:
        AddressError: an address is taken or wrong.
        EmbeddedError: the embedded store cannot be had.
        InvalidRedisURL: `redis_url` names no Redis.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _runners(settings) as (runner, notes_runner), _following(runner, notes_runner) as health:
        store = Store(runner, notes_runner=notes_runner, session_ttl=settings.session_ttl)
        boundary = Boundary()
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
        reflection.enable_server_reflection([*names, health_service, reflection.SERVICE_NAME], server)

        with contextlib.ExitStack() as sockets:
            bound = [sockets.enter_context(_bound(server, address)) for address in settings.listen]
            await server.start()
            for address in bound:
                log.info("listening on %s", address)
            await stop.wait()
            log.info("stopping: no new calls, at most %.0f s for those in flight", settings.grace.total_seconds())
            await health.servicer.enter_graceful_shutdown()
            await boundary.drain(settings.grace.total_seconds())
            # What is left are streams, of health and reflection, that would never end by themselves, and last answers
            # on their way out.
            await server.stop(STREAMS_GRACE_SECONDS)
    log.info("stopped")


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


@contextlib.contextmanager
def _bound(server: grpc.aio.Server, address: str) -> Iterator[str]:
    """Bind an address → what it is called, with the port the system chose for port 0."""
    with contextlib.ExitStack() as stack:
        if address.startswith("unix:"):
            stack.enter_context(_socket_of_our_own(Path(address.removeprefix("unix:"))))
        else:
            _, colon, port_text = address.rpartition(":")
            # gRPC would take the lack of a port for 443, and a port beyond the last one for another.
            if not colon or not port_text.isdecimal() or int(port_text) > 65535:
                raise AddressError(
                    f"cannot listen on {address}: write host:port, with a port from 0 to 65535, or unix:/path."
                )
        mask = os.umask(0o177)  # A unix socket is its owner's alone.
        try:
            port = server.add_insecure_port(address)
        except RuntimeError:
            raise AddressError(
                f"cannot listen on {address}: it is taken, or no address of this machine. Choose another with --listen."
            ) from None
        finally:
            os.umask(mask)
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


@contextlib.contextmanager
def _socket_of_our_own(path: Path) -> Iterator[None]:
    """See to it that a unix socket has one owner, a mode, and no leftover in its place.

    gRPC would take over the path of a running server and, on leaving, delete that of its successor.
    """
    if not path.is_absolute():
        raise AddressError(f"cannot listen on unix:{path}: the path must be absolute.")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise AddressError(f"cannot listen on unix:{path}: a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes.")
    try:
        lock = lock_file(path.with_name(path.name + ".lock"))
        if lock is None:
            raise AddressError(f"cannot listen on unix:{path}: another sidecar does. Choose another with --listen.")
        with lock:
            if path.is_socket():
                path.unlink()
            elif path.exists():
                raise AddressError(
                    f"cannot listen on unix:{path}: something else is there. Choose another with --listen."
                )
            yield
    except OSError as error:
        raise AddressError(f"cannot listen on unix:{path}: {error.strerror}.") from None
