"""What can go wrong, so that callers never import grpc.

SessionNotesError
├── InvalidArgument          (a ValueError too) the request says something it must not; `violations` names the fields
├── TooLarge                 something sent is larger than the sidecar takes; `limit` and `actual`
├── Unavailable              no answer to be had: sidecar or store down, stopping, or this client closed meanwhile
│   ├── DeadlineExceeded     no answer in time
│   └── Overloaded           the sidecar has too much to do; it has done nothing about this call
├── Unauthenticated          the sidecar does not know this caller
├── PermissionDenied         it does, and the call is not for it
├── Conflict                 somebody else was faster
│   ├── VersionMismatch      the session is at another version; `actual`
│   └── TurnCountMismatch    the transcript has another length; `actual`
├── RunNotFound              no such run
├── RunAlreadyWritten        the run has written notes, or other ones
├── RunAlreadyFailed         the run has ended without notes
├── RunInFlight              asked for `only_if_idle`, and another run is at work; `run`
├── SessionDeleted           the session was deleted while the run was at work: give up
├── ServerError              anything else; of a bug in the sidecar the message has an id that its log has too
└── UsageError               (a RuntimeError too) a client closed or not opened, a run ended twice
"""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from session_notes._types import Run

    M = TypeVar("M", bound=Message)

_DETAILS_KEY = "grpc-status-details-bin"

# A field's path as the sidecar gives it; a key that a caller chose is no part of it.
_FIELD = re.compile(r"[a-z_]{1,40}(\[\d{1,6}\])?(\.[a-z_]{1,40}(\[\d{1,6}\])?){0,8}")


class FieldViolation(NamedTuple):
    """One field at fault: its path from the request's root, and what is wrong with it."""

    field: str
    description: str


class SessionNotesError(Exception):
    """Whatever a client of session-notes raises.

    Attributes:
        reason: A name of the contract's `ErrorReason` without its prefix (`STORE_UNAVAILABLE`), or empty.
        metadata: What comes with the reason (`{"expected": "4", "actual": "6"}`).
        retry_after: How long the sidecar asks to be left alone, where it says so.
    """

    # What a log may hold of the message: the part that is of this package's own words.
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
    def from_rpc_error(error: grpc.RpcError) -> "SessionNotesError":
        """Return the error of this tree for one that a gRPC stub raised."""
        return translate(error)

    def _number(self, name: str) -> int | None:
        text = self.metadata.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None


class InvalidArgument(SessionNotesError, ValueError):
    """The request says something it must not.

    Attributes:
        violations: The first 20 fields at fault, as the sidecar names them. Empty where this client refused to send the
            request: its message then names the argument, and the type it must have.
    """

    violations: tuple[FieldViolation, ...] = ()


class TooLarge(SessionNotesError):
    """Something sent is larger than the sidecar takes, in bytes, or in entries for a batch."""

    @property
    def limit(self) -> int | None:
        """The most the sidecar takes, where it says so."""
        return self._number("limit")

    @property
    def actual(self) -> int | None:
        """What was sent, where the sidecar says so."""
        return self._number("actual")


class Unavailable(SessionNotesError):
    """No answer to be had. For a read: go on without. For a write: the outcome is unknown."""


class DeadlineExceeded(Unavailable):
    """No answer within the call's deadline."""


class Overloaded(Unavailable):
    """The sidecar has too much to do. It has done nothing about this call: even a write can be tried again."""


class Unauthenticated(SessionNotesError):
    """The sidecar does not know this caller."""


class PermissionDenied(SessionNotesError):
    """The call is not for this caller."""


class Conflict(SessionNotesError):
    """Somebody else was faster. Read again, decide again."""


class VersionMismatch(Conflict):
    """The session is at another version than `expected_version`."""

    @property
    def actual(self) -> int | None:
        """The version it is at."""
        return self._number("actual")


class TurnCountMismatch(Conflict):
    """The transcript has another length than `expected_turn_count`. On a retry: the first try may have got through."""

    @property
    def actual(self) -> int | None:
        """The length it has."""
        return self._number("actual")


class RunNotFound(SessionNotesError):
    """There is no such run."""


class RunAlreadyWritten(SessionNotesError):
    """The run has written its notes: others cannot follow, and it cannot fail any more."""


class RunAlreadyFailed(SessionNotesError):
    """The run has ended without notes, and cannot write any."""


class RunInFlight(SessionNotesError):
    """`only_if_idle` was asked for, and another run of this observer is at work on the session.

    Attributes:
        run: The run at work.
    """

    run: "Run | None" = None


class SessionDeleted(SessionNotesError):
    """The session was deleted while the run was at work. Give up: the user's data is to stay deleted."""


class ServerError(SessionNotesError):
    """A bug in the sidecar (the message has an id that its log has too), or something that is no sidecar of ours."""


class UsageError(SessionNotesError, RuntimeError):
    """The client was used in a way that cannot work: closed or not yet opened, a run ended twice."""


_BY_REASON: Mapping[str, type[SessionNotesError]] = {
    "TOO_LARGE": TooLarge,
    "OVERLOADED": Overloaded,
    "RUN_ALREADY_WRITTEN": RunAlreadyWritten,
    "RUN_ALREADY_FAILED": RunAlreadyFailed,
    "RUN_NOT_FOUND": RunNotFound,
    "SESSION_DELETED": SessionDeleted,
    "VERSION_MISMATCH": VersionMismatch,
    "TURN_COUNT_MISMATCH": TurnCountMismatch,
}

# For a reason this client is too old to know, and for what comes from gRPC itself.
_BY_CODE: Mapping[grpc.StatusCode, type[SessionNotesError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    # The call was given up on this side, by close(); a task's own cancellation never comes here.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.ABORTED: Conflict,
}


def refusal(argument: str, problem: str, keys: str = "") -> InvalidArgument:
    """Return this client's own refusal of an argument.

    Args:
        argument: The argument, or the part of it, by its name and position alone: `turns[2].text`.
        problem: What it must be, and its type where that is wrong; never its value.
        keys: The path of mapping keys to the value at fault. The caller chose these keys, so logs leave them out.
    """
    error = InvalidArgument(f"{argument}{keys} {problem}", reason="INVALID_FIELD")
    error._for_logs = f"{argument} {problem}"
    return error


def for_logs(error: BaseException) -> str:
    """Return what a log may hold of an error: its class, and what is wrong with a request without any of its content.

    Other texts may come from anywhere on the way, and quote what the user said.
    """
    own = error._for_logs if isinstance(error, SessionNotesError) else ""
    if own:
        pass
    elif isinstance(error, InvalidArgument):
        own = ", ".join(v.field for v in error.violations if _FIELD.fullmatch(v.field))
    elif isinstance(error, TooLarge) and error.limit is not None and error.actual is not None:
        own = f"{error.actual} of at most {error.limit}"
    elif type(error) is UsageError:  # Not one of the application's own.
        own = str(error)
    return f"{type(error).__name__}: {own}" if own else type(error).__name__


def translate(error: grpc.RpcError) -> SessionNotesError:
    """The error of ours that says what gRPC's says."""
    from session_notes.status.v1 import status_pb2  # costs a millisecond, and most processes never need it

    details = _details(error)
    info = _find(details, status_pb2.ErrorInfo())
    retry = _find(details, status_pb2.RetryInfo())
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(error.code(), ServerError)
    message = error.details() or error.code().name
    made = kind(
        message if kind is not ServerError else f"{error.code().name}: {message}",
        reason=info.reason,
        metadata=info.metadata,
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )
    if isinstance(made, InvalidArgument):
        bad_request = _find(details, status_pb2.BadRequest())
        made.violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
        if made.violations:
            made.args = ("; ".join(f"{v.field} {v.description}" for v in made.violations),)
    return made


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


def _find(details: Iterable[Any], into: "M") -> "M":
    # Any.Unpack would compare full names, and ours differ from the originals on purpose: see status.proto.
    name = f"/google.rpc.{into.DESCRIPTOR.name}"
    for detail in details:
        if detail.type_url.endswith(name):
            into.ParseFromString(detail.value)
            break
    return into
