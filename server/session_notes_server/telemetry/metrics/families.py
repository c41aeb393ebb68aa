"""The metrics and all their series. Every label has a few values, which are known in advance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2
from session_notes.v1.error_reason_pb2 import ErrorReason
from session_notes.v1.session_notes_pb2 import Readiness, WriteOutcome

from session_notes_server.contract import REFLECTION_SERVICES, SERVICES
from session_notes_server.settings import EngineName
from session_notes_server.store import OPERATIONS


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family, as defined by Prometheus."""

    name: str
    """The name, without the `_total` of a counter."""

    kind: Literal["counter", "gauge", "histogram"]

    text: str
    """The help text, with the unit."""

    labels: tuple[str, ...] = ()

    series: tuple[tuple[str, ...], ...] = ((),)
    """The values of the labels, per series."""

    bounds: tuple[float, ...] = ()
    """The inclusive upper bounds of a histogram's buckets, except for the last, which has none."""

    combine: Callable[[Iterable[float]], float] = sum
    """Combines the numbers of several workers."""

    @property
    def width(self) -> int:
        """The numbers per series: one, or for a histogram its buckets and its sum."""
        return len(self.bounds) + 2 if self.bounds else 1


# Spelled as in Go's libraries, and therefore in existing dashboards for gRPC.
CODES = {code: "".join(word.title() for word in code.name.split("_")) for code in grpc.StatusCode}
CODES |= {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}

UNARY, SERVER_STREAM, BIDI_STREAM = "unary", "server_stream", "bidi_stream"
UNKNOWN = (UNARY, "unknown", "unknown")
"""The labels of all methods that do not exist."""

METHODS = (
    *((UNARY, service.full_name, method.name) for service in SERVICES for method in service.methods),
    *(
        (SERVER_STREAM if method.server_streaming else UNARY, service.full_name, method.name)
        for service in health_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.name in {"Check", "Watch"}
    ),
    *((BIDI_STREAM, service, "ServerReflectionInfo") for service in REFLECTION_SERVICES),
)


READINESS = {number: name.removeprefix("READINESS_").lower() for name, number in Readiness.items() if number}
OUTCOMES = {number: name.removeprefix("WRITE_OUTCOME_").lower() for name, number in WriteOutcome.items() if number}
REASONS = tuple(name.removeprefix("ERROR_REASON_") for name, number in ErrorReason.items() if number)

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_AGES = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0, 86400.0)
_TURNS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 50.0, 100.0)

STARTED = Family("grpc_server_started", "counter", "Calls that began.", _METHOD, (*METHODS, UNKNOWN))
HANDLED = Family(
    "grpc_server_handled",
    "counter",
    "Calls that ended, by status. Canceled: the caller cancelled or disconnected, or its deadline passed. "
    "DeadlineExceeded: the request did not arrive in time.",
    (*_METHOD, "grpc_code"),
    tuple((*method, code) for method in (*METHODS, UNKNOWN) for code in CODES.values()),
)
HANDLING = Family(
    "grpc_server_handling_seconds",
    "histogram",
    "Duration of calls, from their arrival in a handler until their response is handed to the engine.",
    _METHOD,
    METHODS,
    _SECONDS,
)
IN_FLIGHT = Family(
    "session_notes_calls_in_flight",
    "gauge",
    "Calls in flight, including health's Watches and reflection's streams.",
    ("grpc_type",),
    tuple((kind,) for kind in (UNARY, SERVER_STREAM, BIDI_STREAM)),
)
REFUSED = Family(
    "session_notes_calls_refused",
    "counter",
    "Calls to the contract's services that ended with one of its errors, by reason (ErrorReason). OVERLOADED: too many "
    "calls or bytes were in flight.",
    ("reason",),
    tuple((reason,) for reason in REASONS),
)
STORE_SECONDS = Family(
    "session_notes_store_operation_seconds",
    "histogram",
    "Duration of store operations. Refusals count; failures do not.",
    ("operation",),
    tuple((operation,) for operation in OPERATIONS),
    _SECONDS,
)
STORE_FAILURES = Family(
    "session_notes_store_failures",
    "counter",
    "Store operations without a result, because the store is unreachable, too slow or unable to work.",
    ("operation",),
    tuple((operation,) for operation in OPERATIONS),
)
STORE_UP = Family(
    "session_notes_store_up",
    "gauge",
    "1 while the store can be used, as in health's `ready`; with several workers, while all of them can use it.",
    combine=min,
)
READS = Family(
    "session_notes_reads",
    "counter",
    "Readings returned by GetNotes, and by each entry of BatchGetNotes. fresh: within the caller's bounds; without "
    "bounds, all notes are fresh.",
    ("readiness", "fresh"),
    tuple(
        (readiness, fresh)
        for readiness in READINESS.values()
        for fresh in ("false", "true")
        if fresh == "false" or readiness == "ready"
    ),
)
READ_AGE = Family(
    "session_notes_read_age_seconds",
    "histogram",
    "Age of notes when they were read: the time since they were written, by the store's clock.",
    bounds=_AGES,
)
READ_DRIFT = Family(
    "session_notes_read_turns_behind",
    "histogram",
    "Drift of notes when they were read: how many turns they were behind, where known.",
    bounds=_TURNS,
)
WRITES = Family(
    "session_notes_writes",
    "counter",
    "Writes by outcome. superseded: newer notes exist; duplicate: a retry.",
    ("outcome",),
    tuple((outcome,) for outcome in OUTCOMES.values()),
)
RUNS_BEGUN = Family(
    "session_notes_runs_begun",
    "counter",
    "Runs begun through this sidecar. A retry counts again if another worker or sidecar answers it.",
)
RUNS_ENDED = Family(
    "session_notes_runs_ended",
    "counter",
    "Runs ended through this sidecar, including runs begun elsewhere or without BeginRun. A retry of FailRun counts "
    "again.",
    ("how",),
    (("written",), ("superseded",), ("failed",)),
)
RUNS_AT_WORK = Family(
    "session_notes_runs_at_work",
    "gauge",
    "Runs begun through this sidecar that are in flight. A run that is renewed or ends through another worker "
    "or sidecar counts until its first lease expires.",
)
ENGINE = Family(
    "session_notes_engine_info",
    "gauge",
    "1 for the engine that serves calls.",
    ("engine",),
    tuple((name.value,) for name in EngineName if name is not EngineName.AUTO),
    combine=max,
)
LOOP_LAG = Family(
    "session_notes_event_loop_lag_seconds",
    "histogram",
    "How late the event loop runs its timers, measured ten times a second. Every call waits this long.",
    bounds=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)

ALL = (
    *(STARTED, HANDLED, HANDLING, IN_FLIGHT, REFUSED),
    *(STORE_SECONDS, STORE_FAILURES, STORE_UP),
    *(READS, READ_AGE, READ_DRIFT, WRITES, RUNS_BEGUN, RUNS_ENDED, RUNS_AT_WORK),
    *(ENGINE, LOOP_LAG),
)
"""What scrapes return."""

LIVE = Family("live", "gauge", "1 while health's `live` is SERVING.")
READY = Family("ready", "gauge", "1 while the health of the empty service name is SERVING.")
LAST_TICK = Family("last_tick", "gauge", "When the event loop ran last, by the system's monotonic clock, in seconds.")
PROBED = (LIVE, READY, LAST_TICK)
"""What probes evaluate, in the same memory."""
