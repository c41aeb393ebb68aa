"""`grpc.health.v1`, with a Watch that waits for its own caller alone."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio


class HealthServicer(aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """gRPC's own, except for Watch.

    That one keeps a lock while it writes. Until its caller has read, nobody could change the health of the service,
    nor hear of a change.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Tell the health of a service now and whenever it has changed."""
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
        self._changed.set()
        self._changed = asyncio.Event()
