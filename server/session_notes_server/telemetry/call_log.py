"""What is said of a call when it has ended: a line in the log at debug, and numbers where somebody wants them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import grpc

from session_notes_server.telemetry.metrics.counting import Metrics

log = logging.getLogger(__name__)


class Account:
    """The account of one method's calls.

    Args:
        method: Its full name.
        metrics: Where to count, if that is wanted.
    """

    __slots__ = ("_metrics", "_name")

    def __init__(self, method: str, metrics: Metrics | None) -> None:
        self._name = method
        self._metrics = metrics.methods.get(method) if metrics is not None else None

    def begin(self) -> float:
        """A call is there → what `end` wants to know of that."""
        if self._metrics is not None:
            self._metrics.began()
        return perf_counter()

    def end(self, began: float, code: grpc.StatusCode, reason: str | None = None) -> None:
        """It has ended: in what status, and if in an error of the contract's, for what reason."""
        seconds = perf_counter() - began
        if self._metrics is not None:
            self._metrics.ended(seconds, code, reason)
        if log.isEnabledFor(logging.DEBUG):
            milliseconds = round(seconds * 1000, 3)
            log.debug(
                "%s: %s in %.3f ms",
                *(self._name, code.name, milliseconds),
                extra={"method": self._name, "code": code.name, "duration_ms": milliseconds},
            )

    @contextmanager
    def call(self, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """A call that is one of gRPC's own services', for as long as its handler takes."""
        began, code = self.begin(), grpc.StatusCode.OK
        try:
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            code = context.code() or grpc.StatusCode.UNKNOWN  # type: ignore[unreachable]  # It is None until it is set.
            raise
        finally:
            self.end(began, code)
