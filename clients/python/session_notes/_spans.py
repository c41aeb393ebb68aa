"""Spans of calls and runs, where the application traces with OpenTelemetry; elsewhere nothing, for next to nothing.

OpenTelemetry's API has a no-op of its own for that, but to import it takes longer than to import this package. So it is
imported once the application has done so: one that traces does before its first call.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enum import Enum

    from session_notes._opentelemetry import CallSpan, SpanContext

_API = "opentelemetry.trace"


class NoSpan:
    """Stands for a call's span where nobody traces."""

    metadata: Sequence[tuple[str, str]] = ()
    """What goes with the call."""

    def __enter__(self) -> "NoSpan":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def answered(self, code: "Enum") -> None:
        """Notes how a try has ended, by gRPC's status."""

    def retried(self) -> None:
        """Notes that there is going to be another try."""


_NO_SPAN = NoSpan()


def of_call(method: str, target: str) -> "CallSpan | NoSpan":
    """The span of one call, with all its tries.

    Args:
        method: The RPC's full path.
        target: The sidecar's address.
    """
    if _API not in sys.modules:
        return _NO_SPAN
    from session_notes._opentelemetry import CallSpan

    return CallSpan(method, target)


def here() -> "SpanContext | None":
    """The span we are in, to link to."""
    if _API not in sys.modules:
        return None
    from session_notes._opentelemetry import here

    return here()


def of_run(submitters: "Iterable[SpanContext]") -> AbstractContextManager[None]:
    """The span of a background run: a trace of its own, as it outlives what submitted it, and linked to that."""
    if _API not in sys.modules:
        return nullcontext()
    from session_notes._opentelemetry import run_span

    return run_span(submitters)


def fail() -> None:
    """Marks the span we are in as failed."""
    if _API in sys.modules:
        from session_notes._opentelemetry import fail

        fail()
