"""Clients of the session-notes sidecar.

The process that talks to the user:

    >>> from session_notes import PrimaryClient, Turn
    >>> with PrimaryClient() as primary:
    ...     primary.append_turns("session-1", [Turn("user", "Can we start in May?")])
    ...     primary.get_notes("session-1", unavailable_ok=True).as_tool_result()
    {'ready': False, 'reason': 'never_run'}

Its `TurnRecorder`, or `AsyncTurnRecorder`, stores what was said, over an outage too, and holds no conversation up.

The one that watches:

    >>> from session_notes import Notes, ObserverClient
    >>> with ObserverClient() as observer, observer.run("session-1") as run:
    ...     run.write(Notes(summary=f"{len(run.transcript)} turns so far"))

`AsyncPrimaryClient` and `AsyncObserverClient` are the same for asyncio. `BackgroundObserver` observes in a thread pool,
`AsyncBackgroundObserver` in tasks. Whatever goes wrong is a `SessionNotesError`; the tree stands at the top of
`session_notes/_errors.py`.
"""

from session_notes._async_background import AsyncBackgroundObserver
from session_notes._async_observer import AsyncObserverClient
from session_notes._async_primary import AsyncPrimaryClient
from session_notes._background import BackgroundObserver
from session_notes._channel import Endpoint
from session_notes._credentials import TLS, TokenFile
from session_notes._environment import unknown_variables
from session_notes._errors import (
    Conflict,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    RunAlreadyFailed,
    RunAlreadyWritten,
    RunInFlight,
    RunNotFound,
    ServerError,
    SessionDeleted,
    SessionNotesError,
    TooLarge,
    TurnCountMismatch,
    Unauthenticated,
    Unavailable,
    UsageError,
    VersionMismatch,
)
from session_notes._observer import DEFAULT_RUN_TIMEOUT, ObserverClient
from session_notes._primary import DEFAULT_NOTES_TIMEOUT, DEFAULT_STATE_TIMEOUT, PrimaryClient
from session_notes._raw import AsyncRawClient, RawClient
from session_notes._recorder import AsyncTurnRecorder, TurnRecorder
from session_notes._runs import ActiveRun, AsyncActiveRun
from session_notes._targets import DEFAULT_TARGET
from session_notes._types import (
    BeginResult,
    Issue,
    Notes,
    Readiness,
    Reading,
    Run,
    RunState,
    Session,
    SessionSummary,
    Severity,
    Turn,
    UpdateResult,
    WriteOutcome,
    WriteResult,
)

__all__ = [
    "DEFAULT_NOTES_TIMEOUT",
    "DEFAULT_RUN_TIMEOUT",
    "DEFAULT_STATE_TIMEOUT",
    "DEFAULT_TARGET",
    "TLS",
    "ActiveRun",
    "AsyncActiveRun",
    "AsyncBackgroundObserver",
    "AsyncObserverClient",
    "AsyncPrimaryClient",
    "AsyncRawClient",
    "AsyncTurnRecorder",
    "BackgroundObserver",
    "BeginResult",
    "Conflict",
    "DeadlineExceeded",
    "Endpoint",
    "FieldViolation",
    "InvalidArgument",
    "Issue",
    "Notes",
    "ObserverClient",
    "Overloaded",
    "PermissionDenied",
    "PrimaryClient",
    "RawClient",
    "Readiness",
    "Reading",
    "Run",
    "RunAlreadyFailed",
    "RunAlreadyWritten",
    "RunInFlight",
    "RunNotFound",
    "RunState",
    "ServerError",
    "Session",
    "SessionDeleted",
    "SessionNotesError",
    "SessionSummary",
    "Severity",
    "TokenFile",
    "TooLarge",
    "Turn",
    "TurnCountMismatch",
    "TurnRecorder",
    "Unauthenticated",
    "Unavailable",
    "UpdateResult",
    "UsageError",
    "VersionMismatch",
    "WriteOutcome",
    "WriteResult",
    "unknown_variables",
]
