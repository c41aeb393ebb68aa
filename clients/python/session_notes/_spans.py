"""Spans of calls and runs if the application traces with OpenTelemetry, at almost no cost otherwise.

OpenTelemetry's API has no-op spans for this purpose, but importing it takes longer than importing this package. It is
therefore used only if the application has already imported it, as tracing applications do at startup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enum import Enum

    from session_notes._opentelemetry import CallSpan, SpanContext

_API = "opentelemetry.trace"


class NoSpan:
    """The span of a call if the application does not trace."""

    metadata: Sequence[tuple[str, str]] = ()
    """Metadata to send with the call."""

    def __enter__(self) -> NoSpan:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record_status(self, code: Enum) -> None:
        """Record the gRPC status of an attempt."""

    def record_retry(self) -> None:
        """Record that another attempt follows."""


_NO_SPAN = NoSpan()


def call_span(method: str, target: str) -> CallSpan | NoSpan:
    """Return the span of one call with all its attempts.

    Args:
        method: Full path of the RPC.
        target: Address of the sidecar.
    """
    if _API not in sys.modules:
        return _NO_SPAN
    from session_notes._opentelemetry import CallSpan

    return CallSpan(method, target)


def current_span() -> SpanContext | None:
    """Return the current span, to link to."""
    if _API not in sys.modules:
        return None
    from session_notes._opentelemetry import current_span

    return current_span()


def run_span(submitters: Iterable[SpanContext]) -> AbstractContextManager[None]:
    """Return the span of a background run: the root of a trace, linked to the spans that submitted the session.

    It is not their child, because it outlives them.
    """
    if _API not in sys.modules:
        return nullcontext()
    from session_notes._opentelemetry import run_span

    return run_span(submitters)


def mark_failed() -> None:
    """Set the status of the current span to error."""
    if _API in sys.modules:
        from session_notes._opentelemetry import mark_failed

        mark_failed()
