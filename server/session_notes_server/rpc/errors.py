"""Statuses of rejected calls: every status code, reason and message that a caller can get.

The reasons are those of ErrorReason in the protos. The messages are fixed texts. They never contain caller data, an
address or the text of an exception.
"""

from __future__ import annotations

import logging
import secrets
import traceback
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
# gRPC replaces any status whose details exceed 16 KB with RESOURCE_EXHAUSTED.
MAX_VIOLATIONS = 20
RETRY_DELAY = timedelta(milliseconds=500)


class StatusError(Exception):
    """An error that ends a call with a status.

    Attributes:
        reason: A name of ErrorReason without its prefix.
        details: Messages of google.rpc, with ErrorInfo first.
    """

    def __init__(
        self, code: StatusCode, reason: str, message: str, metadata: Mapping[str, str] | None = None, *details: Message
    ) -> None:
        super().__init__(message)
        ErrorReason.Value(f"ERROR_REASON_{reason}")  # Raises for a reason that the contract does not list.
        self.code = code
        self.reason = reason
        self.message = message
        self.details = (error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata), *details)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Return the details as trailing metadata, in gRPC's richer error model."""
        packed = []
        for detail in self.details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


def invalid_fields(violations: Sequence[tuple[str, str]]) -> StatusError:
    """Return the status of a request with invalid fields, given as paths and descriptions. The first 20 are named."""
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
    """Return the status of a request whose bytes do not parse."""
    return StatusError(
        StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "the request is not a message of this method's request type"
    )


def request_timeout() -> StatusError:
    """Return the status of a request that did not arrive in time. The call has had no effect."""
    return StatusError(StatusCode.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT", "the request did not arrive in time; retry")


def too_large(field: str, *, limit: int, actual: int, unit: str = "bytes") -> StatusError:
    """Return the status of a request, or of one of its fields, that exceeds a limit."""
    return StatusError(
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_LARGE",
        f"{field or 'the request'} is larger than {limit} {unit}",
        {"field": field, "limit": str(limit), "actual": str(actual)},
    )


def overloaded() -> StatusError:
    """Return the status of a call rejected for lack of room. The call has had no effect."""
    return StatusError(
        StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "the sidecar is overloaded; retry later", None, _retry_info()
    )


def refused(refusal: Refused) -> StatusError:
    """Return the status of a refusal by the store. A refusal that is not in the table is logged, and is INTERNAL."""
    status = _REFUSALS.get(refusal.name)
    if status is None:
        error_id = secrets.token_hex(4)
        log.error("error %s: the store's refusal %s has no status", error_id, refusal.name)
        return internal(error_id)
    code, reason, message = status
    return StatusError(code, reason, message, refusal.details)


# Status code, reason and message, by the name of the refusal in the scripts.
_REFUSALS = {
    "VERSION_MISMATCH": (
        StatusCode.ABORTED,
        "VERSION_MISMATCH",
        "the session does not have the expected version; read it again",
    ),
    "TURN_COUNT_MISMATCH": (
        StatusCode.ABORTED,
        "TURN_COUNT_MISMATCH",
        "the transcript does not have the expected length; read it again",
    ),
    "RUN_WROTE_OTHER_NOTES": (
        StatusCode.ALREADY_EXISTS,
        "RUN_ALREADY_WRITTEN",
        "this run has already written other notes",
    ),
    "RUN_ALREADY_WRITTEN": (
        StatusCode.FAILED_PRECONDITION,
        "RUN_ALREADY_WRITTEN",
        "this run has already written notes",
    ),
    "RUN_ALREADY_FAILED": (
        StatusCode.FAILED_PRECONDITION,
        "RUN_ALREADY_FAILED",
        "this run has already ended with FailRun",
    ),
    "RUN_NOT_FOUND": (StatusCode.NOT_FOUND, "RUN_NOT_FOUND", "the observer has no run with this id"),
    "TURNS_ALREADY_APPENDED": (
        StatusCode.ALREADY_EXISTS,
        "TURNS_ALREADY_APPENDED",
        "an earlier call with this append_id has appended other turns",
    ),
    "SESSION_DELETED": (
        StatusCode.FAILED_PRECONDITION,
        "SESSION_DELETED",
        "the session was deleted after this run or append; do not retry",
    ),
    "FIELDS_TOO_LARGE": (
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_LARGE",
        "the session's fields would exceed their total size limit; remove some",
    ),
    "RUNS_TOO_LARGE": (
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_LARGE",
        "the session's runs and notes would exceed their total size limit",
    ),
}
if difference := scripts.refusals() ^ _REFUSALS.keys():
    raise AssertionError(f"refusals without a status, or statuses without a refusal: {sorted(difference)}")


def store_unavailable() -> StatusError:
    """Return the status of a call whose store is unreachable, too slow, or temporarily unable to serve it."""
    return StatusError(
        StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is unavailable; retry later", None, _retry_info()
    )


def shutting_down() -> StatusError:
    """Return the status of a call that cannot finish before the sidecar stops."""
    return StatusError(
        StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the sidecar is shutting down; retry later", None, _retry_info()
    )


def _retry_info() -> error_details_pb2.RetryInfo:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(RETRY_DELAY)
    return retry


def unauthenticated() -> StatusError:
    """Return the status of a caller without credentials, or with unknown ones."""
    return StatusError(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "the call has no credentials, or unknown ones")


def permission_denied(method: str) -> StatusError:
    """Return the status of a caller whose role does not permit the method."""
    return StatusError(
        StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
        "the caller's role does not permit this method",
        {"method": method},
    )


def session_not_allowed() -> StatusError:
    """Return the status of a caller whose token is limited to other sessions. It is the same whether they exist."""
    return StatusError(
        StatusCode.PERMISSION_DENIED, "SESSION_NOT_ALLOWED", "the caller's token is limited to other sessions"
    )


def internal(error_id: str) -> StatusError:
    """Return the status of a bug. The log describes the bug under the same id."""
    return StatusError(
        StatusCode.INTERNAL,
        "INTERNAL",
        f"internal error {error_id}; see the sidecar's log under this id",
        {"error_id": error_id},
    )


def bug(error: Exception, place: str) -> StatusError:
    """Log an unexpected exception in a place, such as a method, and return the status that refers to the log.

    Neither the exception's text nor the values in its frames are logged, because both may contain user data.
    """
    error_id = secrets.token_hex(4)
    frames = "".join(traceback.format_tb(error.__traceback__))
    fields = {"method": place, "error_id": error_id}
    log.error("error %s in %s: %s\n%s", error_id, place, type(error).__qualname__, frames, extra=fields)
    return internal(error_id)
