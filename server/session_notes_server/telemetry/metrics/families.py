"""Which metrics there are, and every series of each: all labels have a few values that are known in advance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from session_notes.v1.error_reason_pb2 import ErrorReason
from session_notes.v1.session_notes_pb2 import Readiness, WriteOutcome

from session_notes_server.contract import SERVICES
from session_notes_server.store import OPERATIONS


@dataclass(frozen=True, slots=True)
class Family:
    """A metric, as Prometheus has it."""

    name: str
    """A counter's is without its `_total`."""

    kind: Literal["counter", "gauge", "histogram"]

    text: str
    """What it means, in its unit."""

    labels: tuple[str, ...] = ()

    series: tuple[tuple[str, ...], ...] = ((),)
    """The values that the labels have, series by series."""

    bounds: tuple[float, ...] = ()
    """A histogram's buckets: the largest value in each, but for the last one, which has no bound."""

    together: Callable[[Iterable[float]], float] = sum
    """How the numbers of several workers make one."""

    @property
    def width(self) -> int:
        """Numbers in a series: one; a histogram's buckets, the last one, and its sum."""
        return len(self.bounds) + 2 if self.bounds else 1


# As Go's libraries write them, and so the dashboards that there are for gRPC.
CODES = {code: "".join(word.title() for word in code.name.split("_")) for code in grpc.StatusCode}
CODES |= {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}

UNARY, SERVER_STREAM, BIDI_STREAM = "unary", "server_stream", "bidi_stream"
UNKNOWN = (UNARY, "unknown", "unknown")
"""Whatever method a caller thinks of that is none of ours."""

METHODS = (
    *((UNARY, service.full_name, method.name) for service in SERVICES for method in service.methods),
    *(
        (SERVER_STREAM if method.server_streaming else UNARY, service.full_name, method.name)
        for service in health_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.name in {"Check", "Watch"}
    ),
    *(
        (BIDI_STREAM, service.full_name, method.name)
        for service in reflection_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ),
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
    "Calls that ended, by how. Canceled: the caller left, or its deadline passed.",
    (*_METHOD, "grpc_code"),
    tuple((*method, code) for method in (*METHODS, UNKNOWN) for code in CODES.values()),
)
HANDLING = Family(
    "grpc_server_handling_seconds",
    "histogram",
    "How long calls took, from the first look at them until their answer is given to gRPC.",
    _METHOD,
    METHODS,
    _SECONDS,
)
IN_FLIGHT = Family(
    "session_notes_calls_in_flight",
    "gauge",
    "Calls under way, health's Watches and reflection's streams among them.",
    ("grpc_type",),
    tuple((kind,) for kind in (UNARY, SERVER_STREAM, BIDI_STREAM)),
)
REFUSED = Family(
    "session_notes_calls_refused",
    "counter",
    "Calls to the two services that were answered with an error of the contract, by its reason (ErrorReason). "
    "OVERLOADED: there was more to do than the sidecar takes.",
    ("reason",),
    tuple((reason,) for reason in REASONS),
)
STORE_SECONDS = Family(
    "session_notes_store_operation_seconds",
    "histogram",
    "How long the store took to answer, by operation; refusals count as answers.",
    ("operation",),
    tuple((operation,) for operation in OPERATIONS),
    _SECONDS,
)
STORE_FAILURES = Family(
    "session_notes_store_failures",
    "counter",
    "Operations that the store did not answer: it is away, too slow, or refuses to work.",
    ("operation",),
    tuple((operation,) for operation in OPERATIONS),
)
STORE_UP = Family(
    "session_notes_store_up",
    "gauge",
    "1 while the store answers, as in health's `ready`; with several workers, while all of them reach it.",
    together=min,
)
READS = Family(
    "session_notes_reads",
    "counter",
    "Readings of notes that were answered, by GetNotes and each entry of BatchGetNotes. fresh: within the bounds that "
    "the reader set; without a bound, all that is ready.",
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
    "How old notes were when they were read, from their writing on, by the store's clock.",
    bounds=_AGES,
)
READ_DRIFT = Family(
    "session_notes_read_turns_behind",
    "histogram",
    "How many turns the conversation had gone on when notes were read, where that is known.",
    bounds=_TURNS,
)
WRITES = Family(
    "session_notes_writes",
    "counter",
    "WriteNotes that were answered. superseded: too late, newer notes stay; duplicate: a retry.",
    ("outcome",),
    tuple((outcome,) for outcome in OUTCOMES.values()),
)
RUNS_BEGUN = Family(
    "session_notes_runs_begun",
    "counter",
    "Runs that BeginRun began through this sidecar. A retry counts again where another worker or sidecar answers it.",
)
RUNS_ENDED = Family(
    "session_notes_runs_ended",
    "counter",
    "Runs that ended through this sidecar, also those that began elsewhere or without BeginRun. A retry of FailRun "
    "counts again.",
    ("how",),
    (("written",), ("superseded",), ("failed",)),
)
RUNS_AT_WORK = Family(
    "session_notes_runs_at_work",
    "gauge",
    "Runs that began through this sidecar, whose lease has not run out and whose end it has not seen. A run that ends "
    "through another worker or sidecar counts until its lease is over.",
)
LOOP_LAG = Family(
    "session_notes_event_loop_lag_seconds",
    "histogram",
    "How much too late the event loop woke up, asked ten times a second: every call waits as long.",
    bounds=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)

ALL = (
    *(STARTED, HANDLED, HANDLING, IN_FLIGHT, REFUSED),
    *(STORE_SECONDS, STORE_FAILURES, STORE_UP),
    *(READS, READ_AGE, READ_DRIFT, WRITES, RUNS_BEGUN, RUNS_ENDED, RUNS_AT_WORK),
    LOOP_LAG,
)
