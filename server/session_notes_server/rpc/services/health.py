"""Health checks: `grpc.health.v1` reflects the store, which is probed continuously.

The probe requires of the store what calls require, so that a store that responds but refuses every write is not ready.
Each change is one log line. A new reason is a change: once the password is corrected, the certificate may be the next
fault. While nothing changes, the log repeats the reason less and less often.

There are two service names. `ready`, like the empty name, means that calls can be served, store included. Otherwise,
traffic should go elsewhere. `live` means that the process is running. Otherwise, it should be restarted. An outage of
the store is no reason to restart the sidecar, which recovers by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from session_notes_server.rpc import errors
from session_notes_server.rpc.admission import Admission
from session_notes_server.settings import ENGINE_METADATA, HEALTH_LIVE, HEALTH_READY, EngineName
from session_notes_server.store import Executor, LogThrottle, StoreUnavailable, describe_error
from session_notes_server.telemetry.calls import MethodTelemetry, Telemetry

log = logging.getLogger(__name__)

# While the store is down, only its connections try to reach it, so probes cost nothing.
INTERVAL_SECONDS, DOWN_INTERVAL_SECONDS = 0.5, 0.1
# GetNotes drops a connection that is silent for 80 ms, and has a new one milliseconds later. This is not an outage.
OUTAGE_SECONDS = 0.5

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The sidecar's health, which is that of its store.

    Args:
        executors: The store's executors. The store is up if all of them reach it.
        services: The service names with the store's health, besides `ready` and the empty name.
        telemetry: The process's telemetry.
    """

    def __init__(self, executors: Sequence[Executor], services: Sequence[str], telemetry: Telemetry) -> None:
        self.servicer = HealthServicer(telemetry)
        self._telemetry = telemetry
        self._executors = executors
        self._services = ("", HEALTH_READY, *services)
        self._up: bool | None = None
        self._has_answered = False
        self._log_throttle = LogThrottle()
        self._failing_since: float | None = None

    def handlers(self, engine: EngineName, checks: Admission, watches: Admission) -> grpc.GenericRpcHandler:
        """Return the handlers of `grpc.health.v1`, which requires no credentials and therefore has separate bounds.

        Check also names the engine that serves it, in its trailing metadata.
        """

        async def named_check(request: Any, context: Any) -> Any:
            context.set_trailing_metadata(((ENGINE_METADATA, engine.value),))
            return await self.servicer.Check(request, context)

        encode = health_pb2.HealthCheckResponse.SerializeToString
        check = self._handler("Check", named_check, checks)
        watch = self._handler("Watch", self.servicer.Watch, watches)
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": grpc.stream_unary_rpc_method_handler(check, response_serializer=encode),
                "Watch": grpc.stream_stream_rpc_method_handler(watch, response_serializer=encode),
            },
        )

    def _handler(self, method: str, behaviour: Callable[[Any, Any], Awaitable[Any]], admission: Admission) -> Any:
        return _bounded(behaviour, admission, self._telemetry.method(f"{SERVICE_NAME}.{method}", traced=False))

    async def check(self) -> bool:
        """Probe the store once and publish the result. An outage is published once it has lasted half a second."""
        try:
            for executor in self._executors:
                await executor.ping()
        except StoreUnavailable as error:
            now = asyncio.get_running_loop().time()
            self._failing_since = self._failing_since or now
            if not self._up or now - self._failing_since >= OUTAGE_SECONDS:
                await self._publish(up=False, reason=describe_error(error.__cause__, has_answered=self._has_answered))
        else:
            self._failing_since, self._has_answered = None, True
            await self._publish(up=True)
        return bool(self._up)

    async def follow(self) -> None:
        """Probe the store until cancelled. The first probe follows a pause, because `check` has been called once."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS if self._failing_since is None else DOWN_INTERVAL_SECONDS)
            await self.check()

    async def _publish(self, *, up: bool, reason: str = "") -> None:
        first, changed, self._up = self._up is None, up != self._up, up
        if up and changed:
            self._log_throttle = LogThrottle()
            log.info("the store at %s answers: SERVING", self._executors[0].store_name)
        elif not up and (repeats := self._log_throttle.due(reason)) is not None:
            if repeats:
                text = "the store at %s still cannot be used: %s (probed %d times since the last such line)"
                log.warning(text, self._executors[0].store_name, reason, repeats)
            else:
                log.warning("the store at %s cannot be used, NOT_SERVING: %s", self._executors[0].store_name, reason)
        if not changed:
            return
        self._telemetry.store_up(up=up)
        if first:
            await self.servicer.set(HEALTH_LIVE, _SERVING)
        for service in self._services:
            await self.servicer.set(service, _SERVING if up else _NOT_SERVING)


class HealthServicer(aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """The servicer of grpcio-health-checking, with a Watch that does not block other callers.

    Every change is reported to telemetry, which answers HTTP probes. The original Watch holds a lock while it writes.
    Until its caller reads, the service's health cannot change, and no other caller learns of a change.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self._telemetry = telemetry
        self._changed = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Send the health of a service now and after every change."""
        last = None
        while True:
            changed = self._changed
            status = self._server_status.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
            last = status
            await changed.wait()

    async def _set(self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        self._server_status[service] = status
        self._telemetry.health(service, serving=status == _SERVING)
        self._changed.set()
        self._changed = asyncio.Event()


def _bounded(behaviour: Callable[[Any, Any], Awaitable[Any]], admission: Admission, telemetry: MethodTelemetry) -> Any:
    async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        with telemetry.around(context):
            try:
                # Read as a large request, because it may be one, and its caller is not authenticated.
                data = await admission.admit(context).read_request(large=True)
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
