"""Health follows Redis: asked again and again, told to `grpc.health.v1`, and one line in the log for every change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as grpc_health

from session_notes_server.store import Runner, StoreUnavailable

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
# While Redis is away: quick at first, as it may just be starting, then one attempt a second.
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.05, 1.0

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health of the store, as the sidecar's own.

    Args:
        runners: What is asked: the store is up when all of them reach it.
        services: The names that health is told for.
    """

    def __init__(self, runners: Sequence[Runner], services: Sequence[str]) -> None:
        self.servicer = grpc_health.HealthServicer()
        self._runners = runners
        self._services = ("", *services)
        self._up: bool | None = None

    async def check(self) -> bool:
        """Ask once, and tell."""
        try:
            for runner in self._runners:
                await runner.ping()
        except StoreUnavailable as error:
            await self._tell(up=False, why=type(error.__cause__).__name__)
        else:
            await self._tell(up=True)
        return bool(self._up)

    async def follow(self) -> None:
        """Ask for ever, from the first wait after `check` on."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            await asyncio.sleep(INTERVAL_SECONDS if self._up else backoff)
            backoff = FIRST_BACKOFF_SECONDS if self._up else min(backoff * 2, LAST_BACKOFF_SECONDS)
            await self.check()

    async def _tell(self, *, up: bool, why: str = "") -> None:
        if up == self._up:
            return
        self._up = up
        if up:
            log.info("the store at %s answers: SERVING", self._runners[0].where)
        else:
            log.warning("the store at %s does not answer (%s): NOT_SERVING until it does", self._runners[0].where, why)
        for service in self._services:
            await self.servicer.set(service, _SERVING if up else _NOT_SERVING)
