"""Every error a caller can get, with its code, its reason and its fixed text; the refusals of the store are one table.

The reasons are those of ErrorReason in the protos. No text here ever holds anything a user sent, an address, or the
text of an exception.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from session_notes.v1.error_reason_pb2 import ErrorReason

from session_notes_server.store import Refused, scripts

log = logging.getLogger(__name__)

DOMAIN = "session-notes"
# Details beyond 16 KB turn any status into RESOURCE_EXHAUSTED on the way.
MAX_VIOLATIONS = 20
RETRY_DELAY = timedelta(milliseconds=500)


class StatusError(Exception):
    """Ends a call with a status.

    Attributes:
        code: The status code.
        reason: Why, a name of ErrorReason without its prefix.
        message: The status message, fixed for each kind of error.
        details: Messages of google.rpc, ErrorInfo first.
    """

    def __init__(
        self, code: StatusCode, reason: str, message: str, metadata: Mapping[str, str] | None = None, *details: Message
    ) -> None:
        super().__init__(message)
        ErrorReason.Value(f"ERROR_REASON_{reason}")  # A reason the contract does not list is a bug.
        self.code = code
        self.reason = reason
        self.message = message
        self.details = (error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata), *details)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The details, as gRPC's richer error model sends them."""
        packed = []
        for detail in self.details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


def invalid_fields(violations: Sequence[tuple[str, str]]) -> StatusError:
    """Fields (path, what is wrong) that break the contract; the first of them are named."""
    bad_request = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in violations[:MAX_VIOLATIONS]
        ]
    )
    field, description = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return StatusError(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", f"{field} {description}{more}", None, bad_request)


def malformed_message() -> StatusError:
    """The request's bytes do not parse, or do not come."""
    return StatusError(
        StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "the request is not a message of this method's request type"
    )


def too_large(field: str, *, limit: int, actual: int, unit: str = "bytes") -> StatusError:
    """A field is larger than the sidecar takes; with no field, the request as a whole."""
    return StatusError(
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_LARGE",
        f"{field or 'the request'} is larger than {limit} {unit}",
        {"field": field, "limit": str(limit), "actual": str(actual)},
    )


def overloaded() -> StatusError:
    """More is under way than the sidecar takes; nothing was done about this call."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(RETRY_DELAY)
    return StatusError(
        StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "the sidecar has too much to do; try again", None, retry
    )


def refused(refusal: Refused) -> StatusError:
    """Return the status of a refusal by the store's rules: INTERNAL and a line in the log, where the table has none."""
    status = _REFUSALS.get(refusal.name)
    if status is None:
        error_id = secrets.token_hex(4)
        log.error("error %s: no status is known for the store's refusal %s", error_id, refusal.name)
        return internal(error_id)
    code, reason, message = status
    return StatusError(code, reason, message, refusal.details)


# Refusal, as the scripts say it → status code, reason, message.
_REFUSALS = {
    "VERSION_MISMATCH": (
        StatusCode.ABORTED,
        "VERSION_MISMATCH",
        "the session is at another version than expected",
    ),
    "TURN_COUNT_MISMATCH": (
        StatusCode.ABORTED,
        "TURN_COUNT_MISMATCH",
        "the transcript has another length than expected",
    ),
    "RUN_WROTE_OTHER_NOTES": (StatusCode.ALREADY_EXISTS, "RUN_ALREADY_WRITTEN", "this run has written other notes"),
    "RUN_ALREADY_WRITTEN": (StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_WRITTEN", "this run has written notes"),
    "RUN_ALREADY_FAILED": (StatusCode.FAILED_PRECONDITION, "RUN_ALREADY_FAILED", "this run has been ended by FailRun"),
    "RUN_NOT_FOUND": (StatusCode.NOT_FOUND, "RUN_NOT_FOUND", "there is no such run"),
    "SESSION_DELETED": (
        StatusCode.FAILED_PRECONDITION,
        "SESSION_DELETED",
        "the session was deleted while this run was at work",
    ),
    "FIELDS_TOO_LARGE": (
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_LARGE",
        "the session's fields take more together than a session may hold; remove some",
    ),
    "RUNS_TOO_LARGE": (
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_LARGE",
        "the session's runs and notes take more together than a session may hold",
    ),
}
if unlisted := scripts.refusals() ^ _REFUSALS.keys():
    raise AssertionError(f"refusals of the scripts and their statuses differ: {sorted(unlisted)}")


def store_unavailable() -> StatusError:
    """The store cannot be reached, refuses, or is too slow."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(RETRY_DELAY)
    return StatusError(StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is unavailable; try again", None, retry)


def shutting_down() -> StatusError:
    """The sidecar stops before the call could finish."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(RETRY_DELAY)
    return StatusError(StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the sidecar is stopping; try again", None, retry)


def unauthenticated() -> StatusError:
    """Nobody we know."""
    return StatusError(
        StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "the call has no credentials, or none that are known here"
    )


def permission_denied(method: str) -> StatusError:
    """Somebody we know, whose role is another."""
    return StatusError(
        StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
        "this method is not for the caller's role",
        {"method": method},
    )


def internal(error_id: str) -> StatusError:
    """A bug; the log has more under the same id."""
    return StatusError(
        StatusCode.INTERNAL, "INTERNAL", f"internal error {error_id}; the log says more", {"error_id": error_id}
    )
