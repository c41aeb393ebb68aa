"""The exceptions of the clients. Callers never need to import grpc.

SessionNotesError
├── InvalidArgument          (also a ValueError) an argument is invalid; `violations` names the fields
├── TooLarge                 the request exceeds a limit of the sidecar; `limit`, `actual`
├── Unavailable              no response: sidecar or store down or stopping, or this client was closed during the call
│   ├── DeadlineExceeded     no response within the timeout
│   └── Overloaded           the sidecar is overloaded; the call had no effect
├── Unauthenticated          the sidecar does not know the caller
├── PermissionDenied         the caller's role does not permit the call
│   └── SessionNotAllowed    the caller's token is for other sessions
├── Conflict                 another writer was faster
│   ├── VersionMismatch      the session has another version; `actual`
│   └── TurnCountMismatch    the transcript has another length; `actual`
├── TurnsAlreadyAppended     the append id has appended other turns
├── RunNotFound              the run does not exist
├── RunAlreadyWritten        the run has already written its notes
├── RunAlreadyFailed         the run has already ended without notes
├── RunInFlight              `only_if_idle` was set and another run is in flight; `run`
├── SessionDeleted           the session was deleted during the run, or after the append
├── ServerError              a bug in the sidecar, or a server that is not a sidecar
└── UsageError               (also a RuntimeError) a closed or unopened client, a run ended twice
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from session_notes._results import Run

    M = TypeVar("M", bound=Message)

_DETAILS_KEY = "grpc-status-details-bin"

# Path of a field as the sidecar reports it. It never contains a key that a caller chose.
_FIELD_PATH = r"[a-z_]{1,40}(\[\d{1,6}\])?(\.[a-z_]{1,40}(\[\d{1,6}\])?){0,8}"


class FieldViolation(NamedTuple):
    """An invalid field: its path from the request's root, and what is wrong with it."""

    field: str
    description: str


class SessionNotesError(Exception):
    """Base class of all exceptions of this package.

    Attributes:
        reason: The name of the contract's `ErrorReason` without its prefix, such as `STORE_UNAVAILABLE`. May be empty.
        metadata: Details of the reason, such as `{"expected": "4", "actual": "6"}`.
        retry_after: Time that the sidecar asks callers to wait before the next call. None: not specified.
    """

    # The part of the message that is safe to log: text of this package only, no user data.
    _for_logs = ""

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_after = retry_after

    @staticmethod
    def from_rpc_error(error: grpc.RpcError) -> SessionNotesError:
        """Translate an error that a gRPC stub raised."""
        return translate(error)

    def _number(self, name: str) -> int | None:
        text = self.metadata.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None


class InvalidArgument(SessionNotesError, ValueError):
    """An argument is invalid. Correct the call.

    Attributes:
        violations: Up to 20 invalid fields, as reported by the sidecar. Empty if the client rejected the argument
            before sending: the message then names the argument and the type or range it must have.
    """

    violations: tuple[FieldViolation, ...] = ()


class TooLarge(SessionNotesError):
    """The request exceeds a limit of the sidecar: in bytes, or in entries for a batch. Send less."""

    @property
    def limit(self) -> int | None:
        """The limit. None: the sidecar did not report it."""
        return self._number("limit")

    @property
    def actual(self) -> int | None:
        """The size of the request. None: the sidecar did not report it."""
        return self._number("actual")


class Unavailable(SessionNotesError):
    """No response. Continue without the notes; the outcome of a write is unknown."""


class DeadlineExceeded(Unavailable):
    """No response within the timeout."""


class Overloaded(Unavailable):
    """The sidecar is overloaded. The call had no effect, so it is always safe to retry."""


class Unauthenticated(SessionNotesError):
    """The sidecar does not know the caller. Check its token or certificate."""


class PermissionDenied(SessionNotesError):
    """The caller's role does not permit the call."""


class SessionNotAllowed(PermissionDenied):
    """The caller's token is limited to other sessions. Raised whether the session exists or not."""


class Conflict(SessionNotesError):
    """Another writer was faster. Read again, then decide again."""


class VersionMismatch(Conflict):
    """The session's version is not `expected_version`. Nothing was changed."""

    @property
    def actual(self) -> int | None:
        """The session's version."""
        return self._number("actual")


class TurnCountMismatch(Conflict):
    """The transcript's length is not `expected_turn_count`. On a retry, the first attempt may have succeeded."""

    @property
    def actual(self) -> int | None:
        """The transcript's length."""
        return self._number("actual")


class TurnsAlreadyAppended(SessionNotesError):
    """An earlier append with the same `append_id` has stored other turns. Nothing was appended."""


class RunNotFound(SessionNotesError):
    """The run does not exist."""


class RunAlreadyWritten(SessionNotesError):
    """The run has already written its notes. It can neither write other notes nor fail."""


class RunAlreadyFailed(SessionNotesError):
    """The run has already ended without notes. It cannot write any."""


class RunInFlight(SessionNotesError):
    """`only_if_idle` was set, and another run of this observer is in flight for the session.

    Attributes:
        run: The other run.
    """

    run: Run


class SessionDeleted(SessionNotesError):
    """The session was deleted during the run, or after an append with the same id.

    Discard the work, because the user's data must stay deleted.
    """


class ServerError(SessionNotesError):
    """A bug in the sidecar, or a server that is not a sidecar. For a bug, the message contains an id from the log."""

    _unimplemented = False


class UsageError(SessionNotesError, RuntimeError):
    """The client is closed, not open, or belongs to another event loop; or the run has ended. Correct the program."""


_BY_REASON: Mapping[str, type[SessionNotesError]] = {
    "TOO_LARGE": TooLarge,
    "OVERLOADED": Overloaded,
    "SESSION_NOT_ALLOWED": SessionNotAllowed,
    "TURNS_ALREADY_APPENDED": TurnsAlreadyAppended,
    "RUN_ALREADY_WRITTEN": RunAlreadyWritten,
    "RUN_ALREADY_FAILED": RunAlreadyFailed,
    "RUN_NOT_FOUND": RunNotFound,
    "SESSION_DELETED": SessionDeleted,
    "VERSION_MISMATCH": VersionMismatch,
    "TURN_COUNT_MISMATCH": TurnCountMismatch,
}

# For errors of gRPC itself, and for reasons that this version of the client does not know.
_BY_CODE: Mapping[grpc.StatusCode, type[SessionNotesError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    # `close` cancelled the call. A cancelled task raises CancelledError instead.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.ABORTED: Conflict,
}


def invalid(argument: str, problem: str, keys: str = "") -> InvalidArgument:
    """Return the error for an argument that the client rejects before sending.

    Args:
        argument: Name and position of the argument or its part, such as `turns[2].text`.
        problem: What it must be, and its type if that is wrong. Never its value.
        keys: Path of mapping keys to the value. Logs omit these keys, because the caller chose them.
    """
    error = InvalidArgument(f"{argument}{keys} {problem}", reason="INVALID_FIELD")
    error._for_logs = f"{argument} {problem}"
    return error


def for_logs(error: BaseException) -> str:
    """Describe an error for the log by its class, and an invalid request also by the name of its invalid part.

    Other text is omitted, because it may contain what the user said.
    """
    safe = error._for_logs if isinstance(error, SessionNotesError) else ""
    if safe:
        pass
    elif isinstance(error, InvalidArgument):
        safe = ", ".join(v.field for v in error.violations if re.fullmatch(_FIELD_PATH, v.field))
    elif isinstance(error, TooLarge) and error.limit is not None and error.actual is not None:
        safe = f"{error.actual} of at most {error.limit}"
    elif type(error) is UsageError:  # Not a subclass that the application defines.
        safe = str(error)
    return f"{type(error).__name__}: {safe}" if safe else type(error).__name__


def translate(error: grpc.RpcError) -> SessionNotesError:
    """Translate an error of gRPC into an exception of this package."""
    from session_notes.status.v1 import status_pb2  # Takes a millisecond, and most processes never need it.

    details = _details(error)
    info = _find(details, status_pb2.ErrorInfo())
    retry = _find(details, status_pb2.RetryInfo())
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(error.code(), ServerError)
    message = error.details() or error.code().name
    translated = kind(
        message if kind is not ServerError else f"{error.code().name}: {message}",
        reason=info.reason,
        metadata=info.metadata,
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )
    if isinstance(translated, ServerError) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
        translated._unimplemented = True
        translated._for_logs = "the sidecar does not have this method; it may be older than this client"
    if isinstance(translated, InvalidArgument):
        bad_request = _find(details, status_pb2.BadRequest())
        translated.violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
        if translated.violations:
            translated.args = ("; ".join(f"{v.field} {v.description}" for v in translated.violations),)
    return translated


def _details(error: grpc.RpcError) -> Iterable[Any]:
    from google.protobuf.message import DecodeError

    from session_notes.status.v1 import status_pb2

    for key, content in cast(Iterable[tuple[str, Any]], error.trailing_metadata() or ()):
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(content).details
            except DecodeError:
                return ()
    return ()


def _find(details: Iterable[Any], into: M) -> M:
    # Not Any.Unpack: it compares full names, and those of status.proto differ from the originals on purpose.
    name = f"/google.rpc.{into.DESCRIPTOR.name}"
    for detail in details:
        if detail.type_url.endswith(name):
            into.ParseFromString(detail.value)
            break
    return into
