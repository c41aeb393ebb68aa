"""Health follows Redis: asked again and again, told to `grpc.health.v1`, and one line in the log for every change.

It is asked what calls ask of it, so that a store which answers and refuses every write is not ready. Why it cannot be
used is a change too: after a password that is mended, a certificate may be next. While nothing changes, the log repeats
the reason ever more rarely.

Two names of our own tell apart what a supervisor does about it. `ready`, which is the same as no name at all: whether
calls can be served, the store included; if not, send them elsewhere. `live`: whether this process is at work; if not,
start another. A store that is down is no reason to restart the sidecar, which heals by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from session_notes_server.rpc import errors
from session_notes_server.rpc.admission import Gate
from session_notes_server.rpc.services.health_watch import HealthServicer
from session_notes_server.store import Executor, LogThrottle, StoreUnavailable, describe_error
from session_notes_server.telemetry.call_log import Account
from session_notes_server.telemetry.metrics.counting import Metrics

log = logging.getLogger(__name__)

LIVE, READY = "live", "ready"

# A store that is away is tried by the store's links alone; to ask whether they are there costs nothing.
INTERVAL_SECONDS, DOWN_INTERVAL_SECONDS = 0.5, 0.1
# GetNotes gives a link up after a silence of 80 ms, and has another some milliseconds later. That is no outage yet.
DOUBT_SECONDS = 0.5

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health of the store, as the sidecar's own.

    Args:
        executors: What is asked: the store is up when all of them reach it.
        services: The names that it is told for, beside `ready` and none.
        metrics: Where it is told, too, and its calls are counted, if that is wanted.
    """

    def __init__(self, executors: Sequence[Executor], services: Sequence[str], metrics: Metrics | None = None) -> None:
        self.servicer = HealthServicer()
        self._metrics = metrics
        self._executors = executors
        self._services = ("", READY, *services)
        self._up: bool | None = None
        self._has_answered = False
        self._repeats = LogThrottle()
        self._failing_since: float | None = None

    def handlers(self, checks: Gate, watches: Gate) -> grpc.GenericRpcHandler:
        """`grpc.health.v1` for gRPC to serve. It asks nobody who they are, so it has bounds of its own.

        Args:
            checks: How many Checks there may be at once.
            watches: How many Watches.
        """
        encoded = health_pb2.HealthCheckResponse.SerializeToString
        check = _bounded(self.servicer.Check, checks, Account(f"{SERVICE_NAME}.Check", self._metrics))
        watch = _bounded(self.servicer.Watch, watches, Account(f"{SERVICE_NAME}.Watch", self._metrics))
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": grpc.stream_unary_rpc_method_handler(check, response_serializer=encoded),
                "Watch": grpc.stream_stream_rpc_method_handler(watch, response_serializer=encoded),
            },
        )

    async def check(self) -> bool:
        """Ask once, and tell; an outage only when it has lasted."""
        try:
            for executor in self._executors:
                await executor.ping()
        except StoreUnavailable as error:
            now = asyncio.get_running_loop().time()
            self._failing_since = self._failing_since or now
            if not self._up or now - self._failing_since >= DOUBT_SECONDS:
                await self._tell(up=False, why=describe_error(error.__cause__, has_answered=self._has_answered))
        else:
            self._failing_since, self._has_answered = None, True
            await self._tell(up=True)
        return bool(self._up)

    async def follow(self) -> None:
        """Ask for ever, from the first wait after `check` on."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS if self._failing_since is None else DOWN_INTERVAL_SECONDS)
            await self.check()

    async def _tell(self, *, up: bool, why: str = "") -> None:
        first, changed, self._up = self._up is None, up != self._up, up
        if up and changed:
            self._repeats = LogThrottle()
            log.info("the store at %s answers: SERVING", self._executors[0].store_name)
        elif not up and (before := self._repeats.due(why)) is not None:
            if before:
                text = "the store at %s still cannot be used: %s (asked %d times since the last such line)"
                log.warning(text, self._executors[0].store_name, why, before)
            else:
                log.warning("the store at %s cannot be used, NOT_SERVING: %s", self._executors[0].store_name, why)
        if not changed:
            return
        if self._metrics is not None:
            self._metrics.store_up.set(float(up))
        if first:
            await self.servicer.set(LIVE, _SERVING)
        for service in self._services:
            await self.servicer.set(service, _SERVING if up else _NOT_SERVING)


def _bounded(behaviour: Callable[[Any, Any], Awaitable[Any]], gate: Gate, account: Account) -> Any:
    async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        with account.call(context):
            try:
                # As if it were large: it may be, and nobody has said who they are.
                data = await gate.enter(context).request(large=True)
                request = health_pb2.HealthCheckRequest.FromString(data)
            except DecodeError:
                status = errors.malformed_message()
            except errors.StatusError as error:
                status = error.with_traceback(None)  # Its frames may hold a request that was too large.
            else:
                return await behaviour(request, context)
            await context.abort(status.code, status.message, status.trailing_metadata())
            raise AssertionError("abort always raises")

    return handle
