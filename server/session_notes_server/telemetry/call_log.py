"""The call log: one line per call, at level debug."""

from __future__ import annotations

import logging

import grpc

log = logging.getLogger(__name__)


def log_call(method: str, code: grpc.StatusCode, seconds: float) -> None:
    """Log the end of a call to a method, given by its full name."""
    if log.isEnabledFor(logging.DEBUG):
        milliseconds = round(seconds * 1000, 3)
        log.debug(
            "%s: %s in %.3f ms",
            *(method, code.name, milliseconds),
            extra={"method": method, "code": code.name, "duration_ms": milliseconds},
        )
